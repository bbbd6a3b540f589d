"""A cap spreads over tasks, episodes and time."""

from __future__ import annotations

from collections import Counter

from foveate.tracing.cap import DumpCap


def keep(limit, keys, held=()):
    """What is on the disk in the end."""
    cap, disk = DumpCap(limit, held), set(held)
    for key in keys:
        admitted, gone = cap.admit(key)
        disk -= {gone}
        disk |= {key} if admitted else set()
        assert len(disk) <= limit
    return disk


def run(tasks, episodes, steps):
    return [(t, e, 5 * s) for t in range(tasks) for e in range(episodes) for s in range(steps)]


def test_tasks_and_episodes_share_the_room():
    disk = keep(60, run(3, 5, 32))
    assert len(disk) == 60
    assert set(Counter(task for task, _, _ in disk).values()) == {20}
    assert set(Counter((task, episode) for task, episode, _ in disk).values()) == {4}
    steps = sorted(step for task, episode, step in disk if (task, episode) == (0, 0))
    assert steps[0] == 0 and steps[-1] > 80, "an episode that gave way still reaches over its time"


def test_room_that_short_episodes_leave_goes_to_long_ones():
    keys = [(0, 0, step) for step in range(50)] + [(0, e, step) for e in (1, 2) for step in range(3)]
    assert Counter(e for _, e, _ in keep(20, keys)) == {0: 14, 1: 3, 2: 3}


def test_more_episodes_than_room_lie_evenly_over_the_run():
    disk = keep(4, run(1, 32, 6))
    assert sorted(disk) == [(0, 0, 0), (0, 8, 0), (0, 16, 0), (0, 24, 0)]
    assert sorted(keep(2, run(5, 3, 6))) == [(0, 0, 0), (4, 0, 0)]


def test_what_an_interrupted_run_left_counts_and_gives_way_too():
    held = [(0, 0, step) for step in range(6)]
    disk = keep(6, [(0, 1, step) for step in range(9)], held)
    assert Counter(e for _, e, _ in disk) == {0: 3, 1: 3}


def test_no_room_and_room_for_one():
    assert keep(0, run(2, 2, 3)) == set()
    assert len(keep(1, run(2, 2, 3))) == 1
