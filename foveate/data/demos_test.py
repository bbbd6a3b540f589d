import json

import numpy as np
import pytest

from foveate.data.demos import DemoDataset, DemoEpisode, episode_path, finished_episodes, write_episode, write_meta
from foveate.errors import FoveateError


def make(length: int, task: str = "push") -> DemoEpisode:
    rng = np.random.default_rng(length)
    frames = np.arange(0, length, 2)
    images = {v: rng.integers(0, 256, (len(frames), 6, 8, 3), dtype=np.uint8) for v in ("corner", "gripperPOV")}
    states, actions = rng.normal(size=(2, length, 4)).astype(np.float32)
    return DemoEpisode(f"{task} it", f"{task}-v3", 7, length - 1, states, actions, images, frames)


@pytest.fixture
def root(tmp_path):
    for i, length in enumerate((5, 8)):
        write_episode(tmp_path, i, make(length), task_index=0, fps=80.0)
    write_meta(tmp_path, ["push it"], 80.0, 2, {"complete": True})
    return tmp_path


def test_round_trip_is_exact(root):
    data = DemoDataset.load(root)
    assert len(data) == 2
    assert data.views == ("corner", "gripperPOV")
    assert data.fps == 80.0
    for got, length in zip(data.episodes, (5, 8), strict=True):
        want = make(length)
        for name in ("task", "env_task", "seed", "success_step"):
            assert getattr(got, name) == getattr(want, name)
        for name in ("states", "actions", "frames"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for view in want.images:
            np.testing.assert_array_equal(got.images[view], want.images[view])


def test_layout_is_lerobots(root):
    import pyarrow.parquet as pq

    info = json.loads((root / "meta/info.json").read_text())
    assert info["total_episodes"] == 2
    assert info["total_frames"] == 13
    assert info["features"]["observation.images.corner"] == {"dtype": "image", "shape": [6, 8, 3]}
    assert info["features"]["action"] == {"dtype": "float32", "shape": [4]}
    table = pq.read_table(root / "data/chunk-000/episode_000001.parquet")
    assert set(info["features"]) == set(table.column_names)
    rows = table["observation.images.corner"].to_pylist()
    assert [row is not None for row in rows] == [True, False] * 4
    assert rows[0]["bytes"].startswith(b"\x89PNG")
    np.testing.assert_allclose(table["timestamp"].to_numpy(), np.arange(8) / 80, rtol=1e-6)
    assert (root / "meta/tasks.jsonl").read_text() == '{"task_index": 0, "task": "push it"}\n'
    assert [json.loads(x)["length"] for x in (root / "meta/episodes.jsonl").read_text().splitlines()] == [5, 8]


def test_half_written_episode_does_not_count(root):
    episode_path(root, 2).with_name(".episode_000002.parquet.123.draft").write_bytes(b"PAR1")
    assert sorted(finished_episodes(root)) == [0, 1]


def test_several_folders_and_progress(root):
    seen = []
    assert len(DemoDataset.load(root, root, progress=lambda *n: seen.append(n))) == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_errors_name_the_file(root, tmp_path):
    with pytest.raises(FoveateError, match=r"nowhere: no such folder"):
        DemoDataset.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoveateError, match=r"empty: no demonstrations .*metaworld-demos"):
        DemoDataset.load(tmp_path / "empty")
    path = episode_path(root, 0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FoveateError, match="episode_000000"):
        DemoDataset.load(root)
