import json

import numpy as np
import pytest
from PIL import Image

from foveate.envs.libero.reference import compare, known, reference_task, thumb
from foveate.testing.golden import golden_dir

TASK = "libero_object/0"


@pytest.fixture
def scene():
    """The settled scene of the golden data: the picture as policies see it, and where objects are."""
    folder = golden_dir("libero", "pictures")
    picture = np.asarray(Image.open(folder / "pictures/libero_object_t0_s0_agentview.png"))[::-1, ::-1]
    case = next(
        case
        for case in json.loads((folder / "truth.json").read_text())["cases"]
        if (case["suite"], case["task"], case["state"]) == ("libero_object", 0, 0)
    )
    return picture, case["settled"]["objects"]


def test_the_golden_scene_is_the_reference(scene):
    assert compare(TASK, *scene) == []


def test_a_pixel_in_two_squares_gives_to_both_by_area():
    """360 pixels, LeRobot's side, are no multiple of 16; held to squares of a picture with 16 x 16 dots per pixel."""
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    dots = picture.repeat(16, 0).repeat(16, 1).reshape(16, 24, 16, 40, 3)
    np.testing.assert_allclose(thumb(picture), dots.mean((1, 3)))


def test_a_dark_floor_is_named(scene):
    picture, objects = scene
    (told,) = compare(TASK, (picture * 0.73).astype(np.uint8), objects)
    assert "darker" in told and "3.3.3" in told


def test_an_upside_down_picture_is_named(scene):
    picture, objects = scene
    (told,) = compare(TASK, picture[::-1], objects)
    assert "differs from the reference" in told


def test_objects_that_slipped_are_named(scene):
    picture, objects = scene
    first = next(iter(objects))
    moved = {name: np.asarray(where) for name, where in objects.items()}
    moved[first] = moved[first] + np.array([0.047, 0, 0])
    (told,) = compare(TASK, picture, moved)
    assert "4.7 cm" in told and first in told
    assert "there is no" in compare(TASK, picture, {})[0]


def test_every_task_of_four_suites_has_a_reference():
    assert len(known()) == 40
    assert reference_task("libero_goal_lan/3") == "libero_goal/3"
    assert reference_task("libero_90/80") == TASK


def test_the_dark_floor_of_newer_mujoco_is_named():
    folder = golden_dir("libero", "pictures_mujoco_3.17.0")
    picture = np.asarray(Image.open(folder / "pictures_mujoco_3.17.0/libero_object_t0_s0_agentview.png"))[::-1, ::-1]
    assert "darker" in compare(TASK, picture, {n: np.asarray(w) for n, w in known()[TASK].items()})[0]
