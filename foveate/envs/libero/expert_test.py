import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.envs.libero import LiberoEnv
from foveate.envs.libero.expert import PickAndPlace
from foveate.envs.libero.shapes import BOX
from foveate.errors import FoveateError

HAS_LIBERO = importlib.util.find_spec("libero") is not None


class Toy:
    """A hand without a robot, a box and a tray, behind the part of robosuite's interface that the expert reads.

    The hand moves 1 cm a step at most and its fingers, which lie along y, 1 cm; a box between them is held and carried,
    one that is let go falls at once. Body 0 is the world.
    """

    def __init__(self, goal, box=(0.02, 0.02, 0.05), tray=(0.1, 0.1, 0.02)):
        self.parsed_problem = {"goal_state": [goal]}
        self.objects_dict = {"box_1": None, "tray_1": None}
        self.obj_body_id = {"box_1": 1, "tray_1": 2}
        self.places = np.array([[0.0, 0, 0], [0.1, -0.1, box[2]], [0.0, 0.25, tray[2]]])
        self.box, self.hand, self.opening, self.held = np.array(box), np.array([-0.1, 0.0, 0.3]), 0.08, False
        self.moving = 0.0
        pads = {"left_finger": ["l"], "right_finger": ["r"]}
        gripper = SimpleNamespace(joints=["l", "r"], important_sites={"grip_site": "site"}, important_geoms=pads)
        self.robots = [SimpleNamespace(gripper=gripper, base_pos=np.array([-0.66, 0.0, 0.9]))]
        model = SimpleNamespace(
            ngeom=2,
            geom_contype=[1, 1],
            geom_type=[BOX, BOX],
            geom_size=[box, tray],
            geom_bodyid=[1, 2],
            body_parentid=[0, 0, 0],
        )
        down = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])  # fingers along y, pointing down
        upright = np.stack([np.eye(3).ravel()] * 3)
        data = SimpleNamespace(
            body_xpos=self.places,
            body_xmat=upright,
            geom_xpos=self.places[1:],
            geom_xmat=upright[1:],
            get_site_xpos=lambda name: self.hand,
            get_site_xmat=lambda name: down,
            get_joint_qpos=lambda name: self.opening / 2 * (1 if name == "l" else -1),
            get_joint_qvel=lambda name: self.moving,
        )
        self.sim = SimpleNamespace(model=model, data=data)

    def get_object(self, name):
        return name

    def _check_grasp(self, gripper, object_geoms):
        assert (gripper, object_geoms) == ([["l"], ["r"]], "box_1")
        return self.held

    def step(self, action):
        away = np.abs(self.hand - self.places[1])
        around = away[0] < 0.01 and away[1] < 0.02 and away[2] < self.box[2]
        self.hand = self.hand + 0.01 * action[:3]
        if self.held and around:
            self.places[1] += 0.01 * action[:3]
        before = self.opening
        narrowest = 2 * self.box[1] if around else 0.0
        self.opening = float(np.clip(self.opening - 0.01 * action[6], narrowest, 0.08))
        self.moving = abs(self.opening - before) * 20
        self.held = around and self.opening == narrowest
        if not self.held:
            over_tray = (np.abs(self.places[1] - self.places[2])[:2] < 0.1).all()
            stands = over_tray and self.parsed_problem["goal_state"][0][0] == "on"  # what is put in falls to the ground
            self.places[1, 2] = self.box[2] + (2 * 0.02 if stands else 0.0)

    def play(self, steps=250):
        """The expert for so many steps; whether the box then lies on the tray and the hand is away from it."""
        expert = PickAndPlace(self)
        for _ in range(steps):
            action = expert.action()
            assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1
            self.step(action)
        on_tray = (np.abs(self.places[1] - self.places[2])[:2] < 0.03).all()
        return bool(on_tray and self.hand[2] > self.places[1, 2] + 0.1 and self.opening > 0.07)


@pytest.mark.parametrize("goal", [["in", "box_1", "tray_1_contain_region"], ["on", "box_1", "tray_1"]])
def test_it_takes_the_box_to_the_tray_and_lets_go(goal):
    assert Toy(goal).play()


