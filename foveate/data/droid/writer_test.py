import json
from datetime import datetime

import h5py
import numpy as np
import pytest
from PIL import Image

from foveate.data.droid.writer import DroidWriter, camera_names, trajectory_fields

VIEWS = ("corner", "gripperPOV")
START = datetime(2025, 12, 31, 23, 59, 59)


def record(writer, rows=4, outcome="success", **about):
    episode = writer.begin(VIEWS, START)
    for i in range(rows):
        images = {"corner": np.full((32, 48, 3), 40 * i, np.uint8), "gripperPOV": np.full((16, 16, 3), 200, np.uint8)}
        episode.add(images, np.array([0.1 * i, 0.6, 0.2, 0.75]), np.array([1, -0.5, 0, 1]))
    return episode.finish(outcome, "push the puck", 80.0, "eef_xyz+gripper", about)


def test_folder_as_droid_users_read_it(tmp_path):
    folder = record(DroidWriter(tmp_path), task="push-v3", episode=3)
    assert folder == tmp_path / "success" / "2025-12-31" / "2025-12-31_23-59-59"
    assert (folder / "instruction.txt").read_text().strip() == "push the puck"
    assert json.loads((folder / "episode.json").read_text()) == {"task": "push-v3", "episode": 3}
    frames = folder / "recordings" / "frames"
    assert sorted(p.name for p in frames.iterdir()) == ["hand_camera", "varied_camera_1"]
    assert sorted(p.name for p in (frames / "varied_camera_1").iterdir()) == [f"0000{i}.jpg" for i in range(4)]
    with Image.open(frames / "varied_camera_1" / "00002.jpg") as picture:
        assert picture.size == (48, 32) and abs(np.asarray(picture).mean() - 80) < 2
    calibration = json.loads((folder / "calibration.json").read_text())
    assert calibration["varied_camera_1"] == {
        "view": "corner", "resolution": [48, 32], "intrinsics": None, "extrinsics": None
    }  # fmt: skip


def test_trajectory(tmp_path):
    with h5py.File(record(DroidWriter(tmp_path)) / "trajectory.h5") as file:
        position = file["observation/robot_state/cartesian_position"][:]
        assert position.shape == (4, 6) and np.isnan(position[:, 3:]).all()
        np.testing.assert_allclose(position[:, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
        np.testing.assert_allclose(file["observation/robot_state/gripper_position"][:], 0.25)
        np.testing.assert_allclose(file["action/cartesian_velocity"][:, :3], [[1, -0.5, 0]] * 4)
        np.testing.assert_allclose(file["action/command"][0], [1, -0.5, 0, 1])
        assert file["observation/timestamp/control/step_start"][:].tolist() == [0, 12, 25, 37]
        assert file["observation/camera_type/hand_camera"][:].tolist() == [0] * 4
        assert file["observation/camera_type/varied_camera_1"][:].tolist() == [1] * 4
        assert file["action/controller_info/success"][:].tolist() == [False, False, False, True]
        assert not file["action/controller_info/failure"][:].any()


def test_what_the_environment_tells_of_robot_and_cameras(tmp_path):
    def robot(i):
        return {
            "joint_positions": np.full(7, i), "joint_velocities": np.full(7, 10.0 * i),
            "cartesian_position": np.full(6, 0.1 * i), "gripper_position": np.asarray(i**2 / 10),
        }  # fmt: skip

    def cameras(i):
        return {view: {"intrinsics": np.diag([9.0, 9, 1]), "extrinsics": np.full(6, i)} for view in VIEWS}

    episode = DroidWriter(tmp_path).begin(VIEWS, START)
    for i in range(3):
        episode.add({v: np.zeros((16, 16, 3), np.uint8) for v in VIEWS}, np.zeros(4), np.ones(4), robot(i), cameras(i))
    episode.end(robot(3))
    folder = episode.finish("failure", "push", 80.0, "eef_xyz+gripper", {})
    with h5py.File(folder / "trajectory.h5") as file:
        seen, acted = file["observation/robot_state"], file["action"]
        assert seen["joint_positions"][:, 0].tolist() == [0, 1, 2] and acted["joint_position"][:, 6].tolist() == [
            1,
            2,
            3,
        ]
        assert acted["joint_velocity"][:, 0].tolist() == [10, 20, 30]
        np.testing.assert_allclose(acted["cartesian_position"][:, 0], [0.1, 0.2, 0.3])
        np.testing.assert_allclose(acted["robot_state/cartesian_position"][:, 0], [0, 0.1, 0.2])
        np.testing.assert_allclose(acted["gripper_position"][:], [0.1, 0.4, 0.9])
        np.testing.assert_allclose(acted["gripper_delta"][:], [0.1, 0.3, 0.5])
        assert file["observation/camera_extrinsics/hand_camera"][:, 5].tolist() == [0, 1, 2]
        assert file["observation/camera_intrinsics/varied_camera_1"].shape == (3, 3, 3)
        assert file["action/controller_info/failure"][:].tolist() == [False, False, True]
    calibration = json.loads((folder / "calibration.json").read_text())
    assert (
        calibration["hand_camera"]["intrinsics"][0] == [9, 0, 0] and calibration["hand_camera"]["extrinsics"] == [0] * 6
    )


def test_unknown_action_spaces_keep_raw_numbers_only():
    fields = trajectory_fields(np.zeros((3, 8)), np.ones((3, 7)), 20.0, "joints")
    assert fields["action/command"].shape == (3, 7)
    assert not [name for name in fields if "cartesian" in name or "gripper" in name]


def test_names_are_unique_and_survive_reopening(tmp_path):
    writer = DroidWriter(tmp_path)
    names = [record(writer).name, record(writer, outcome="failure").name, record(DroidWriter(tmp_path)).name]
    assert names == ["2025-12-31_23-59-59", "2026-01-01_00-00-00", "2026-01-01_00-00-01"]
    assert (tmp_path / "failure" / "2026-01-01" / names[1]).is_dir()


def test_unfinished_episodes_are_removed(tmp_path):
    writer = DroidWriter(tmp_path)
    record(writer)
    writer.begin(VIEWS, START)
    assert len(list(DroidWriter(tmp_path).episodes())) == 1
    assert not (tmp_path / ".partial").exists()


def test_an_episode_that_died_at_once(tmp_path):
    folder = record(DroidWriter(tmp_path), rows=0, outcome="crash")
    assert not (folder / "trajectory.h5").exists() and (folder / "instruction.txt").exists()
    with pytest.raises(ValueError, match="outcome"):
        record(DroidWriter(tmp_path), outcome="maybe")


def test_cameras():
    assert camera_names(("corner", "gripperPOV", "top")) == {
        "corner": "varied_camera_1", "gripperPOV": "hand_camera", "top": "varied_camera_2"
    }  # fmt: skip
