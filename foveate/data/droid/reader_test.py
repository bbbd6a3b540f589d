import shutil

import h5py
import numpy as np
import pytest

from foveate.data.droid.reader import Episode, cameras_of, find_episodes
from foveate.data.droid.writer import DroidWriter
from foveate.errors import FoveateError
from foveate.viz.video import write_video

METAWORLD = (("hand_position", 3), ("gripper_opening", 1))
DROID = (("joint_position", 7), ("gripper_position", 1))
CAMERAS = {"corner": "varied_camera_1", "gripperPOV": "hand_camera"}


def write(root, rows=11, outcome="success"):
    """An episode whose corner picture gets 20 brighter a row."""
    episode = DroidWriter(root).begin(tuple(CAMERAS))
    for i in range(rows):
        images = {"corner": np.full((32, 48, 3), 20 * i, np.uint8), "gripperPOV": np.full((16, 16, 3), 99, np.uint8)}
        episode.add(images, np.array([0.1 * i, 0.6, 0.2, 0.75]), np.zeros(4))
    return episode.finish(outcome, "push the puck", 80.0, "eef_xyz+gripper", {"episode": 0})


def droid_fields(folder, rows=11, **replace):
    """Fields as the DROID collection writes them."""
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = {"joint_positions": np.arange(rows * 7).reshape(rows, 7), "gripper_position": np.linspace(0, 1, rows)}
        for name, values in (state | replace).items():
            if values is not None:
                file[f"observation/robot_state/{name}"] = values


def test_what_was_written_comes_back(tmp_path):
    write(tmp_path)
    write(tmp_path, outcome="failure")
    episodes = find_episodes(tmp_path)
    assert [e.outcome for e in episodes] == ["success", "failure"]
    episode = episodes[0]
    assert episode.key == f"success/{episode.name[:10]}/{episode.name}" and episode.rows == 11
    seen = list(episode.observations(range(0, 11, 4), CAMERAS, METAWORLD))
    assert [index for index, _ in seen] == [0, 4, 8]
    for index, observation in seen:
        assert abs(observation.images["corner"].mean() - 20 * index) < 2
        assert observation.images["gripperPOV"].shape == (16, 16, 3)
        np.testing.assert_allclose(observation.state, [0.1 * index, 0.6, 0.2, 0.75], atol=1e-6)
        assert observation.prompt == "push the puck"


def test_frames_are_decoded_where_their_folder_is_absent(tmp_path):
    folder = write(tmp_path)
    shutil.rmtree(folder / "recordings" / "frames")
    frames = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(11)]
    write_video(folder / "recordings" / "varied_camera_1.mp4", frames, 20)
    write_video(folder / "recordings" / "hand_camera.mp4", frames[:5], 20)
    episode = Episode(folder, "success")
    seen = [frame.mean() for frame in episode.frames("varied_camera_1", [0, 4, 10])]
    np.testing.assert_allclose(seen, [0, 80, 200], atol=3)
    with pytest.raises(FoveateError, match=r"hand_camera.mp4 has 5 frames, frame 8 is needed"):
        list(episode.frames("hand_camera", [0, 8]))
    (folder / "recordings" / "hand_camera.mp4").write_bytes(b"not a video")
    with pytest.raises(FoveateError, match=r"hand_camera.mp4 cannot be decoded"):
        list(episode.frames("hand_camera", [0]))
    with pytest.raises(FoveateError, match="no pictures of varied_camera_2"):
        episode.frames("varied_camera_2", [0])


def test_state_of_a_real_droid_file(tmp_path):
    folder = write(tmp_path)
    droid_fields(folder)
    state = Episode(folder, "success").state(DROID)
    assert state.shape == (11, 8) and state.dtype == np.float32
    assert state[2].tolist() == [14, 15, 16, 17, 18, 19, 20, np.float32(0.2)]


