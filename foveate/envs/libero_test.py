import importlib.util

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


@pytest.mark.libero
@pytest.mark.skipif(not HAS_LIBERO, reason="needs the libero package")
def test_an_episode_begins():
    env = LiberoEnv(("libero_goal/0",), image_size=64)
    seen = env.reset("libero_goal/0", 0)
    assert seen.state.shape == (8,)
    assert {image.shape for image in seen.images.values()} == {(64, 64, 3)}
    assert not env.step(np.zeros(7, np.float32)).done
    env.close()
