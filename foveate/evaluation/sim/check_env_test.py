"""Against a stand-in that shows the golden scene; the real one is in tests/test_libero.py."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foveate.envs.base import StepResult
from foveate.envs.libero.env import CONVENTIONS
from foveate.errors import FoveateError
from foveate.evaluation.sim import check_env as room
from foveate.evaluation.sim.check_env import check_env, reference_state, variants
from foveate.policy import Policy
from foveate.testing.golden import golden_dir
from foveate.types import Observation

SIGN = next(iter(variants(reference_state())))


@pytest.fixture
def stand(monkeypatch):
    """The golden scene behind the interface of a worker; its attributes are what a test puts out of order."""
    picture = Image.open(golden_dir("libero", "pictures") / "pictures/libero_object_t0_s0_agentview.png")
    upright = np.asarray(picture)[::-1, ::-1]

    class Stand:
        conventions, about = CONVENTIONS, {"versions": {"mujoco": "3.2.3"}}
        show = staticmethod(lambda picture: picture)
        state = reference_state()
        closes, rises, told = 1.0, 0.006, ()

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def reset(self, task, seed):
            self.now = self.state.astype(np.float32)
            return self.observe()

        def observe(self):
            image = np.ascontiguousarray(self.show(upright))
            return Observation({"agentview": image, "eye_in_hand": image}, self.now.copy(), "pick up the soup")

        def step(self, action, render=True):
            if len(self.now) == 8:
                self.now[6] -= 0.003 * self.closes * action[6]
                self.now[2] += self.rises * action[2] * 2
            return StepResult(self.observe() if render else None, False, False)

        def examine(self):
            return list(self.told)

    monkeypatch.setattr(room, "WorkerEnv", Stand)
    return Stand


def off(**options):
    return {finding.what: finding.told for finding in check_env(**options) if not finding.ok}


def test_what_is_right_passes(stand):
    assert off() == {}
    assert json.loads((golden_dir("libero") / "truth.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("show", "words"),
    [
        (lambda p: p[::-1, ::-1], "turned by 180 degrees"),
        (lambda p: p[::-1], "flipped upside down"),
        (lambda p: p[:, ::-1], "mirrored"),
        (lambda p: p[..., ::-1], "red and blue exchanged"),
        (lambda p: p[::-1, ::-1, ::-1], "turned by 180 degrees with red and blue exchanged"),
        (lambda p: (p * 0.73).astype(np.uint8), "another one"),
    ],
)
def test_pictures(stand, show, words):
    stand.show = staticmethod(show)
    assert words in off()["picture"]


@pytest.mark.parametrize("what", list(variants(reference_state())))
def test_states(stand, what):
    stand.state = variants(reference_state())[what]
    assert off()["state"] == what


def test_another_state_is_shown(stand):
    stand.state = reference_state() + 0.3
    assert "expected" in off()["state"]


def test_gripper_and_motion(stand):
    stand.closes = -1.0
    assert "does not close" in off()["action"]
    stand.closes, stand.rises = 1.0, 0.0
    assert "deltas expected" in off()["action"]


def test_mujoco_and_its_scenes(stand):
    stand.about, stand.told = {"versions": {"mujoco": "3.17.0"}}, ("a bowl slipped",)
    assert set(off()) == {"MuJoCo", "scene of libero_object/0", "scene of libero_spatial/5"}
    with pytest.raises(FoveateError, match="did you mean 'openpi'"):
        check_env(protocol="openpy")


class Processor:
    """A policy's processing, with what a test changes."""

    def __init__(self, picture=lambda p: p, middle=None):
        self.picture, self.middle = picture, reference_state() if middle is None else middle

    def model_images(self, observation):
        image = Image.fromarray(np.ascontiguousarray(self.picture(np.asarray(observation.images["agentview"]))))
        return {"base_0_rgb": np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))}

    def inputs(self, observations):
        import torch

        return SimpleNamespace(state=torch.tensor((observations[0].state - self.middle)[None] / 0.2))


def policy(processor, **declared):
    made = object.__new__(Policy)
    made.processor = processor
    made.spec = SimpleNamespace(conventions={**CONVENTIONS.to_dict(), **declared})
    return made


def middle(picture):
    low = round(256 * (1 - 0.9**0.5) / 2)
    return picture[low : 256 - low, low : 256 - low]


def test_a_policy_that_fits(stand):
    assert off(policy=policy(Processor())) == {}
    assert off(policy=policy(Processor(middle)), protocol="oft") == {}


@pytest.mark.parametrize(
    ("made", "what", "words"),
    [
        (policy(Processor(), gripper_sign="positive_opens"), "declared by the policy", "gripper_sign"),
        (policy(Processor(lambda p: p[::-1, ::-1])), "picture in the model", "turned by 180 degrees"),
        (policy(Processor(lambda p: p[..., ::-1])), "picture in the model", "red and blue"),
        (policy(Processor(middle)), "picture in the model", "90 % of its area is left, and protocol openpi"),
        (policy(Processor(middle=variants(reference_state())[SIGN])), "state in the model", "sign is flipped"),
    ],
)
def test_policies_that_do_not(stand, made, what, words):
    assert words in off(policy=made)[what]
