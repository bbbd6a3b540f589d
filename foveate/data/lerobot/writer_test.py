"""The writer: what is written comes back, an interrupted set goes on, and what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.video import frame_table
from foveate.data.lerobot.writer import LeRobotWriter
from foveate.errors import FoveateError
from foveate.testing.lerobot import CAMERAS, LENGTHS, TASKS, features_of, pictures_of, rows_of, seen_in, write_set


def add(writer: LeRobotWriter, episode: int) -> None:
    length = LENGTHS[episode]
    pictures = {name: pictures_of(episode, name, length) for name in CAMERAS}
    writer.add(rows_of(episode, length), pictures, TASKS[episode % 2])


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"
    }


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_tasks_and_statistics_come_back(tmp_path: Path, version: str) -> None:
    dataset = LeRobotDataset(write_set(tmp_path / "set", version, "image"))
    rows = [rows_of(episode, length) for episode, length in enumerate(LENGTHS)]
    for name in ("action", "observation.state"):
        values = np.concatenate([row[name] for row in rows])
        np.testing.assert_array_equal(dataset.column(name), values)
        for statistic in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(dataset.stats[name][statistic], getattr(values, statistic)(0), rtol=1e-5)
    assert dataset.stats["action"]["q01"].shape == (3,) and dataset.stats["action"]["count"] == [sum(LENGTHS)]
    assert dataset.stats[CAMERAS[0]]["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(dataset.column("timestamp")[:11], np.arange(11) / 20, rtol=1e-6)
    np.testing.assert_array_equal(dataset.column("index"), np.arange(sum(LENGTHS)))
    assert dataset.tasks == dict(enumerate(TASKS))


def test_v30_joins_episodes_up_to_the_limit(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    (video,) = (root / "videos" / CAMERAS[0]).rglob("*.mp4")
    table = frame_table(video)
    np.testing.assert_allclose(table.times, np.arange(sum(LENGTHS)) / 20, atol=1e-9)
    assert {0, 11, 34} <= set(table.keyframes.tolist())  # every episode begins with a keyframe
    (data,) = (root / "data").rglob("*.parquet")
    assert pq.ParquetFile(data).metadata.num_row_groups == 3
    small = write_set(tmp_path / "small", video_mb=1e-6)
    assert len(list((small / "videos" / CAMERAS[0]).rglob("*.mp4"))) == 3
    assert not (small / ".parts").exists()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("fps", [20, 29.97])
def test_an_interrupted_set_goes_on_and_is_the_same(tmp_path: Path, version: str, fps: float) -> None:
    """Broken off in the middle of an episode, and between two."""
    root, limits = tmp_path / "broken", {"video_mb": 1e-6}
    whole = write_set(tmp_path / "whole", version, fps=fps, **limits)

    def broken_off():
        yield from pictures_of(1, CAMERAS[0], 5)
        raise KeyboardInterrupt

    with LeRobotWriter(root, version, fps, features_of(), robot_type="test", **limits) as writer:
        add(writer, 0)
        pictures = {CAMERAS[0]: broken_off(), CAMERAS[1]: pictures_of(1, CAMERAS[1], LENGTHS[1])}
        with pytest.raises(KeyboardInterrupt):
            writer.add(rows_of(1, LENGTHS[1]), pictures, TASKS[1])
    with pytest.raises(FoveateError, match="no LeRobot data set"):
        LeRobotDataset(root)
    for _ in range(2):
        with LeRobotWriter(root, version, fps, features_of(), robot_type="test", **limits) as writer:
            assert not writer.complete
            add(writer, writer.done)
            if writer.done == len(LENGTHS):
                writer.finish()
    assert files_of(root) == files_of(whole)


@pytest.mark.parametrize("lost", ["part", "line"])
def test_a_kill_between_the_steps_of_v21(tmp_path: Path, lost: str) -> None:
    """An episode's files are in place and its line is not, or its folder is still there."""
    root = tmp_path / "set"
    with LeRobotWriter(root, "v2.1", 20, features_of()) as writer:
        add(writer, 0)
        kept = tmp_path / "parts"
        place = writer._place

        def killed(folder: Path, line: dict) -> None:
            shutil.copytree(folder, kept / folder.name)
            place(folder, line)

        writer._place = killed
        add(writer, 1)
    shutil.copytree(kept, root / ".parts", dirs_exist_ok=True)
    if lost == "line":
        lines = root / "meta" / "episodes.jsonl"
        lines.write_text(lines.read_text().splitlines(keepends=True)[0])
    with LeRobotWriter(root, "v2.1", 20, features_of()) as writer:
        assert writer.done == 2
        writer.finish()
    dataset = LeRobotDataset(root)
    assert len(dataset) == 34 and seen_in(dataset.picture(CAMERAS[1], 33)) == (1, 1, 22)
    assert len((root / "meta" / "episodes_stats.jsonl").read_text().splitlines()) == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "a", "v3.0", 20, features_of(), source="one") as writer:
        add(writer, 0)
        with pytest.raises(FoveateError, match="process"):
            LeRobotWriter(tmp_path / "a", "v3.0", 20, features_of(), source="one")
    with pytest.raises(FoveateError, match="other source"):
        LeRobotWriter(tmp_path / "a", "v3.0", 20, features_of(), source="two")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(FoveateError, match="is not empty"):
        LeRobotWriter(tmp_path / "b", "v3.0", 20, features_of())
    with (
        LeRobotWriter(tmp_path / "c", "v3.0", 20, features_of()) as writer,
        pytest.raises(FoveateError, match="no epi"),
    ):
        writer.finish()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    odd = {"cam": Feature("cam", "video", (5, 4, 3))}
    with pytest.raises(FoveateError, match=r"'cam'.*even height and width, got 5 x 4"):
        LeRobotWriter(tmp_path / "odd", "v3.0", 20, odd)
    with LeRobotWriter(tmp_path / "set", "v3.0", 20, features_of("image")) as writer:
        pictures = {name: pictures_of(0, name, 4) for name in CAMERAS}
        rows = rows_of(0, 4)
        with pytest.raises(FoveateError, match=r"'action': shape \[4, 2\], expected \[4, 3\]"):
            writer.add({**rows, "action": rows["action"][:, :2]}, pictures, "do it")
        with pytest.raises(FoveateError, match=r"episode 0, frame 2, column action\[1\]: nan"):
            writer.add({**rows, "action": np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 1)}, pictures, "do it")
        with pytest.raises(FoveateError, match=r"wrist.*3 pictures, and 4 rows"):
            writer.add(rows, {**pictures, CAMERAS[1]: pictures[CAMERAS[1]][:3]}, "do it")
        with pytest.raises(FoveateError, match=r"'observation\.state' is missing"):
            writer.add({"action": rows["action"]}, pictures, "do it")
        writer.add(rows, pictures, ["first", "first", "then", "then"])
        writer.finish()
    dataset = LeRobotDataset(tmp_path / "set")
    assert [dataset.task(row) for row in range(4)] == ["first", "first", "then", "then"]
    assert json.loads((tmp_path / "set" / "meta" / "info.json").read_text())["total_tasks"] == 2
