"""The simulator goes on while the policy thinks, so that a faster engine or a shorter prefix shows as success.

    latency = Latency("measured", env.conventions)
    waiting, first = latency.meanwhile(chunk, rest, last)

An inference of so many milliseconds lasts ceil(milliseconds x control rate) steps. What happens in them is the
`Chunking`:

- `queue`: the robot goes on with what is left of the chunk before, and then holds still. Of the new chunk those
  actions are skipped that were meant for the instants in which the old one moved the robot on, as a robot's queue does
  (action k of a chunk is meant for k steps after its picture); while the robot held still, its plan waited with it, and
  nothing is skipped for that.
- `real_time`: so, too, and the policy is told what is left, so that the new chunk goes on from it.
- `synchronous`: the robot holds still until the chunk is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveate.envs.base import EnvConventions
from foveate.errors import FoveateError
from foveate.types import ActionChunk, LeftOver

Inject = Literal["measured"] | float
"""Milliseconds of every inference, or `measured`: what each one took (`total`, pre- and post-processing included)."""
Chunking = Literal["synchronous", "queue", "real_time"]


@dataclass(frozen=True)
class Latency:
    """How much of an environment's time an inference takes, and what happens in it."""

    inject: Inject
    conventions: EnvConventions
    chunking: Chunking = "queue"

    def __post_init__(self) -> None:
        rate = self.conventions.control_hz
        if not (math.isfinite(rate) and rate > 0):
            raise FoveateError(
                f"inject_latency: the environment declares a control rate of {rate} Hz; its conventions must say how "
                "many actions it takes per second (control_hz)"
            )

    def steps(self, chunk: ActionChunk | None) -> int:
        """Steps of the environment that pass while this chunk is inferred; None: it is not known, and 0 if measured."""
        if self.inject != "measured":
            ms = self.inject
        else:
            ms = 0.0 if chunk is None else chunk.timings_ms["total"]
        return math.ceil(ms * self.conventions.control_hz / 1e3)

    def left_over(self, rest: np.ndarray, before: ActionChunk | None) -> LeftOver | None:
        """What the policy is told of the chunk before; None: nothing.

        Args:
            rest: float32 [n, action_dim] that are left of it.
            before: it took as long as the coming inference is expected to, where that is measured.
        """
        if self.chunking != "real_time" or not len(rest):
            return None
        return LeftOver(rest, min(self.steps(before), len(rest)))

    def meanwhile(self, chunk: ActionChunk, rest: np.ndarray, last: np.ndarray | None) -> tuple[list[np.ndarray], int]:
        """What the robot does until the chunk is there, and the chunk's first action that is not past by then.

        Args:
            rest: float32 [n, action_dim], of the chunk before, what follows the action executed last.
            last: float32 [action_dim], the action executed last; None: this is the first inference.
        """
        steps = self.steps(chunk)
        old = [] if self.chunking == "synchronous" else list(rest[:steps])
        held = self.hold(old[-1] if old else last)
        return old + [held] * (steps - len(old) if held is not None else 0), len(old)

    def hold(self, last: np.ndarray | None) -> np.ndarray | None:
        """The action that leaves the robot where it is.

        Relative motion: none, with the gripper as it was, open before the first action. An absolute target: the one
        before; None where there was none, and then the robot stands still and no step passes.
        """
        if not self.conventions.delta:
            return last
        still = np.zeros(self.conventions.action_dim, np.float32)
        if self.conventions.action_space.endswith("+gripper"):
            opened = -1.0 if self.conventions.gripper_sign == "positive_closes" else 1.0
            still[-1] = opened if last is None else last[-1]
        return still


def label(inject: Inject, chunking: Chunking = "queue") -> str:
    """What a variant's name says of it: `latency_measured`, `latency_80ms`, `real_time_80ms`."""
    return f"{'latency' if chunking == 'queue' else chunking}_{'measured' if inject == 'measured' else f'{inject:g}ms'}"
