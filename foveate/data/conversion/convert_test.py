"""Conversions there and back, interrupted ones, and sources that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from foveate.cli.main import main
from foveate.data.conversion import lerobot
from foveate.data.conversion.convert import ConvertConfig, convert, open_source
from foveate.data.demos import DemoDataset, DemoEpisode, write_episode, write_meta
from foveate.data.droid.reader import find_episodes
from foveate.data.droid.writer import DroidWriter
from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.errors import FoveateError
from foveate.testing.lerobot import CAMERAS, LENGTHS, TASKS, pictures_of, rows_of, seen_in, write_set

FRONT, WRIST = CAMERAS


def write_demos(root: Path, every: int = 2, fps: float = 80) -> Path:
    """Two demonstrations with pictures at every second step."""
    for index in (0, 1):
        rows, length = rows_of(index, LENGTHS[index]), LENGTHS[index]
        frames = np.arange(0, length, every)
        cameras = {"front": FRONT, "wrist": WRIST}
        images = {view: np.stack(pictures_of(index, camera, length))[frames] for view, camera in cameras.items()}
        states, actions = rows["observation.state"], rows["action"]
        demo = DemoEpisode(TASKS[index], "push-v3", 40 + index, length, states, actions, images, frames)
        write_episode(root, index, demo, index, fps)
    write_meta(root, TASKS, fps, every, {"complete": True})
    return root


def write_droid(root: Path) -> Path:
    writer = DroidWriter(root)
    for number, outcome in enumerate(("success", "failure")):
        rows = rows_of(number, 6, state=4, action=4)
        episode = writer.begin(("corner", "gripperPOV"))
        front, wrist = (pictures_of(number, camera, 6) for camera in CAMERAS)
        for row in range(6):
            images = {"corner": front[row], "gripperPOV": wrist[row]}
            episode.add(images, rows["observation.state"][row], rows["action"][row])
        episode.finish(outcome, TASKS[number], 80.0, "eef_xyz+gripper", {"episode": number})
    return root


def write_libero(folder: Path) -> Path:
    folder.mkdir()
    with h5py.File(folder / "pick_up_the_cube_demo.hdf5", "w") as file:
        group = file.create_group("data")
        group.attrs["problem_info"] = json.dumps({"language_instruction": ['"pick up the cube"']})
        for number in (0, 10, 2):  # in the order of their numbers: 0, 2, 10
            demo = group.create_group(f"demo_{number}")
            demo["actions"] = np.full((5, 7), number, np.float64)
            demo["obs/ee_states"], demo["obs/gripper_states"] = np.full((5, 6), 0.5), np.full((5, 2), number)
            for name, camera in (("agentview_rgb", WRIST), ("eye_in_hand_rgb", WRIST)):
                upright = np.stack(pictures_of(number, camera, 5))
                demo[f"obs/{name}"] = upright[:, ::-1, ::-1]
    return folder


def test_demonstrations_there_and_back(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos")
    assert main(["data", "convert", str(source), str(tmp_path / "set"), "--images", "png"]) == 0
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.fps == 80 and dataset.tasks == dict(enumerate(TASKS)) and len(dataset) == 34
    seen = [seen_in(picture)[2] for _, picture in dataset.pictures(FRONT, range(6))]
    assert seen == [0, 0, 2, 2, 4, 4]  # the rows between show the last picture again
    for camera, number in ((FRONT, 0), (WRIST, 1)):
        assert {seen_in(picture)[1] for _, picture in dataset.pictures(camera, range(6))} == {number}
    assert dataset.column("picture_is_new")[:4].ravel().tolist() == [1, 0, 1, 0]
    assert convert(ConvertConfig(str(tmp_path / "set"), str(tmp_path / "back"), "demos")) == 2
    first, back = (DemoDataset.load(folder).episodes for folder in (source, tmp_path / "back"))
    for a, b in zip(first, back, strict=True):
        assert (a.task, len(a)) == (b.task, len(b))
        for name in ("states", "actions", "frames"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for view in ("front", "wrist"):
            np.testing.assert_array_equal(a.images[view], b.images[view])


def test_a_folder_of_demonstrations_becomes_one_set(tmp_path: Path) -> None:
    for name in ("object_2", "object_10", "object_3"):
        write_demos(tmp_path / "demos" / name)
    assert main(["data", "convert", str(tmp_path / "demos"), str(tmp_path / "set"), "--images", "png"]) == 0
    dataset = LeRobotDataset(tmp_path / "set")
    assert len(dataset.episodes) == 6 and len(dataset) == 3 * 34
    episodes = [seen_in(picture)[0] for _, picture in dataset.pictures(FRONT, dataset.starts[:-1].tolist())]
    assert episodes == [0, 1] * 3
    write_demos(tmp_path / "demos" / "other_rate", fps=20)
    with pytest.raises(FoveateError, match=r"differ in fps and cannot be one data set.*has 80, .*other_rate 20"):
        open_source(str(tmp_path / "demos"))


@pytest.mark.parametrize("to", ["v2.1", "v3.0"])
def test_a_droid_tree_there_and_back(tmp_path: Path, to: str) -> None:
    source = write_droid(tmp_path / "droid")
    assert convert(ConvertConfig(str(source), str(tmp_path / "set"), to)) == 2
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.fps == 80 and dataset.cameras == ("observation.images.gripperPOV", "observation.images.corner")
    np.testing.assert_allclose(dataset.column("action")[:6], rows_of(0, 6, state=4, action=4)["action"])
    for row, picture in dataset.pictures("observation.images.gripperPOV", range(12)):
        assert seen_in(picture) == (row // 6, 1, row % 6)
    assert convert(ConvertConfig(str(tmp_path / "set"), str(tmp_path / "back"), "droid")) == 2
    episode = find_episodes(tmp_path / "back")[1]
    assert episode.instruction == TASKS[1] and episode.rows == 6 and episode.control_hz == 80
    np.testing.assert_allclose(episode.state((("all", 4),)), rows_of(1, 6, state=4, action=4)["observation.state"])
    assert [seen_in(picture)[2] for picture in episode.frames("hand_camera", range(6))] == list(range(6))


def test_droids_own_fields(tmp_path: Path) -> None:
    """Joint positions and gripper as the state, joint velocities as the action: what openpi's DROID policies read."""
    folder = find_episodes(write_droid(tmp_path / "droid"))[0].folder
    rng = np.random.default_rng(0)
    joints, gripper, moves = rng.normal(size=(6, 7)), rng.uniform(size=6), rng.normal(size=(6, 7))
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = file.create_group("observation/robot_state")
        state["joint_positions"], state["gripper_position"] = joints, gripper
        file["action/joint_velocity"], file["action/gripper_position"] = moves, gripper
    (folder / "calibration.json").unlink()
    for other in (tmp_path / "droid" / "failure").glob("*/*"):
        other.rename(tmp_path / "away")
    convert(ConvertConfig(str(tmp_path / "droid"), str(tmp_path / "set")))
    dataset = LeRobotDataset(tmp_path / "set")
    assert set(dataset.cameras) == {f"observation.images.{n}" for n in ("wrist_image_left", "exterior_image_1_left")}
    assert dataset.fps == 15
    np.testing.assert_allclose(dataset.column("observation.state"), np.column_stack([joints, gripper]), rtol=1e-6)
    np.testing.assert_allclose(dataset.column("action"), np.column_stack([moves, gripper]), rtol=1e-6)


