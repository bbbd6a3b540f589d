import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.evaluation.sim.controls import Perception, variant_name
from foveate.types import Observation

TASKS = {"push": "push the puck", "reach": "reach the goal", "close": "close the drawer"}


def observation():
    return Observation({"corner": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)}, np.ones(4), "push the puck")


def test_normal_changes_nothing():
    seen = Perception()(observation(), "push", 0)
    np.testing.assert_array_equal(seen.images["corner"], observation().images["corner"])
    assert seen.prompt == "push the puck"


def test_blind_is_grey_and_keeps_the_state():
    seen = Perception(vision="blind")(observation(), "push", 0)
    assert (seen.images["corner"] == 128).all() and seen.images["corner"].shape == (2, 2, 3)
    assert seen.state.tolist() == [1, 1, 1, 1] and seen.prompt == "push the puck"


def test_shuffled_gives_each_wrong_instruction_equally_often():
    perceive = Perception(instruction="shuffled", instructions=TASKS, seed=3)
    for task in TASKS:
        given = [perceive(observation(), task, e).prompt for e in range(10)]
        assert TASKS[task] not in given
        assert sorted(map(given.count, set(given))) == [5, 5]
        assert given == [perceive(observation(), task, e).prompt for e in range(10)]


def test_shuffling_needs_two_instructions():
    with pytest.raises(FoveateError, match="at least two tasks"):
        Perception(instruction="shuffled", instructions={"push": "push the puck"})


def test_names():
    assert variant_name(None) == "full"
    assert variant_name("LightVLA") == "lightvla"
    assert variant_name(None, "blind") == "blind"
    assert variant_name("LightVLA", "blind", "shuffled") == "lightvla_blind_shuffled_instruction"
