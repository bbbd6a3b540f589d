from __future__ import annotations

import numpy as np

from foveate.models.common.robots import RobotMapping
from foveate.studies.fit.critical import Entries, critical, of_robot, window_facts


def test_a_closing_hand_a_stop_and_a_bend_are_critical_and_a_straight_way_is_not() -> None:
    # East for 20 steps, north for 20, then it stands; the gripper closes at step 30.
    way = np.concatenate([np.tile([1.0, 0, 0], (20, 1)), np.tile([0, 1.0, 0], (20, 1)), np.zeros((10, 3))])
    place = np.cumsum(way, axis=0)
    opening = np.where(np.arange(50) < 30, 1.0, 0.0)[:, None]
    states = np.concatenate([place, opening], axis=1)
    actions = np.zeros((50, 4))
    entries = of_robot(RobotMapping.load("metaworld"))
    assert entries == Entries(position=(0, 1, 2), gripper_state=(3,), gripper_action=(3,))
    starts = list(range(0, 50, 5))
    facts = window_facts(states, actions, starts, entries, 5)
    found = critical(facts)
    assert [s for s, yes in zip(starts, found["gripper"], strict=True) if yes] == [25, 30]
    assert [s for s, yes in zip(starts, found["contact"], strict=True) if yes] == [40]
    assert [s for s, yes in zip(starts, found["curvature"], strict=True) if yes] == [20]
    # In other units it is the same.
    scaled = critical(window_facts(states * [1e-3, 1e-3, 1e-3, 40], actions, starts, entries, 5))
    assert all((found[kind] == scaled[kind]).all() for kind in found)


def test_nothing_is_critical_where_nothing_happens() -> None:
    entries = Entries((0,), (1,), ())
    still = critical(window_facts(np.zeros((9, 2)), np.zeros((9, 1)), [0, 4, 8], entries, 4))
    straight = np.stack([np.arange(9.0), np.zeros(9)], axis=1)
    moving = critical(window_facts(straight, np.zeros((9, 1)), [0, 2, 4], entries, 2))
    assert not any(mask.any() for found in (still, moving) for mask in found.values())


def test_entries_of_robots_without_a_hand_are_their_joints() -> None:
    aloha = of_robot(RobotMapping.load("aloha"))
    assert aloha.gripper_action == (6, 13) and aloha.gripper_state == (6, 13)
    assert aloha.position == (*range(6), *range(7, 13))
    assert of_robot(RobotMapping.load("libero_oft")) == Entries((0, 1, 2), (6, 7), (6,))
