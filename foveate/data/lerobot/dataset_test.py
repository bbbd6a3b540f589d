"""The reader against sets of the real lerobot package, and against the mistakes that readers of this format make."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foveate.data.lerobot import hub
from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.video import VideoFile, frame_table
from foveate.errors import FoveateError
from foveate.testing.golden import golden_dir
from foveate.testing.lerobot import CAMERAS, LENGTHS, SIZES, TASKS, cells_of, picture_of, rows_of, seen_in, write_set

FRONT, WRIST = CAMERAS
GOLDEN_SETS = ("v30_video", "v21_video")


@pytest.fixture(params=GOLDEN_SETS)
def golden(request: pytest.FixtureRequest):
    root = golden_dir("lerobot", f"{request.param}.truth.json") / request.param
    truth = json.loads(root.with_name(f"{root.name}.truth.json").read_text())
    return root, truth, np.load(root.with_name(f"{root.name}.truth.npz"))


@pytest.fixture(scope="module")
def v30(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "v30")


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "v21", "v2.1")


def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def change_table(path: Path, change) -> None:
    """Rewrite a parquet file by a function of its columns (name -> list)."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table({k: pa.array(v, table[k].type) for k, v in columns.items()}), path)


def check_pictures(dataset: LeRobotDataset) -> None:
    """Every picture of every row is its own."""
    for number, camera in enumerate(CAMERAS):
        for row, picture in dataset.pictures(camera, range(len(dataset))):
            place = dataset.episode_of[row]
            frame = row - dataset.starts[place]
            assert seen_in(picture) == (dataset.episodes[place].index, number, frame)


def test_golden_rows_and_windows(golden) -> None:
    root, truth, arrays = golden
    dataset = LeRobotDataset(root)
    for column in ("episode_index", "frame_index", "index", "task_index", "timestamp"):
        np.testing.assert_array_equal(dataset.column(column), arrays[column])
    np.testing.assert_array_equal(dataset.column("action"), arrays["action"])
    np.testing.assert_array_equal(dataset.column("observation.state"), arrays["state"])
    rows = range(len(dataset))
    wanted = {"chunk_action": ("action", range(16)), "history_state": ("observation.state", (-2, -1, 0))}
    for key, (name, offsets) in wanted.items():
        values, is_pad = dataset.windows(name, rows, offsets)
        np.testing.assert_array_equal(values, arrays[key])
        np.testing.assert_array_equal(is_pad, arrays[f"{key}_is_pad"])
    for episode in truth["episodes"]:
        for first, stop, text in episode["task_runs"]:
            start = episode["index_from"]
            assert {dataset.task(row) for row in range(start + first, start + stop)} == {text}


def test_golden_pictures(golden) -> None:
    root, truth, arrays = golden
    dataset = LeRobotDataset(root)
    backend = "pyav" if f"picture_pyav/{truth['cameras'][0]}" in arrays else "image"
    for camera in truth["cameras"]:
        for row, picture in dataset.pictures(camera, range(len(dataset))):
            assert seen_in(picture) == tuple(arrays[f"seen/{camera}"][row])
            np.testing.assert_allclose(cells_of(picture), arrays[f"cells/{camera}"][row], atol=0.51)
        for row, picture in zip(arrays["picture_index"], arrays[f"picture_{backend}/{camera}"], strict=True):
            np.testing.assert_array_equal(dataset.picture(camera, int(row)), picture)
    camera = truth["history_camera"]
    for row in (0, 1, len(dataset) - 1):
        item = dataset.item(row, {camera: (-1, 0)})
        assert [seen_in(picture) for picture in item[camera]] == [
            tuple(x) for x in arrays[f"history_seen/{camera}"][row]
        ]
        np.testing.assert_array_equal(item[f"{camera}_is_pad"], arrays[f"history_seen_is_pad/{camera}"][row])


def test_golden_stats_and_some_episodes(golden) -> None:
    root, truth, _ = golden
    dataset = LeRobotDataset(root)
    for feature, group in truth["stats"].items():
        for name, value in group.items():
            np.testing.assert_allclose(dataset.stats[feature][name], value, rtol=1e-5, atol=1e-6)
    some = truth["subset"]
    dataset = LeRobotDataset(root, some["episodes"])
    assert len(dataset) == some["length"]
    assert dataset.column("index")[[0, -1]].tolist() == [some["index_of_first"], some["index_of_last"]]
    for row, key in ((0, "seen_in_first"), (len(dataset) - 1, "seen_in_last")):
        assert list(seen_in(dataset.picture(truth["cameras"][some[key][1]], row))) == some[key]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_every_row_has_its_own_picture(tmp_path: Path, version: str, kind: str) -> None:
    dataset = LeRobotDataset(write_set(tmp_path / "set", version, kind))
    assert len(dataset) == sum(LENGTHS) and [dataset.task(row) for row in (0, 11, 34)] == [TASKS[0], TASKS[1], TASKS[0]]
    check_pictures(dataset)