def test_what_it_says_depends_on_the_state_not_on_who_drove_there():
    toy = Toy(["on", "box_1", "tray_1"])
    expert = PickAndPlace(toy)
    for _ in range(60):
        toy.step(expert.action())
    np.testing.assert_array_equal(expert.action(), PickAndPlace(toy).action())
    assert toy.held
    toy.hand = toy.hand + np.array([0.1, 0.1, 0.1])  # the box slips out
    toy.step(np.zeros(7))
    assert expert.action()[6] == -1.0  # it opens, to take it again
    assert toy.play()


def test_after_a_miss_it_rises_and_tries_again():
    toy = Toy(["on", "box_1", "tray_1"])
    expert = PickAndPlace(toy)
    grasp = toy.places[1] + np.array([0.0, 0.0, 2 * 0.05 - 0.035 - 0.05])
    toy.hand, toy.opening = grasp, 0.0
    toy.held = False
    assert expert.action()[6] == 1.0
    assert [expert.action()[6] for _ in range(12)] == [-1.0] * 12
    assert toy.play()


def bowl_toy():
    """A box too wide for the fingers, taken at its rim."""
    return Toy(["on", "box_1", "tray_1"], box=(0.05, 0.05, 0.02))


def test_a_rim_is_taken_where_the_fingers_need_not_turn():
    grasp = PickAndPlace(bowl_toy())._grasp(*PickAndPlace(bowl_toy())._box("box_1"))
    np.testing.assert_allclose(grasp.position, [0.1, -0.047, 0.01], atol=1e-9)
    np.testing.assert_allclose(grasp.axis, [0, 1], atol=1e-9)
    missed = PickAndPlace(bowl_toy())
    missed.misses = 1
    np.testing.assert_allclose(missed._grasp(*missed._box("box_1")).axis, [0, -1], atol=1e-9)


def test_a_rim_is_taken_where_the_arm_can_put_it_down():
    toy = bowl_toy()
    toy.places[2, 0] = 0.04  # with the hand behind it, 0.76 m from the arm's foot
    expert = PickAndPlace(toy)
    grasp = expert._grasp(*expert._box("box_1"))
    put_down = toy.places[2] + grasp.position - toy.places[1] - [-0.66, 0, 0]
    assert np.linalg.norm(put_down[:2]) < 0.75 and grasp.axis[1] > 0
    assert np.linalg.norm((grasp.position - toy.places[1])[:2]) == pytest.approx(0.053)


def test_what_is_gripped_is_not_let_go_while_the_fingers_still_move():
    toy = Toy(["on", "box_1", "tray_1"])
    toy.hand, toy.opening, toy.held, toy.moving = toy.places[1] + np.array([0.03, 0.0, 0.0]), 0.04, True, 0.1
    np.testing.assert_array_equal(PickAndPlace(toy).action()[[0, 1, 2, 6]], [0, 0, 0, 1])


def test_what_gives_way_between_the_fingers_is_not_followed():
    toy = Toy(["on", "box_1", "tray_1"])
    expert = PickAndPlace(toy)
    toy.hand = toy.places[1] + np.array([0.0, 0.0, 0.015])
    assert expert.action()[6] == 1.0
    toy.opening = 0.03
    toy.places[1, 1] += 0.005
    np.testing.assert_allclose(expert.action()[:2], 0.0, atol=1e-6)


def test_tasks_of_another_kind_are_refused():
    with pytest.raises(FoveateError, match="picks one object"):
        PickAndPlace(Toy(["open", "drawer_1"]))
    with pytest.raises(FoveateError, match="both must be loose objects"):
        PickAndPlace(Toy(["on", "box_1", "stove_1_cook_region"]))


@pytest.mark.libero
@pytest.mark.skipif(not HAS_LIBERO, reason="needs the libero package: make libero, then its interpreter's pytest")
class TestInLibero:
    """Run by the interpreter that has LIBERO: `.venv-libero/bin/python -m pytest -m libero foveate/envs/libero`."""

    @pytest.mark.parametrize("task", ["libero_object/1", "libero_object/2", "libero_spatial/0"])
    def test_it_succeeds(self, task):
        env = LiberoEnv((task,))
        observation = env.reset(task, 1)
        np.testing.assert_array_equal(env.advise().state, observation.state)
        for _ in range(env.max_steps):
            result = env.step(env.advise().action, render=False)
            if result.done:
                break
        env.close()
        assert result.success

    def test_a_task_that_is_none_of_its(self):
        env = LiberoEnv(("libero_goal/0",))
        env.reset("libero_goal/0", 0)
        with pytest.raises(FoveateError, match="picks one object"):
            env.advise()
        env.close()
