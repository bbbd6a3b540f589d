"""What openpi's clients send of DROID, LIBERO and ALOHA is read as it is meant; what is not is told by its key."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.models.common.remote import MAX_PROMPT, MAX_SIDE
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), np.uint8)

# As the examples of openpi's policies and its clients send them.
DROID = {
    "observation/exterior_image_1_left": IMAGE,
    "observation/wrist_image_left": IMAGE[:, ::-1],
    "observation/joint_position": np.arange(7) / 7,
    "observation/gripper_position": np.array([0.5]),
    "prompt": "do something",
}
LIBERO = {
    "observation/image": IMAGE,
    "observation/wrist_image": IMAGE[:, ::-1],
    "observation/state": np.arange(8) / 8,
    "prompt": "do something",
}
ALOHA = {
    "state": np.arange(14) / 14,
    "images": {"cam_high": IMAGE.transpose(2, 0, 1), "cam_left_wrist": IMAGE[:, ::-1].transpose(2, 0, 1)},
    "prompt": "do something",
}
SENT = {"droid": DROID, "libero": LIBERO, "aloha": ALOHA}


def read(robot, message, **options):
    mapping = RobotMapping.load(robot)
    return mapping.remote.read(message, mapping, **options)


@pytest.mark.parametrize("robot", SENT)
def test_openpi_s_messages(robot):
    mapping = RobotMapping.load(robot)
    observation = read(robot, SENT[robot])
    base, wrist, *_ = mapping.select_views(observation.images).values()
    np.testing.assert_array_equal(base, IMAGE)
    np.testing.assert_array_equal(wrist, IMAGE[:, ::-1])
    n = mapping.state_dim
    expected = np.r_[np.arange(7) / 7, 0.5] if robot == "droid" else np.arange(n) / n
    np.testing.assert_allclose(observation.state, expected, rtol=1e-6)
    assert observation.prompt == "do something"


@pytest.mark.parametrize("robot", ["droid", "libero", "aloha", "metaworld", "libero_state"])
def test_what_is_written_is_read(robot):
    mapping = RobotMapping.load(robot)
    views = {names[0]: IMAGE for names in mapping.views.values() if names}
    observation = Observation(views, np.linspace(0, 1, mapping.state_dim), "push")
    message = mapping.remote.write(observation, mapping)
    if robot in SENT:
        assert message.keys() == SENT[robot].keys()
    back = read(robot, message)
    assert back.images.keys() == views.keys()
    np.testing.assert_array_equal(back.state, observation.state)
    np.testing.assert_array_equal(next(iter(back.images.values())), IMAGE)


def test_pictures_of_floats_and_a_scalar_gripper_as_openpi_takes_them():
    floats = {**DROID, "observation/wrist_image_left": (IMAGE / 255).astype(np.float32).transpose(2, 0, 1)}
    found = read("droid", {**floats, "observation/gripper_position": 0.5})
    assert found.images["wrist_image_left"].shape == IMAGE.shape
    assert np.abs(found.images["wrist_image_left"].astype(int) - IMAGE).max() <= 1
    assert found.state[7] == 0.5


def test_nested_maps_default_prompt_and_lists():
    nested = {"observation": {"image": IMAGE, "wrist_image": IMAGE, "state": [0.0] * 8}}
    assert read("libero", nested, default_prompt="push").prompt == "push"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"observation/state": np.zeros(9)}, r"observation/state: expected 8 finite numbers, got shape \[9\]"),
        ({"observation/state": np.zeros((2, 4))}, r"got shape \[2, 4\]"),
        ({"observation/state": [0.0] * 7}, "expected 8 finite numbers, got 7"),
        ({"observation/state": np.full(8, np.nan)}, "expected 8 finite numbers"),
        ({"observation/state": [1e308] * 8}, "expected 8 finite numbers"),
        ({"observation/state": ["a"] * 8}, "expected 8 finite numbers"),
        ({"observation/state": np.array(["a"] * 8)}, "array of <U1"),
        ({"observation/image": IMAGE[..., :2]}, r"observation/image: expected a picture.*got shape \[48, 64, 2\]"),
        ({"observation/image": np.zeros((1, MAX_SIDE + 1, 3), np.uint8)}, "at most 4096 pixels"),
        ({"observation/image": np.zeros((0, 5, 3), np.uint8)}, "expected a picture"),
        ({"observation/image": IMAGE.astype(np.int64)}, "got int64"),
        ({"observation/image": IMAGE.astype(np.float32)}, "0..1"),
        ({"observation/image": np.full((4, 4, 3), np.nan)}, "0..1"),
        ({"observation/image": "picture"}, "expected a picture"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "at most 4,096 characters, got 4,097"),
        ({"prompt": 5}, "prompt: expected text"),
        ({"prompt": None}, "--default_prompt"),
    ],
)
def test_what_does_not_fit_is_told_by_its_key(change, told):
    with pytest.raises(FoveateError, match=told):
        read("libero", {**LIBERO, **change})


def test_another_robot_s_observation_names_what_was_expected_and_what_came():
    with pytest.raises(FoveateError) as told:
        read("libero", DROID)
    for name in ("observation/wrist_image", "observation/state", "observation/exterior_image_1_left", "'libero'"):
        assert name in str(told.value)


def test_a_mapping_of_keys_that_cannot_be():
    with pytest.raises(FoveateError, match="view"):
        RobotMapping.from_dict({"name": "r", "views": {}, "state": [], "action_dim": 1, "remote": {"image": "x"}})