def test_the_cameras_files_are_not_the_datas_files(tmp_path: Path) -> None:
    """Three video files where the rows lie in other files: an index of one used for the other shows wrong episodes."""
    root = write_set(tmp_path / "set", video_mb=1e-6)
    (path,) = {p for p in (root / "meta" / "episodes").rglob("file-000.parquet")}
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    assert len(files) == 3
    rows = pa.concat_tables(pq.read_table(root / "data" / "chunk-000" / f"file-00{i}.parquet") for i in range(3))
    pq.write_table(rows, root / "data" / "chunk-000" / "file-000.parquet")
    for i, file in enumerate(files):
        change_table(file, lambda c: c.update({"data/file_index": [0]}))
        if i:
            (root / "data" / "chunk-000" / f"file-00{i}.parquet").unlink()
    assert path in files
    check_pictures(LeRobotDataset(root))


def test_a_set_of_several_episodes_in_one_video(v30: Path) -> None:
    dataset = LeRobotDataset(v30)
    assert {episode.clips[FRONT].file for episode in dataset.episodes} == {
        "videos/observation.images.front/chunk-000/file-000.mp4"
    }
    starts = [episode.clips[FRONT].start for episode in dataset.episodes]
    np.testing.assert_allclose(starts, np.cumsum([0, *LENGTHS[:-1]]) / 20)
    check_pictures(dataset)
    last = len(dataset) - 1
    assert seen_in(dataset.picture(WRIST, last)) == (2, 1, LENGTHS[2] - 1)  # the last frame of all


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_chosen_episodes_keep_their_own_chunks(version: str, request: pytest.FixtureRequest) -> None:
    """Windows neither run into a neighbour nor into the place that a row has in the whole set."""
    dataset = LeRobotDataset(request.getfixturevalue(version), episodes=[2, 1])
    assert [episode.index for episode in dataset.episodes] == [1, 2] and len(dataset) == 31
    check_pictures(dataset)
    values, is_pad = dataset.windows("action", [0, 21, 23], [0, 1, 2])
    assert values[..., 0].tolist() == [[100, 101, 102], [121, 122, 122], [200, 201, 202]]
    assert is_pad.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    values, is_pad = dataset.windows("action", [23], [-1, 0])
    assert values[..., 0].tolist() == [[200, 200]] and is_pad.tolist() == [[True, False]]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_hardware_clocks(tmp_path: Path, version: str) -> None:
    """Seconds since 1970, and a camera whose frames come 2 ms early or late: rows go with frames one by one."""
    rng = np.random.default_rng(0)
    clocks = [1e6 + np.arange(n) / 20 + rng.uniform(-0.002, 0.002, n) for n in LENGTHS]
    clocks[1] = np.arange(LENGTHS[1]) / 20 + rng.uniform(-0.012, 0.012, LENGTHS[1])
    dataset = LeRobotDataset(write_set(tmp_path / "set", version, timestamps=clocks))
    check_pictures(dataset)
    np.testing.assert_allclose(dataset.column("timestamp")[11:34], clocks[1], rtol=1e-6)


