import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from foveate.errors import FoveateError
from foveate.models.common.robots import ROBOTS_DIR, Linkage, Range, RobotMapping, Sign

IMAGE = np.zeros((4, 4, 3), np.uint8)
SHIPPED = sorted(p.stem for p in ROBOTS_DIR.glob("*.yaml"))


def test_the_shipped_mappings() -> None:
    assert SHIPPED == ["aloha", "aloha_sim", "droid", "libero", "libero_oft", "libero_state", "metaworld"]
    dims = {name: (r.state_dim, r.action_dim) for name in SHIPPED for r in [RobotMapping.load(name)]}
    libero = dict.fromkeys(["libero", "libero_oft", "libero_state"], (8, 7))
    assert dims == {"aloha": (14, 14), "aloha_sim": (14, 14), "droid": (8, 8), **libero, "metaworld": (4, 4)}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("model", ["pi0", "pi05"])
def test_actions_come_back(name: str, model: str) -> None:
    robot = RobotMapping.load(name, model)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    state = rng.uniform(0.1, 0.9, (3, robot.state_dim))
    actions = rng.uniform(0.1, 0.9, (3, 5, robot.action_dim)).astype(np.float32)
    if Sign() in robot.gripper.actions:
        actions[..., list(robot.gripper.dims)] = rng.choice([-1, 1], (3, 5, len(robot.gripper.dims)))
    back = robot.from_model_actions(robot.to_model_actions(actions, state), state)
    np.testing.assert_allclose(back, actions, atol=1e-6)


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_values_come_back(name: str) -> None:
    robot = RobotMapping.load(name)
    assert RobotMapping.from_dict(yaml.safe_load(yaml.safe_dump(robot.to_dict()))) == robot


def test_metaworld_declares_what_the_environment_is() -> None:
    from foveate.envs.metaworld.env import CONVENTIONS

    robot = RobotMapping.load("metaworld")
    ours = {"image_orientation": "upright", **robot.conventions}
    assert ours == CONVENTIONS.to_dict()


def test_aloha_state_by_the_reference_formula() -> None:
    robot = RobotMapping.load("aloha")
    state = np.full(14, 0.5)
    got = robot.to_model_state(state)
    position = 0.5 * (0.058 - 0.01844) + 0.01844
    angle = np.arcsin((0.022**2 + position**2 - 0.036**2) / (2 * 0.022 * position))
    gripper = (angle - 0.5476) / (1.6296 - 0.5476)
    expected = [0.5, -0.5, -0.5, 0.5, 0.5, 0.5, gripper, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5, gripper]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_aloha_actions_by_the_reference_formula() -> None:
    robot = RobotMapping.load("aloha")
    state = np.linspace(0.1, 0.8, 14)
    model = np.full((2, 32), 0.25)  # the model's padded width
    got = robot.from_model_actions(model, state)
    signs = np.array([1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1])
    absolute = 0.25 + signs * state
    absolute[[6, 13]] = 0.25
    expected = signs * absolute
    expected[[6, 13]] = (0.25 + 0.5476 + 0.6213) / (1.4910 + 0.6213)
    np.testing.assert_allclose(got, [expected, expected], rtol=1e-6)


def test_pi0_libero_adds_the_state_to_six_entries() -> None:
    state, model = np.arange(8.0), np.zeros((1, 32))
    np.testing.assert_allclose(
        RobotMapping.load("libero", "pi0").from_model_actions(model, state), [[0, 1, 2, 3, 4, 5, 0]]
    )
    np.testing.assert_allclose(RobotMapping.load("libero", "pi05").from_model_actions(model, state), np.zeros((1, 7)))


def test_linkage_and_range_have_inverses() -> None:
    x = np.linspace(0.019, 0.057, 7)
    linkage = Linkage(arm_length=0.036, horn_radius=0.022)
    np.testing.assert_allclose(linkage.inverse(linkage(x)), x)
    assert Range((0, 10), (1, -1))(np.array(2.5)) == 0.5


def test_nan_actions_stay_nan() -> None:
    got = RobotMapping.load("aloha").from_model_actions(np.full((1, 14), np.nan), np.full(14, 0.5))
    assert np.isnan(got).all()


def test_views_are_found_under_any_of_their_names_and_absent_ones_are_none() -> None:
    droid = RobotMapping.load("droid")
    chosen = droid.select_views({"exterior_1_left": IMAGE, "wrist_image_left": IMAGE, "more": IMAGE})
    assert list(chosen) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    assert chosen["base_0_rgb"] is IMAGE and chosen["right_wrist_0_rgb"] is None
    assert droid.required_views == ("exterior_image_1_left", "wrist_image_left") and droid.num_cameras == 2


