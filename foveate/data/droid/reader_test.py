import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from foveate.data.droid.reader import Episode, cameras_of, find_episodes
from foveate.data.droid.writer import DroidWriter
from foveate.errors import FoveateError
from foveate.util.video import write_video

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


def rows_as(folder, kind):
    """Its corner pictures as files of another kind."""
    for path in (folder / "recordings/frames/varied_camera_1").iterdir():
        Image.fromarray(np.full((32, 48, 3), 20 * int(path.stem), np.uint8)).save(path.with_suffix(kind))
        path.unlink()


@pytest.mark.parametrize("kind", [".png", ".jpeg", ".JPG"])
def test_frames_of_other_kinds(tmp_path, kind):
    folder = write(tmp_path)
    rows_as(folder, kind)
    seen = [frame.mean() for frame in find_episodes(tmp_path)[0].frames("varied_camera_1", [0, 4, 10])]
    np.testing.assert_allclose(seen, [0, 80, 200], atol=2)


def test_an_empty_folder_of_frames_hides_no_video(tmp_path):
    folder = write(tmp_path)
    frames = folder / "recordings/frames/varied_camera_1"
    shutil.rmtree(frames)
    frames.mkdir()
    (frames / ".DS_Store").write_bytes(b"")
    write_video(
        folder / "recordings/varied_camera_1.mp4", [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(11)], 20
    )
    seen = [frame.mean() for frame in Episode(folder, "success").frames("varied_camera_1", [0, 10])]
    np.testing.assert_allclose(seen, [0, 200], atol=3)


METADATA = {
    "uuid": "AUTOLab+84bd5053+2023-07-07-09h-42m-23s",
    "lab": "AUTOLab",
    "success": True,
    "current_task": "Put the pen in the cup",
    "trajectory_length": 11,
    "wrist_cam_serial": "18026681",
    "ext1_cam_serial": "22008760",
    "ext2_mp4_path": "success/2023-07-07/Fri_Jul__7_09:42:23_2023/recordings/MP4/24400334.mp4",
}


def raw(root, metadata=METADATA, rows=11):
    """An episode as `droid_raw` is published: of ext1 both eyes, the left one darker; of the hand stereo alone."""
    folder = root / "AUTOLab" / "success" / "2023-07-07" / "Fri_Jul__7_09:42:23_2023"
    videos = folder / "recordings" / "MP4"
    videos.mkdir(parents=True)
    droid_fields(folder, rows)
    if metadata:
        (folder / "metadata_AUTOLab+84bd5053.json").write_text(json.dumps(metadata))
    eye = {
        side: [np.full((32, 48, 3), base + 10 * i, np.uint8) for i in range(rows)]
        for side, base in (("l", 0), ("r", 100))
    }
    both = [np.hstack(pair) for pair in zip(eye["l"], eye["r"], strict=True)]
    for name, frames in {
        "22008760": eye["l"], "22008760-stereo": both, "18026681-stereo": both, "24400334": eye["r"],
    }.items():  # fmt: skip
        write_video(videos / f"{name}.mp4", frames, 15)
    return folder


def test_the_published_layout_is_read(tmp_path):
    raw(tmp_path)
    (episode,) = find_episodes(tmp_path / "AUTOLab")
    views = ("exterior_image_1_left", "wrist_image_left")
    seen = list(episode.observations([0, 10], cameras_of(views), DROID))
    assert seen[0][1].prompt == "Put the pen in the cup" and seen[1][1].state[0] == 70
    for index, observation in seen:
        for view in views:  # of a stereo recording the left half
            picture = observation.images[view]
            assert picture.shape == (32, 48, 3) and abs(picture[:, :40].mean() - 10 * index) < 3, view
    (_, other) = next(iter(episode.observations([4], cameras_of(views, "right"), DROID)))
    assert abs(other.images[views[0]].mean() - 140) < 3
    (_, right) = next(iter(episode.observations([4], cameras_of(views, "left", "right"), DROID)))
    for view in views:
        assert right.images[view].shape == (32, 48, 3) and abs(right.images[view][:, 8:].mean() - 140) < 3
    with pytest.raises(
        FoveateError, match=r"varied_camera_2: recordings/MP4/24400334-stereo.mp4 is not there, and --st"
    ):
        next(episode.observations([0], cameras_of(views, "right", "right"), DROID))
    (episode.folder / "instruction.txt").write_bytes(b"\xef\xbb\xbfpush the puck\r\n")
    assert Episode(episode.folder, "success").instruction == "push the puck"
    with pytest.raises(FoveateError, match=r"there are episodes in AUTOLab: name one of these folders"):
        find_episodes(tmp_path)


