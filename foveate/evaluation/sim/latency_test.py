"""What the simulator is told while the policy thinks: every action, in order, against a list written by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from foveate.envs.base import EnvConventions, StepResult
from foveate.errors import FoveateError
from foveate.evaluation.sim.latency import Latency
from foveate.evaluation.sim.rollout import Job, RolloutConfig, rollout
from foveate.types import ActionChunk, Observation

DELTA = EnvConventions("eef_xyz+gripper", 4, True, "positive_closes", control_hz=20.0)
ABSOLUTE = EnvConventions("joint_position+gripper", 4, False, "positive_closes", control_hz=20.0)
HORIZON = 5


class Stub:
    """Remembers what it was told to do, and which steps were looked at."""

    def __init__(self, success_at: int | None = None) -> None:
        self.success_at = success_at

    def _see(self) -> Observation:
        self.looked.append(len(self.told))
        return Observation({"corner": np.zeros((8, 8, 3), np.uint8)}, np.zeros(1), "stand")

    def reset(self, task, seed):
        self.told: list[tuple[float, float]] = []
        self.looked: list[int] = []
        return self._see()

    def step(self, action, render=True):
        self.told.append((float(action[0]), float(action[-1])))
        return StepResult(self._see() if render else None, len(self.told) == self.success_at, len(self.told) >= 40)


class Counting:
    """Chunk q is 100 q + (0, 1, 2 ...), the gripper q + 1; each takes as long as it is told."""

    def __init__(self, ms: list[float]) -> None:
        self.ms, self.asked, self.told = ms, 0, []

    def infer_batch(self, observations, noise=None, left_over=(None,), **_):
        (left,) = left_over
        self.told.append(None if left is None else (left.actions[:, 0].tolist(), left.inference_delay))
        actions = np.zeros((HORIZON, 4), np.float32)
        actions[:, 0], actions[:, -1] = 100 * self.asked + np.arange(HORIZON), self.asked + 1
        chunk = ActionChunk(actions, {"total": self.ms[min(self.asked, len(self.ms) - 1)]})
        self.asked += 1
        return [chunk]

    def reset(self, session=None):
        pass


def play(
    inject,
    max_steps: int,
    ms=(0.0,),
    conventions=DELTA,
    replan: int = 2,
    success_at=None,
    chunking="queue",
    policy=None,
):
    env, played = Stub(success_at), []
    latency = None if inject is None else Latency(inject, conventions, chunking)
    config = RolloutConfig(max_steps=max_steps, replan_steps=replan, latency=latency)
    rollout(
        policy or Counting(list(ms)), [env], [Job("stand", 0, 0, 0)], config, noise_shape=None, on_episode=played.append
    )
    (episode,) = played
    return env, episode


def test_the_rest_of_the_old_chunk_and_then_no_motion_with_the_gripper_kept() -> None:
    """20 Hz, 101 ms: three steps. Of a chunk of five, two are executed, so three are left the first time."""
    env, episode = play(101.0, 17)
    held = [(0.0, -1.0)] * 3  # the first query: nothing to go on with, the gripper open
    first = [(0, 1), (1, 1)]
    old, second = [(2, 1), (3, 1), (4, 1)], [(103, 2), (104, 2)]  # 100 to 102 were meant for the steps that passed
    stood, third = [(0, 2)] * 3, [(200, 3), (201, 3)]  # nothing is left of chunk 1; its gripper stays
    assert env.told == [*held, *first, *old, *second, *stood, *third, (202, 3), (203, 3)]
    assert env.looked[:4] == [0, 5, 10, 15]
    assert [row["delay_steps"] for row in episode.queries] == [3, 3, 3, 3]
    assert [row["step"] for row in episode.queries] == [0, 5, 10, 15]
    assert episode.result.steps == 17 and episode.result.status == "failure"
    assert episode.result.extra == {"task_id": 0, "inject_latency": 101.0, "delay_steps": 12}


def test_a_latency_longer_than_the_chunk() -> None:
    """500 ms: ten steps, of which three go on with the old chunk."""
    env, _ = play(500.0, 34)
    assert env.told[:12] == [(0.0, -1.0)] * 10 + [(0, 1), (1, 1)]
    assert env.told[12:24] == [(2, 1), (3, 1), (4, 1)] + [(0, 1)] * 7 + [(103, 2), (104, 2)]
    assert env.told[24:] == [(0, 2)] * 10


def test_in_real_time_the_policy_is_told_what_is_left_and_how_long_it_takes() -> None:
    policy = Counting([0.0])
    env, episode = play(101.0, 17, chunking="real_time", policy=policy)
    assert (
        policy.told == [None, ([2, 3, 4], 3), None, ([202, 203, 204], 3)][: len(policy.told)] and len(policy.told) > 2
    )
    assert env.told == play(101.0, 17)[0].told, "the robot does what it does with a queue"
    assert episode.result.extra["chunking"] == "real_time"
    measured = Counting([0.0, 60.0, 20.0])
    play("measured", 12, chunking="real_time", policy=measured)
    assert measured.told[1] == ([2, 3, 4], 0) and measured.told[2] == ([104], 1), "as long as the one before"


def test_a_synchronous_robot_holds_still_and_skips_nothing() -> None:
    env, _ = play(101.0, 10, chunking="synchronous")
    assert env.told == [(0.0, -1.0)] * 3 + [(0, 1), (1, 1)] + [(0, 1)] * 3 + [(100, 2), (101, 2)]


@pytest.mark.parametrize(("ms", "steps"), [(0.0, 0), (0.1, 1), (50.0, 1), (50.1, 2), (150.0, 3), (1000.0, 20)])
def test_steps_are_rounded_up(ms: float, steps: int) -> None:
    assert Latency(ms, DELTA).steps(ActionChunk(np.zeros((5, 4)))) == steps


def test_what_was_measured_counts_inference_by_inference() -> None:
    env, episode = play("measured", 12, ms=(0.0, 60.0, 20.0))
    assert [row["delay_steps"] for row in episode.queries] == [0, 2, 1, 1]
    first, second = [(0, 1), (1, 1)], [(2, 1), (3, 1), (102, 2), (103, 2)]
    third = [(104, 2), (201, 3), (202, 3)]
    assert env.told == [*first, *second, *third, (203, 3), (301, 4), (302, 4)]
    assert episode.result.extra["inject_latency"] == "measured"


def test_an_absolute_target_is_held_by_telling_it_again() -> None:
    env, episode = play(200.0, 8, conventions=ABSOLUTE)
    assert env.told == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (4, 1), (103, 2), (104, 2)]
    assert [row["delay_steps"] for row in episode.queries] == [0, 4]  # before the first target there is none to hold


def test_no_latency_is_what_it_was() -> None:
    (without, plain), (with_zero, zero) = play(None, 9), play(0.0, 9)
    assert without.told == with_zero.told == [(100 * q + i, q + 1) for q in range(5) for i in range(2)][:9]
    assert without.looked == with_zero.looked
    assert [row.pop("delay_steps") for row in zero.queries] == [0] * 5
    zero.result.extra = {"task_id": 0}
    same = {"wall_s": 0.0}
    assert dataclasses.replace(plain.result, **same) == dataclasses.replace(zero.result, **same)
    assert plain.queries == zero.queries


def test_success_while_the_policy_thinks_counts() -> None:
    env, episode = play(100.0, 30, success_at=6)
    assert episode.result.status == "success" and episode.result.steps == len(env.told) == 6


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_an_environment_without_a_control_rate_is_refused(rate: float) -> None:
    with pytest.raises(FoveateError, match="control rate"):
        Latency(10.0, dataclasses.replace(DELTA, control_hz=rate))