def test_liberos_demonstrations_stand_upright(tmp_path: Path) -> None:
    assert convert(ConvertConfig(str(write_libero(tmp_path / "hdf5")), str(tmp_path / "set"), images="png")) == 3
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.tasks == {0: "pick up the cube"}
    assert dataset.cameras == ("observation.images.image", "observation.images.wrist_image")
    for row, picture in dataset.pictures("observation.images.image", range(15)):
        assert seen_in(picture) == ((0, 2, 10)[row // 5], 1, row % 5)
    assert dataset.column("action")[5:10].tolist() == [[2.0] * 7] * 5
    assert dataset.column("observation.state")[5].tolist() == [0.5] * 6 + [2, 2]


@pytest.mark.parametrize("to", ["v3.0", "v2.1", "demos", "droid"])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read, asked = write_set(tmp_path / "set", kind="image"), lerobot.LeRobotSource.read, []

    def reads(self, number: int):
        asked.append(number)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return read(self, number)

    monkeypatch.setattr(lerobot.LeRobotSource, "read", reads)
    config = ConvertConfig(str(source), str(tmp_path / "out"), to)
    with pytest.raises(KeyboardInterrupt):
        convert(config)
    assert convert(config) == 3
    assert asked == [0, 1, 1, 2]  # what was whole is not done again
    assert convert(config) == 3 and len(asked) == 4
    assert len(open_source(config.out)) == 3
    other = write_set(tmp_path / "other", kind="image", lengths=(4,))
    with pytest.raises(FoveateError, match="name another folder"):
        convert(ConvertConfig(str(other), config.out, to))


def test_a_damaged_episode_is_left_out(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "v2.1", "image")
    next(root.rglob("episode_000001.parquet")).write_bytes(b"PAR1")
    with pytest.raises(FoveateError, match="episode_000001"):
        convert(ConvertConfig(str(root), str(tmp_path / "all")))
    config = ConvertConfig(str(root), str(tmp_path / "whole"), leave_out=(1,))
    assert convert(config) == 2
    rows = LeRobotDataset(config.out).column("action")[:, 0]
    np.testing.assert_array_equal(rows, np.concatenate([np.arange(11), 200 + np.arange(8)]))
    with pytest.raises(FoveateError, match=r"no episode 7; it has 0 to 2"):
        convert(ConvertConfig(str(root), str(tmp_path / "other"), leave_out=(7,)))
    with pytest.raises(FoveateError, match="is no LeRobot set"):
        convert(ConvertConfig(str(write_droid(tmp_path / "droid")), str(tmp_path / "out"), leave_out=(0,)))


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="is the source"):
        ConvertConfig("a", "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoveateError, match="no format that is known"):
        convert(ConvertConfig(str(tmp_path / "empty"), str(tmp_path / "out")))
    droid = write_droid(tmp_path / "droid")
    for folder in (droid / "success").glob("*/*"):
        with h5py.File(folder / "trajectory.h5", "a") as file:
            file["action/command"][2] = np.nan
    with pytest.raises(FoveateError, match=r"episode 0, frame 2, column action\[0\]: nan"):
        convert(ConvertConfig(str(droid), str(tmp_path / "out")))
    for folder in (droid / "success").glob("*/*"):
        with h5py.File(folder / "trajectory.h5", "a") as file:
            del file["action"]
    with pytest.raises(FoveateError, match=r"trajectory\.h5, action: expected command or .*, found none"):
        convert(ConvertConfig(str(droid), str(tmp_path / "out2")))