def test_aloha_may_lack_its_wrist_cameras_but_not_the_other() -> None:
    aloha = RobotMapping.load("aloha")
    assert aloha.select_views({"cam_high": IMAGE})["left_wrist_0_rgb"] is None
    with pytest.raises(FoveateError, match="cam_high"):
        aloha.select_views({"cam_left_wrist": IMAGE})


def test_a_missing_view_lists_what_is_expected_and_what_came() -> None:
    with pytest.raises(FoveateError) as caught:
        RobotMapping.load("metaworld").select_views({"corner": IMAGE, "front": IMAGE})
    for words in ("'gripperPOV'", "expected ['corner', 'gripperPOV']", "got ['corner', 'front']"):
        assert words in str(caught.value)


def test_wrong_state_length_names_the_parts() -> None:
    with pytest.raises(
        FoveateError, match=r"7 numbers, robot 'droid' expects 8: joint_position \(7\), gripper_position"
    ):
        RobotMapping.load("droid").to_model_state(np.zeros(7))


def test_a_user_writes_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("views: {base_0_rgb: front}\nstate: [{name: joints, dim: 2}]\naction_dim: 2\ndelta_mask: [1, -1]\n")
    robot = RobotMapping.load(path)
    assert robot.name == "mine" and robot.delta_mask == (True, False) and robot.views == {"base_0_rgb": ("front",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("views: {}\nstate: []\naction_dim: 2\nview: {}", "did you mean 'views'"),
        ("views: {}\nstate: []", "lacks 'action_dim'"),
        ("views: {a: b}\nstate: [{name: x, dim: 2}]\naction_dim: 2\ndelta_mask: [1]", "delta_mask has 1 entries"),
        ("views: {a: b}\nstate: [{name: x, dim: 2}]\naction_dim: 2\njoint_signs: [1, 0]", "1 or -1"),
        (
            "views: {a: b}\nstate: [{size: 2}]\naction_dim: 2",
            "state has the wrong form, got .*size",
        ),
        ("views: {a: b}\nstate: [{name: x, dim: 2}]\naction_dim: 2\noptional_views: [c]", "optional_views"),
        (
            "views: {a: b}\nstate: [{name: x, dim: 1}]\naction_dim: 1\n"
            "gripper: {dims: [0], state: [{range: {source: [1, 1], target: [0, 1]}}]}",
            "two different ends",
        ),
        ("views: {a: b}\nstate: [{name: x, dim: 1}]\naction_dim: 1\ndelta_mask: [1000000000000]", "delta_mask"),
        ("views: {a: b}\nstate: [{name: x, dim: 1000000000000}]\naction_dim: 1", "whole number of 1 to 4,096"),
        ("views: {a: b}\nstate: [{name: x, dim: 1}]\naction_dim: 0", "action_dim: expected a whole number"),
        ("views: {a: b}\nstate: [{name: x, dim: '1'}]\naction_dim: 1", "got '1'"),
        ("views: {a: [[b]]}\nstate: [{name: x, dim: 1}]\naction_dim: 1", "view 'a': expected a text"),
        ("views: [a]\nstate: [{name: x, dim: 1}]\naction_dim: 1", "views: expected an object"),
        (
            "views: {a: b}\nstate: [{name: x, dim: 1}]\naction_dim: 1\nconventions: [1]",
            "conventions: expected an object",
        ),
        ("views: {a: b}\nstate: [{name: x, dim: 1}]\naction_dim: 1\noverrides: 3", "overrides: expected an object"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("- 1", "expected keys"),
        ("{", "not YAML"),
    ],
)
def test_bad_mappings_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(FoveateError, match=message) as caught:
        RobotMapping.load(path)
    assert "mine.yaml" in str(caught.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x80abc")
    with pytest.raises(FoveateError, match="not YAML"):
        RobotMapping.load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FoveateError, match="no regular file"):
        RobotMapping.load(path)


def test_aliases_that_would_grow_without_end(tmp_path: Path) -> None:
    text = "views:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for old, new in pairwise("abcdefghijklmn"):
        text += f"  {new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text + "state: [{name: x, dim: 1}]\naction_dim: 1\n")
    with pytest.raises(FoveateError, match="view 'b': expected a text") as caught:
        RobotMapping.load(path)
    assert len(str(caught.value)) < 1000


def test_unknown_robot() -> None:
    with pytest.raises(FoveateError, match="did you mean 'droid'"):
        RobotMapping.load("doird")
