import av
import h5py
import numpy as np
import pytest

from foveate.envs.base import EnvConventions
from foveate.errors import FoveateError
from foveate.evaluation.sim.record import make_recorder
from foveate.evaluation.sim.rollout import Job
from foveate.types import EpisodeResult, Observation


class Silent:
    """An environment that tells no more than its observations."""

    def snapshot(self, size=None):
        return None


CONVENTIONS = EnvConventions("eef_xyz+gripper", 4, True, "positive_closes", control_hz=80.0)


def result(episode=0, status="success"):
    return EpisodeResult("push-v3", episode, 7, "full", status, 3, 1, instruction="push the puck")


def record(kind, out, episode=0, status="success", done=(), steps=3):
    recorder = make_recorder(kind, out, CONVENTIONS, "tiny", done)(Job("push-v3", 0, episode, 7))
    for i in range(steps + 1):
        images = {"corner": np.full((32, 32, 3), 60 * i, np.uint8), "gripperPOV": np.zeros((32, 32, 3), np.uint8)}
        recorder.add(Observation(images, np.full(4, i), "push the puck"), np.ones(4) if i < steps else None, Silent())
    recorder.finish(result(episode, status))


def length(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_video(tmp_path):
    record("video", tmp_path, 2, "failure")
    (path,) = (tmp_path / "videos").iterdir()
    assert path.name == "push-v3_ep002_failure.mp4" and length(path) == 4


def test_droid(tmp_path):
    record("droid", tmp_path)
    (folder,) = (tmp_path / "droid" / "success").glob("*/*")
    # A frame per row of the trajectory, at the control rate.
    for path in (folder / f"success_tiny_push-v3_{folder.name}.mp4", folder / "recordings" / "hand_camera.mp4"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].average_rate == 80
        assert length(path) == 3
    assert len(list((folder / "recordings" / "frames" / "varied_camera_1").iterdir())) == 3
    assert not (folder / "recordings" / "all.mp4").exists()
    with h5py.File(folder / "trajectory.h5") as file:
        assert file["action/command"].shape == (3, 4)


@pytest.mark.parametrize("kind", ["droid", "video"])
def test_recordings_without_a_logged_episode_are_dropped(tmp_path, kind):
    record(kind, tmp_path, 0)
    record(kind, tmp_path, 1, done={("full", "push-v3", 0)})
    assert len(list(tmp_path.rglob("*.mp4"))) == (2 if kind == "video" else 6)
    make_recorder(kind, tmp_path, CONVENTIONS, "tiny", {("full", "push-v3", 1)})
    assert len(list(tmp_path.rglob("*.mp4"))) == (1 if kind == "video" else 3)


@pytest.mark.parametrize("kind", ["droid", "video"])
def test_an_episode_that_died_at_once_leaves_nothing(tmp_path, kind):
    make_recorder(kind, tmp_path, CONVENTIONS, "tiny", ())(Job("push-v3", 0, 0, 7)).finish(result(status="crash"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_unwritable(tmp_path):
    (tmp_path / "videos").write_text("a file in the way")
    with pytest.raises(FoveateError, match="cannot record there"):
        record("video", tmp_path)
