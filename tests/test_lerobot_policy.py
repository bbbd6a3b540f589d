"""The plug-in against the real lerobot: found by its name, made by its factories, equal to foveate's own policy.

Run in lerobot's environment (docs/integrations.md); skipped in any other.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest
import torch

if importlib.util.find_spec("lerobot") is None:
    pytest.skip("needs lerobot in an environment of its own: docs/integrations.md", allow_module_level=True)

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # PyPI's torchvision is built for CUDA. Beside a torch for CPUs its operators do not load, and its import stops
    # where it describes them. Nothing here calls one, so that their names are enough.
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import LiberoEnv, MetaworldEnv
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
from lerobot.processor.env_processor import LiberoProcessorStep
from lerobot.utils.import_utils import register_third_party_plugins

import foveate
from foveate.envs.libero.env import axis_angle
from foveate.envs.libero.protocol import PROTOCOLS
from foveate.errors import FoveateError
from foveate.types import Observation
from foveate.util.noise import action_noise

pytestmark = pytest.mark.peer

POLICY, PROMPT = "metaworld_tiny_lightvla", "open the drawer"
CAMERAS = {"front": "corner", "image2": "gripperPOV"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    if importlib.util.find_spec("lerobot_policy_foveate") is None:
        pytest.fail("pip install --no-deps ./integrations/lerobot_policy_foveate")
    register_third_party_plugins()
    assert "foveate" in PreTrainedConfig.get_known_choices()


def config(**options):
    return PreTrainedConfig.get_choice_class("foveate")(
        **{"checkpoint": POLICY, "cameras": CAMERAS, "device": "cpu", "n_action_steps": 3, **options}
    )


def scenes(count=2, seed=0):
    """What a vector environment gives: pictures uint8 [B, H, W, 3], states, and the instruction."""
    rng = np.random.default_rng(seed)
    return {
        "pixels": {name: rng.integers(0, 256, (count, 64, 64, 3), np.uint8) for name in CAMERAS},
        "agent_pos": rng.uniform(0, 0.5, (count, 4)).astype(np.float32),
    }


def test_the_distribution_has_the_name_that_lerobot_looks_for():
    """It compares the written name, underscores and all."""
    assert importlib.metadata.distribution("lerobot_policy_foveate").metadata["Name"] == "lerobot_policy_foveate"


@pytest.mark.parametrize("pruner", [{}, {"pruner": "random", "pruner_options": {"keep_ratio": 0.5}}])
def test_factories_make_it_and_its_actions_are_the_policys_own(pruner):
    made = config(**pruner)
    policy = make_policy(made, env_cfg=MetaworldEnv())
    before, after = make_pre_post_processors(made)
    assert isinstance(policy, get_policy_class("foveate"))
    named = {"name": pruner["pruner"], **pruner["pruner_options"]} if pruner else "checkpoint"
    own = foveate.load_policy(POLICY, pruner=named)
    noise = np.stack([action_noise(own.spec.noise_shape, row) for row in range(2)])
    seen = [scenes(seed=0), scenes(seed=1)]
    played = []
    for step in range(6):  # three actions of a chunk, then it looks again; what it is shown between counts for nothing
        batch = preprocess_observation(seen[1 if step == 3 else 0]) | {"task": [PROMPT] * 2}
        played.append(after(policy.select_action(before(batch), noise=torch.from_numpy(noise))))
    for start, raw in ((0, seen[0]), (3, seen[1])):
        observations = [
            Observation({ours: raw["pixels"][theirs][row] for theirs, ours in CAMERAS.items()}, state, PROMPT)
            for row, state in enumerate(raw["agent_pos"])
        ]
        expected = np.stack([chunk.actions for chunk in own.infer_batch(observations, noise)])
        for step in range(3):
            np.testing.assert_array_equal(played[start + step].numpy(), expected[:, step])


def test_one_observation_of_a_robot_gets_its_batch_dimension():
    policy, (before, _) = get_policy_class("foveate")(config()), make_pre_post_processors(config())
    batch = {key: value[0] for key, value in preprocess_observation(scenes(1)).items()} | {"task": PROMPT}
    assert policy.select_action(before(batch)).shape == (1, 4)


@dataclass
class Command:
    """A policy under `--policy.*`, as lerobot's own commands have it."""

    policy: PreTrainedConfig


def test_options_come_from_the_command_line():
    given = {"type": "foveate", "checkpoint": POLICY, "pruner": "random", "pruner_options": "{keep_ratio: 0.25}"}
    made = draccus.parse(Command, args=[f"--policy.{name}={value}" for name, value in given.items()]).policy
    assert (made.pruner, made.pruner_options) == ("random", {"keep_ratio": 0.25})
    with pytest.raises(FoveateError, match="name the method too"):
        config(pruner_options={"keep_ratio": 0.5})
    with pytest.raises(FoveateError, match=r"policy\.checkpoint"):
        get_policy_class("foveate")(config(checkpoint=""))


def test_what_it_cannot_do_is_told():
    policy = get_policy_class("foveate")(config())
    with pytest.raises(FoveateError, match="foveate train policy"):
        policy.forward({})
    batch = preprocess_observation(scenes(1)) | {"task": [PROMPT]}
    del batch["observation.images.image2"]
    with pytest.raises(FoveateError, match="no view 'gripperPOV'"):
        policy.predict_action_chunk(batch)


class TestLiberoProtocol:
    """The values of `--protocol lerobot` against the real source."""

    def test_settings(self):
        env = LiberoEnv()
        protocol = PROTOCOLS["lerobot"]
        assert env.observation_height == env.observation_width == protocol.image_size
        assert env.control_mode == "relative" and env.init_states
        assert env.fps in (20, 30)  # 30 of 0.4 is of the videos alone

    def test_state_and_pictures(self):
        rng = np.random.default_rng(0)
        quaternion = rng.normal(size=(6, 4))
        quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
        assert (quaternion[:, 3] < 0).any() and (quaternion[:, 3] > 0).any()
        picture = torch.rand(6, 3, 4, 4)
        state = {
            "eef": {"pos": torch.zeros(6, 3), "quat": torch.from_numpy(quaternion)},
            "gripper": {"qpos": torch.ones(6, 2)},
        }
        seen = LiberoProcessorStep().observation(
            {"observation.images.image": picture, "observation.robot_state": state}
        )
        assert torch.equal(seen["observation.images.image"], picture.flip(2, 3))
        ours = np.stack([axis_angle(q) for q in quaternion])
        np.testing.assert_allclose(seen["observation.state"][:, 3:6].numpy(), ours, atol=1e-5)
        assert seen["observation.state"].shape == (6, 8)