@pytest.mark.parametrize(
    ("replace", "text"),
    [
        ({"joint_positions": None}, "lacks observation/robot_state/joint_position,"),
        ({"joint_positions": np.zeros((11, 6))}, r"joint_position has the shape \[11, 6\]"),
        ({"gripper_position": np.zeros(9)}, r"one common length, got lengths \[9, 11\]"),
        ({"gripper_position": np.full(11, np.nan)}, "row 0 holds"),
    ],
)
def test_a_state_that_is_missing_or_wrong_is_named(tmp_path, replace, text):
    folder = write(tmp_path)
    droid_fields(folder, **replace)
    episode = Episode(folder, "success")
    with pytest.raises(FoveateError, match=text) as caught:
        list(episode.observations([0], CAMERAS, DROID))
    assert episode.key in str(caught.value)


def test_damaged_folders_are_named(tmp_path):
    folder = write(tmp_path)
    episode = Episode(folder, "success")
    (folder / "recordings/frames/varied_camera_1/00004.jpg").unlink()
    with pytest.raises(FoveateError, match=r"varied_camera_1/00004.jpg is not a readable picture"):
        list(episode.observations([0, 4], CAMERAS, METAWORLD))
    (folder / "recordings/frames/varied_camera_1/00004.jpg").write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(FoveateError, match=r"00004.jpg is not a readable picture"):
        list(episode.observations([0, 4], CAMERAS, METAWORLD))
    whole = (folder / "trajectory.h5").read_bytes()
    (folder / "trajectory.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FoveateError, match=r"trajectory.h5 cannot be read"):
        episode.state(METAWORLD)
    (folder / "trajectory.h5").unlink()
    with pytest.raises(FoveateError, match="no such file"):
        episode.state(METAWORLD)
    (folder / "instruction.txt").write_text("\n")
    with pytest.raises(FoveateError, match=r"instruction.txt is empty"):
        _ = Episode(folder, "success").instruction


def test_a_root_without_episodes(tmp_path):
    with pytest.raises(FoveateError, match="no such folder"):
        find_episodes(tmp_path / "nowhere")
    (tmp_path / "success").mkdir()
    with pytest.raises(FoveateError, match=r"no episode in it.*found success"):
        find_episodes(tmp_path)


def test_cameras_of_a_policy():
    views = ("exterior_image_1_left", "wrist_image_left")
    assert cameras_of(views) == {views[0]: "varied_camera_1", views[1]: "hand_camera"}
    assert cameras_of(views, "right") == {views[0]: "varied_camera_2", views[1]: "hand_camera"}
    assert cameras_of(("corner", "gripperPOV")) == CAMERAS
    assert cameras_of(("a", "b"), "right") == {"a": "varied_camera_2", "b": "varied_camera_1"}
    with pytest.raises(FoveateError, match=r"cam_right_wrist.*no camera left"):
        cameras_of(("cam_high", "cam_left_wrist", "cam_right_wrist"))


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_data_in_another_file_are_not_read(tmp_path, kind):
    folder = write(tmp_path / "tree")
    secret = tmp_path / "other.h5"
    with h5py.File(secret, "w") as other:
        other["s"] = np.zeros((3, 4), np.float32)
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        group = file["observation/robot_state"]
        if kind == "link":
            group["elsewhere"] = h5py.ExternalLink(str(secret), "s")
        elif kind == "storage":
            group.create_dataset("elsewhere", (3, 4), "f4", external=[(str(secret), 0, 48)])
        else:
            layout = h5py.VirtualLayout((3, 4), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "s", shape=(3, 4))
            group.create_virtual_dataset("elsewhere", layout)
    (episode,) = find_episodes(tmp_path / "tree")
    with pytest.raises(FoveateError, match="observation/robot_state/elsewhere: its data lie in another file"):
        _ = episode.rows


def test_groups_that_hold_each_other_end(tmp_path):
    folder = write(tmp_path)
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        file["observation/again"] = file["observation"]
    assert find_episodes(tmp_path)[0].rows == 11