def test_the_published_layout_without_what_says_which_camera_is_which(tmp_path):
    folder = raw(tmp_path, metadata=None)
    (folder / "instruction.txt").write_text("push")
    (episode,) = find_episodes(tmp_path / "AUTOLab")
    with pytest.raises(
        FoveateError, match=r"no pictures of hand_camera: .*18026681-stereo.*it should say wrist_cam_serial"
    ):
        episode.frames("hand_camera", [0])
    (folder / "metadata_x.json").write_text(json.dumps({"wrist_cam_serial": "../../../../secret"}))
    with pytest.raises(FoveateError, match=r"nor recordings/MP4/secret.mp4"):
        Episode(folder, "success").frames("hand_camera", [0])
    (folder / "metadata_x.json").write_text("{")
    with pytest.raises(FoveateError, match=r"episode success.*metadata_x.json: not JSON"):
        Episode(folder, "success").frames("hand_camera", [0])


def test_recordings_of_other_forms_alone_say_what_is_missing(tmp_path):
    folder = raw(tmp_path)
    shutil.rmtree(folder / "recordings")
    (folder / "recordings/SVO").mkdir(parents=True)
    (folder / "recordings/SVO/22008760.svo2").write_bytes(b"x")
    episode = Episode(folder, "success")
    with pytest.raises(
        FoveateError, match=r"no pictures of varied_camera_1: neither .* \.svo2 are ZED's own recordings"
    ):
        episode.frames("varied_camera_1", [0])
    (folder / "trajectory.h5").rename(folder / "trajectory.npz")
    with pytest.raises(
        FoveateError, match=r"no such file; the folder holds .*trajectory.npz; .*\.npz is not read: write traj"
    ):
        _ = Episode(folder, "success").rows


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda g: replaced(g, "state", shape=(2 * 10**9, 4)), "lengths|at most 1,000,000"),
        (
            lambda g: [replaced(g, name, shape=(2 * 10**9, 4)) for name in list(g)],
            "2,000,000,000 rows; expected at most",
        ),
        (lambda g: replaced(g, "state", data=np.array([[b"a"] * 4] * 11)), r"state has the shape \[11, 4\] of \|S1"),
        (lambda g: replaced(g, "state"), "lacks observation/robot_state/hand_position"),
        (lambda g: replaced(g.parent, "robot_state", data=np.zeros((11, 4))), "common length, got nothing"),
        (lambda g: g.__setitem__("zz", h5py.SoftLink("/nowhere")), ""),
        (lambda g: replaced(g, "state", shape=(11, 10**9)), r"state has the shape \[11, 1000000000\]"),
    ],
)
def test_what_a_trajectory_says_is_checked_before_it_is_read(tmp_path, spoil, said):
    folder = write(tmp_path)
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        spoil(file["observation/robot_state"])
    episode = Episode(folder, "success")
    if not said:
        assert len(episode.state(METAWORLD)) == episode.rows == 11
        return
    with pytest.raises(FoveateError, match=f"episode success.*{said}"):
        _ = episode.rows, episode.state(METAWORLD)


def replaced(group, name, data=None, shape=None):
    """A field of other data, of a shape whose numbers were never written, or a group."""
    del group[name]
    if data is None and shape is None:
        group.create_group(name)
    else:
        group.create_dataset(
            name, shape, "f4" if data is None else None, data=data, chunks=None if shape is None else (1, 4)
        )


def test_what_is_no_sentence_or_no_file_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path)
    (folder / "instruction.txt").write_text("open the drawer " * 1000)
    with pytest.raises(FoveateError, match=r"has 15,999 characters; it should hold one sentence"):
        _ = Episode(folder, "success").instruction
    frames = folder / "recordings/frames/varied_camera_1"
    (frames / "00000.jpg").unlink()
    (frames / "00000.jpg").symlink_to("/dev/zero")
    with pytest.raises(FoveateError, match=r"00000.jpg is not a readable picture .no regular file"):
        next(Episode(folder, "success").frames("varied_camera_1", [0]))
    shutil.rmtree(frames)
    (folder / "recordings/varied_camera_1.mp4").symlink_to("/dev/zero")
    with pytest.raises(FoveateError, match=r"varied_camera_1.mp4 cannot be decoded .no regular file"):
        next(Episode(folder, "success").frames("varied_camera_1", [0]))

    def surprise(*_, **__):
        raise ZeroDivisionError("of a kind that nobody expects")

    monkeypatch.setattr(h5py, "File", surprise)
    with pytest.raises(FoveateError, match=r"trajectory.h5 cannot be read .of a kind that nobody expects"):
        _ = Episode(folder, "success").rows
