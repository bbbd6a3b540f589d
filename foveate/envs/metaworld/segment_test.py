import importlib.util

import numpy as np
import pytest

from foveate.envs.metaworld.env import MetaWorldEnv
from foveate.envs.worker import WorkerEnv

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


@pytest.fixture(scope="module")
def env():
    env = MetaWorldEnv(["push", "drawer-open"], image_size=112)
    yield env
    env.close()


def test_masks_lie_on_what_the_picture_shows(env):
    before = env.reset("push", 0)
    masks = env.segment()
    assert set(masks) == {"corner", "gripperPOV"}
    # The puck is the one blue thing of the scene, the goal with its pole the one bright green one.
    image = before.images["gripperPOV"].astype(int)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    for name, seen in (
        ("puck", (blue > 2 * red) & (blue > 2 * green)),
        ("goal", (green > 2 * red) & (green > 2 * blue)),
    ):
        mask = masks["gripperPOV"][name]
        assert mask.dtype == bool and mask.shape == (112, 112)
        assert (mask & seen).sum() / (mask | seen).sum() > 0.8, name
    corner = before.images["corner"].astype(int)
    arm = (corner[..., 0] > 2 * corner[..., 1]) & (corner[..., 0] > 60)  # Sawyer is red
    assert masks["corner"]["robot"][arm].mean() > 0.95
    np.testing.assert_array_equal(env.render()["corner"], before.images["corner"], "pictures are as before")


def test_objects_are_disjoint_named_and_of_any_size(env):
    env.reset("drawer-open", 1)
    masks = env.segment((320, 180))["corner"]
    assert {"drawer", "drawer_case", "robot"} <= set(masks) and "tablelink" not in masks
    assert masks["drawer"].shape == (180, 320)
    assert np.sum(list(masks.values()), axis=0).max() == 1
    assert (masks["drawer"] | masks["drawer_case"]).mean() > 0.01


def test_a_worker_hands_masks_over():
    with WorkerEnv("metaworld", tasks=["push"], image_size=64) as worker:
        worker.reset("push-v3", 0)
        masks = worker.segment()
        assert masks["corner"]["robot"].shape == (64, 64) and masks["corner"]["robot"].dtype == bool