def write_video(path: Path, times: np.ndarray, episode: int, frames: np.ndarray) -> None:
    """A video of frames at these times (s), with B-frames and a keyframe every 8."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width = SIZES[FRONT]
        stream.pix_fmt, stream.options = "yuv420p", {"g": "8", "bf": "2"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, number in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture_of(episode, 0, int(number), SIZES[FRONT]), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_variable_frame_rates_and_b_frames(v21: Path, tmp_path: Path) -> None:
    """Times that no constant rate gives: the frame is found by its time, whatever its number."""
    root, n = copy(v21, tmp_path), LENGTHS[1]
    times = np.cumsum(np.random.default_rng(1).integers(20, 90, n)) / 1000
    times -= times[0]
    # Every third frame is in the video twice; the rows do not want the second one.
    double = np.arange(0, n, 3)
    shown = np.sort(np.concatenate([times, times[double] + 0.01]))
    numbers = [int(np.flatnonzero(times == t)[0]) if t in times else 127 for t in shown]
    write_video(root / "videos" / "chunk-000" / FRONT / "episode_000001.mp4", shown, 1, np.array(numbers))
    data = root / "data" / "chunk-000" / "episode_000001.parquet"
    change_table(data, lambda c: c.update(timestamp=times.tolist()))
    dataset = LeRobotDataset(root, [1])
    for row, picture in dataset.pictures(FRONT, range(n)):
        assert seen_in(picture) == (1, 0, row)
    # In any order, one by one:
    for row in np.random.default_rng(0).permutation(n)[:8]:
        assert seen_in(dataset.picture(FRONT, int(row))) == (1, 0, row)


def test_a_summed_start_is_rounded_to_its_frame(v30: Path, tmp_path: Path) -> None:
    root = copy(v30, tmp_path)
    (path,) = (root / "meta" / "episodes").rglob("*.parquet")

    def blur(columns: dict) -> None:
        for end in ("from", "to"):
            key = f"videos/{FRONT}/{end}_timestamp"
            columns[key] = [value - 3e-9 for value in columns[key]]

    change_table(path, blur)
    check_pictures(LeRobotDataset(root))


def test_seeks_are_saved_in_time_order(v30: Path) -> None:
    """Keyframes are two frames apart: reading on needs no seek, a frame far ahead costs one and two decoded frames."""
    path = v30 / "videos" / FRONT / "chunk-000" / "file-000.mp4"
    assert frame_table(path).keyframe_before(13) in (12, 13)
    with VideoFile(path) as video:
        assert len(list(video.frames(range(10)))) == 10 and (video.seeks, video.decoded) == (1, 10)
        assert [seen_in(p) for _, p in video.frames([40, 12])] == [(1, 0, 1), (2, 0, 6)]
        assert video.seeks <= 3 and video.decoded <= 14


@pytest.mark.parametrize("name", ["task", "__index_level_0__"])
def test_tasks_of_older_sets(v30: Path, tmp_path: Path, name: str) -> None:
    root = copy(v30, tmp_path)
    pq.write_table(pa.table({"task_index": [0, 1], name: list(TASKS)}), root / "meta" / "tasks.parquet")
    assert LeRobotDataset(root).task(11) == TASKS[1]


def test_the_rows_task_counts_not_the_episodes_list(v30: Path, tmp_path: Path) -> None:
    root = copy(v30, tmp_path)
    change_table(
        root / "data" / "chunk-000" / "file-000.parquet",
        lambda c: c.update(task_index=[0] * 5 + [1] * (len(c["index"]) - 5)),
    )
    dataset = LeRobotDataset(root)
    assert (dataset.task(4), dataset.task(5)) == TASKS


def test_v20_brings_one_file_of_statistics(v21: Path, tmp_path: Path) -> None:
    root = copy(v21, tmp_path)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v2.0"}))
    (root / "meta" / "episodes_stats.jsonl").unlink()
    with pytest.raises(FoveateError, match=r"stats\.json: no statistics; `foveate norm-stats"):
        _ = LeRobotDataset(root).stats
    (root / "meta" / "stats.json").write_text(json.dumps({"action": {"mean": [1, 2, 3]}}))
    assert LeRobotDataset(root).stats["action"]["mean"].tolist() == [1, 2, 3]
    check_pictures(LeRobotDataset(root))


def test_pictures_beside_the_parquet_file(tmp_path: Path) -> None:
    """Bytes that are null: `path` names a file of the set."""
    root = write_set(tmp_path / "set", "v2.1", "image", lengths=(3,))
    data = root / "data" / "chunk-000" / "episode_000000.parquet"

    def move_out(columns: dict) -> None:
        for i, cell in enumerate(columns[FRONT]):
            (root / f"{i}.png").write_bytes(cell["bytes"])
            columns[FRONT][i] = {"bytes": None, "path": f"{i}.png"}

    change_table(data, move_out)
    check_pictures(LeRobotDataset(root))


def test_openpis_names_and_flat_rows(tmp_path: Path) -> None:
    """openpi's LIBERO script calls its features `image`, `state` and `actions`; lists of rows need no fixed length."""
    root = write_set(tmp_path / "set", "v2.1", "image", lengths=(4,))
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text().replace("observation.images.front", "image"))
    info["features"]["actions"] = info["features"].pop("action")
    path.write_text(json.dumps(info))
    data = root / "data" / "chunk-000" / "episode_000000.parquet"
    table = pq.read_table(data).rename_columns({FRONT: "image", "action": "actions"})
    lists = table["actions"].cast(pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index("actions"), "actions", lists), data)
    dataset = LeRobotDataset(root)
    np.testing.assert_array_equal(dataset.column("actions"), rows_of(0, 4)["action"])
    assert seen_in(dataset.picture("image", 2)) == (0, 0, 2)


