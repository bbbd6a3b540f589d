import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.envs.libero import LiberoEnv, axis_angle
from foveate.errors import FoveateError

HAS_LIBERO = importlib.util.find_spec("libero") is not None


def test_axis_angle():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(axis_angle(np.array([half, 0, 0, half])), [np.pi / 2, 0, 0])
    np.testing.assert_allclose(axis_angle(np.array([0, 0, 0, 1.0])), 0)
    # w < 0 is the same turn the long way round; it is not shortened.
    np.testing.assert_allclose(axis_angle(np.array([0, 0, half, -half])), [0, 0, 1.5 * np.pi])


@pytest.mark.skipif(HAS_LIBERO, reason="LIBERO is installed")
def test_missing_package_is_one_clear_sentence():
    with pytest.raises(FoveateError, match=r'pip install "foveate\[libero\]"'):
        LiberoEnv()


def test_masks_are_turned_as_the_pictures_are():
    """Against a stand-in of robosuite's interface: names by geom, pictures upside down and mirrored."""
    ids = np.full((4, 6, 2), -1)
    ids[0, 0] = (5, 7)  # a geom of the bowl, at the lower right when upright
    ids[1, 1], ids[2, 2] = (5, 3), (6, 7)  # a geom of the arm; a site with the bowl's number
    ids[3, 3] = (5, 9)  # a geom of the arena
    sizes = []

    def render(camera_name, width, height, segmentation):
        sizes.append((camera_name, width, height, segmentation))
        return ids

    model = SimpleNamespace(geom_ids_to_instances={7: "akita_black_bowl_1", 3: "Panda0"})
    env = object.__new__(LiberoEnv)
    env.image_size, env._sim = 4, SimpleNamespace(env=SimpleNamespace(model=model, sim=SimpleNamespace(render=render)))
    masks = env.segment((6, 4))
    assert sizes == [("agentview", 6, 4, True), ("robot0_eye_in_hand", 6, 4, True)]
    assert set(masks["agentview"]) == {"akita_black_bowl_1", "robot"}
    assert np.argwhere(masks["eye_in_hand"]["akita_black_bowl_1"]).tolist() == [[3, 5]]
    assert np.argwhere(masks["agentview"]["robot"]).tolist() == [[2, 4]]


@pytest.mark.libero
@pytest.mark.skipif(not HAS_LIBERO, reason="needs the libero package")
def test_an_episode_begins():
    env = LiberoEnv(("libero_goal/0",), image_size=64)
    seen = env.reset("libero_goal/0", 0)
    assert seen.state.shape == (8,)
    assert {image.shape for image in seen.images.values()} == {(64, 64, 3)}
    assert not env.step(np.zeros(7, np.float32)).done
    assert "robot" in env.segment()["agentview"]
    env.close()
