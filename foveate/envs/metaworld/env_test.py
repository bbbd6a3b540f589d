import importlib.util

import numpy as np
import pytest

from foveate.envs.base import EnvCrash
from foveate.envs.metaworld.env import SHARED_SCENE, MetaWorldEnv, canonical_task, instruction_of
from foveate.envs.suites import FOVEATE
from foveate.errors import FoveateError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


@pytest.fixture(scope="module")
def env():
    env = MetaWorldEnv(FOVEATE, image_size=112, max_steps=200)
    yield env
    env.close()


def test_seed_decides_the_scene(env):
    a, b, other = env.reset("push", 5), env.reset("push-v3", 5), env.reset("push", 6)
    np.testing.assert_array_equal(a.state, b.state)
    np.testing.assert_array_equal(a.images["corner"], b.images["corner"])
    assert (a.images["corner"] != other.images["corner"]).any()


def test_observation_and_steps(env):
    seen = env.reset("drawer-open", 0)
    assert seen.prompt == "open the drawer"
    assert seen.state.shape == (4,)
    assert {v: i.shape for v, i in seen.images.items()} == {"corner": (112, 112, 3), "gripperPOV": (112, 112, 3)}
    before = env.state
    result = env.step(np.array([0, 1, 0, -1], np.float32), render=False)
    assert result.observation is None
    for _ in range(10):
        result = env.step(np.array([0, 1, 0, -1], np.float32))
    assert result.observation.state[1] > before[1] + 0.05, "action y must move the hand forward"


def test_action_is_clipped_and_must_be_finite(env):
    def after(scale):
        env.reset("reach", 0)
        return env.step(np.array([scale, 0, 0, 0]), render=False), env.state

    np.testing.assert_array_equal(after(1.0)[1], after(50.0)[1])
    with pytest.raises(EnvCrash, match="finite"):
        env.step(np.array([np.nan, 0, 0, 0]))


def test_episode_ends_at_its_limit():
    env = MetaWorldEnv(["reach"], image_size=16, max_steps=2)
    env.reset("reach", 0)
    assert [env.step(np.zeros(4), render=False).done for _ in range(2)] == [False, True]
    with pytest.raises(FoveateError, match="reset"):
        env.step(np.zeros(4))
    env.close()


def test_shared_scene_shows_the_same_markers(env):
    """With puck and goal at the same places, pictures of reach and pick-place are equal: the instruction decides."""
    a, b = env.reset("reach", 4), env.reset("pick-place", 4)
    for view in env.views:
        np.testing.assert_array_equal(a.images[view], b.images[view])
    assert a.prompt != b.prompt
    for task in SHARED_SCENE:
        green = (env.reset(task, 4).images["corner"].astype(int) * [-1, 1, -1]).sum(-1) > 60
        assert green.sum() >= 12, f"{task}: the goal's marker is hardly to be seen"


def test_marker_stands_where_the_goal_is(env):
    """The first picture already shows the marker at this episode's goal, not at the last one's."""
    env.reset("push", 11)
    first = env.render()["corner"]
    env.reset("push", 12)
    env.reset("push", 11)
    np.testing.assert_array_equal(first, env.render()["corner"])
    np.testing.assert_allclose(env._sim.data.site("goal").xpos, env.raw[-3:])


def test_corner_view_is_upright(env):
    """The dark robot base is at the bottom left, the light background at the top."""
    image = env.reset("reach", 0).images["corner"].astype(float).mean(-1)
    assert image[:10].mean() > image[-20:, :20].mean() + 40


def test_names():
    assert canonical_task("push") == canonical_task("push-v3") == "push-v3"
    assert instruction_of("faucet-close-v3") == "faucet close"
    with pytest.raises(FoveateError, match="did you mean 'push-v3'"):
        canonical_task("psh")
    with pytest.raises(FoveateError, match="max_steps"):
        MetaWorldEnv(max_steps=501)
    with pytest.raises(FoveateError, match="look"):
        MetaWorldEnv(look="pretty")


def test_a_scene_is_known_from_its_first_instant(env):
    env.reset("window-open-v3", 10)
    first = env.raw.copy()
    env.step(np.zeros(4), render=False)
    np.testing.assert_allclose(first[4:7], env.raw[4:7], atol=2e-3)  # the window's handle, which the expert reads