@pytest.mark.parametrize(
    ("version", "message"),
    [("v4.0", "v4.0.*newer lerobot"), ("v1.6", "v1.6.*convert it"), (None, "codebase_version is None")],
)
def test_other_versions_are_named(v30: Path, tmp_path: Path, version: str | None, message: str) -> None:
    root = copy(v30, tmp_path)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": version}))
    with pytest.raises(FoveateError, match=message):
        LeRobotDataset(root)


@pytest.mark.parametrize("drop", [[22], [9]], ids=["end", "middle"])
def test_a_video_that_is_too_short_names_episode_and_frame(v21: Path, tmp_path: Path, drop: list[int]) -> None:
    root = copy(v21, tmp_path)
    numbers = np.delete(np.arange(LENGTHS[1]), drop)
    write_video(root / "videos" / "chunk-000" / FRONT / "episode_000001.mp4", numbers / 20, 1, numbers)
    dataset = LeRobotDataset(root)
    with pytest.raises(FoveateError, match=rf"episode 1, camera '{FRONT}': .*23 rows.* 22 frames: frame {drop[0]} is"):
        dataset.picture(FRONT, 20)
    check = dataset.picture(WRIST, 20)
    assert seen_in(check) == (1, 1, 9)
    dataset.check_videos([WRIST])  # nothing is wrong with this one
    with pytest.raises(FoveateError, match=rf"episode 1, camera '{FRONT}': .* frame {drop[0]} is missing"):
        LeRobotDataset(root).check_videos(CAMERAS)


def test_a_joined_video_that_is_cut_off(v30: Path, tmp_path: Path) -> None:
    root = copy(v30, tmp_path)
    write_video(root / "videos" / FRONT / "chunk-000" / "file-000.mp4", np.arange(40) / 20, 0, np.arange(40))
    with pytest.raises(FoveateError, match=r"episode 2.*8 rows.*shows 6 frames: frame 6 is missing"):
        LeRobotDataset(root).picture(FRONT, 40)
    with pytest.raises(FoveateError, match=r"episode 2.*frame 6 is missing"):
        LeRobotDataset(root).check_videos([FRONT])
    LeRobotDataset(root, [0, 1]).check_videos([FRONT])  # its episodes are whole


def test_bad_sets_are_named(v30: Path, v21: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="no LeRobot data set"):
        LeRobotDataset(tmp_path)
    with pytest.raises(FoveateError, match="no such folder"):
        LeRobotDataset(tmp_path / "nowhere")
    with pytest.raises(FoveateError, match="no episode 7; it has 3, 0 to 2"):
        LeRobotDataset(v30, [7])
    with pytest.raises(FoveateError, match="did you mean 'action'"):
        LeRobotDataset(v30).column("actions")
    root = copy(v21, tmp_path)
    data = root / "data" / "chunk-000" / "episode_000001.parquet"
    change_table(data, lambda c: c["action"][5].__setitem__(2, float("nan")))
    with pytest.raises(FoveateError, match=r"episode 1, frame 5, column action\[2\]: nan"):
        LeRobotDataset(root).vectors("action")
    change_table(data, lambda c: [c.update({k: v[:-1]}) for k, v in c.items()])
    with pytest.raises(FoveateError, match=r"episode 1: .* has 22 rows of it, the metadata say 23"):
        LeRobotDataset(root).column("action")
    (root / "videos" / "chunk-000" / WRIST / "episode_000002.mp4").unlink()
    with pytest.raises(FoveateError, match=r"episode_000002\.mp4: no such video"):
        LeRobotDataset(root).picture(WRIST, 40)
    (root / "videos" / "chunk-000" / FRONT / "episode_000000.mp4").write_bytes(b"broken")
    with pytest.raises(FoveateError, match=r"episode_000000\.mp4: cannot be read as a video"):
        LeRobotDataset(root).picture(FRONT, 0)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "data_path": "../../{episode_index}.parquet"}))
    with pytest.raises(FoveateError, match="a path within the data set"):
        LeRobotDataset(root)


def test_the_hub_is_asked_for_what_is_needed(v30: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot_download(repo_id: str, **options) -> str:
        asked.append((repo_id, options["allow_patterns"]))
        return str(v30)

    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert len(LeRobotDataset("someone/some-set", [1])) == LENGTHS[1]
    assert asked[0] == ("someone/some-set", "meta/**")
    assert (
        asked[1][1][0] == "data/chunk-000/file-000.parquet" and f"videos/{WRIST}/chunk-000/file-000.mp4" in asked[1][1]
    )
    shutil.copytree(v30, tmp_path / "someone" / "else")
    assert hub.find_dataset("someone/else") == tmp_path / "someone" / "else" and len(asked) == 2

    def no_network(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(FoveateError, match=r"no route to host.*go on with the download"):
        LeRobotDataset("someone/third")
