import importlib.util

import numpy as np
import pytest

from foveate.demonstrations.demonstrate import Disturbance, Learner, NoiseConfig, demonstrate, shrink
from foveate.envs.metaworld.env import MetaWorldEnv
from foveate.envs.suites import FOVEATE
from foveate.errors import FoveateError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


@pytest.fixture(scope="module")
def env():
    env = MetaWorldEnv(FOVEATE, image_size=112, max_steps=200)
    yield env
    env.close()


@pytest.mark.parametrize("task", FOVEATE)
def test_experts_succeed(env, task):
    wins = 0
    for seed in range(3):
        env.reset(task, 100 + seed)
        wins += any(env.step(env.advise().action, render=False).success for _ in range(env.max_steps))
    assert wins >= 2


def test_demonstration_is_labelled_with_clean_actions(env):
    noise = NoiseConfig(scale=0.3)
    demo = demonstrate(env, "window-open-v3", 3, noise, image_every=2, store_size=56, extra_steps=4)
    assert len(demo) == demo.success_step + 4
    assert demo.frames.tolist() == list(range(0, len(demo), 2))
    assert demo.images["corner"].shape == (len(demo.frames), 56, 56, 3)
    env.reset("window-open-v3", 3)
    disturbance = Disturbance(noise, 3)
    for state, action in zip(demo.states, demo.actions, strict=True):
        np.testing.assert_array_equal(env.state, state)
        np.testing.assert_array_equal(env.advise().action, action)
        executed = disturbance.apply(action)
        assert executed[3] == action[3]
        env.step(executed, render=False)


def test_a_learner_drives_and_the_expert_labels():
    env, seen = MetaWorldEnv(["window-open"], image_size=56, max_steps=12), []

    def stay(observation):
        seen.append(observation.state)
        return np.zeros((6, 4), np.float32)

    calm = NoiseConfig(scale=0.0, kick_rate=0.0)
    demo = demonstrate(env, "window-open-v3", 3, calm, 2, 56, 4, Learner(stay, share=1.0))
    assert demo is not None
    assert (demo.success_step, len(demo), len(seen)) == (0, 12, 2)
    assert np.ptp(demo.states[:, :3], axis=0).max() < 0.02  # the hand stayed where it was ...
    assert (demo.actions[:, 1] == 1.0).all()  # ... and was told throughout to go to the window
    expert = demonstrate(env, "window-open-v3", 3, calm, 2, 56, 4, Learner(stay, share=0.0))
    assert expert is not None
    assert np.ptp(expert.states[:, 1]) > 0.05
    env.close()


def test_disturbance_pushes_and_is_reproducible():
    calm, kicked = Disturbance(NoiseConfig(0, 0.9, 0.0), 0), Disturbance(NoiseConfig(0.3, 0.9, 1.0), 0)
    action = np.array([0.5, 0, 0, 1], np.float32)
    np.testing.assert_array_equal(calm.apply(action), action)
    again = Disturbance(NoiseConfig(0.3, 0.9, 1.0), 0)
    for _ in range(20):
        executed = kicked.apply(action)
        np.testing.assert_array_equal(executed, again.apply(action))
        assert not np.array_equal(executed, action)
        assert np.abs(executed).max() <= 1
    with pytest.raises(FoveateError, match="smoothness"):
        NoiseConfig(smoothness=1.0)


def test_shrink_is_the_mean_over_blocks():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0, 0] = 200
    assert shrink(picture, 2)[..., 0].tolist() == [[50, 0], [0, 0]]
    assert shrink(picture, 4) is picture
    with pytest.raises(FoveateError, match="whole factor"):
        shrink(picture, 3)
