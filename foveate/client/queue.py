"""Chunks of actions, one action at a time: open loop, or in real time while the next chunk is inferred.

queue = ActionQueue(client, replan_steps=5)
while True:
    robot.step(queue.action(robot.observe))           # `observe` is called only where the policy is asked

with RealTimeQueue(client, replan_steps=5) as queue:  # the robot moves on while the policy thinks
    ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from foveate.errors import FoveateError

Observe = Callable[[], Mapping[str, Any]]
"""Gives the observation of this instant, as `PolicyClient.infer` takes it."""


class Infers(Protocol):
    """What a queue needs of a client; `PolicyClient`, or openpi-client's."""

    def infer(self, obs: Mapping[str, Any]) -> dict[str, Any]: ...
    def reset(self) -> None: ...


class ActionQueue:
    """Executes so many actions of each chunk before it asks again; the robot waits for each inference.

    Args:
        replan_steps: actions of a chunk that are executed; None: all.
    """

    def __init__(self, client: Infers, replan_steps: int | None = None) -> None:
        self._client, self._replan_steps = client, _at_least_one(replan_steps)
        self._left: deque[np.ndarray] = deque()

    def action(self, observe: Observe) -> np.ndarray:
        """The next action, float32 [action_dim]."""
        if not self._left:
            self._left.extend(_actions(self._client.infer(observe()))[: self._replan_steps])
        return self._left.popleft()

    def reset(self) -> None:
        """A new episode begins."""
        self._left.clear()
        self._client.reset()


class RealTimeQueue:
    """Asks for the next chunk in a thread while the robot goes on with the one before.

    Action k of a chunk is meant for k steps after its picture, so of a new chunk those are skipped in whose instants
    the old one moved the robot on. Where the old chunk ends before the new one is there, the robot holds still, and
    nothing is skipped for that.

    Where the server conditions on what is left of the chunk before (`real_time_chunking` in its metadata; Black et al.
    2025, "Real-Time Execution of Action Chunking Flow Policies"), it is told: `prev_chunk_left_over` float32 [n,
    action_dim], `inference_delay` (steps that will be executed of it before the answer, as seen so far) and
    `execution_horizon`.

    Args:
        replan_steps: actions of a chunk that are executed before the next one is asked for.
        execution_horizon: how many actions of what is left guide the new chunk, at most; None: all.
        delays: past inferences whose longest delay, in steps, is expected of the next one.
    """

    def __init__(
        self, client: Infers, replan_steps: int, execution_horizon: int | None = None, *, delays: int = 10
    ) -> None:
        self._client, self._replan_steps = client, _at_least_one(replan_steps)
        self._execution_horizon = _at_least_one(execution_horizon)
        self._delays: deque[int] = deque(maxlen=delays)
        metadata: Mapping[str, Any] = getattr(client, "get_server_metadata", dict)()
        self._conditions = bool(metadata.get("real_time_chunking"))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ask")
        self._pending: Future[np.ndarray] | None = None
        self._chunk = np.empty((0, 0), np.float32)
        self._next = self._asked_at = 0

    def action(self, observe: Observe) -> np.ndarray | None:
        """The next action, float32 [action_dim]; None: there is none yet, and the robot holds still.

        The first call of an episode waits for its chunk.

        Raises:
            FoveateError: what the policy's client raised since the last call.
        """
        if self._pending is None and self._next >= min(len(self._chunk), self._replan_steps or 0):
            self._ask(observe())
        if self._pending is not None and (self._pending.done() or not len(self._chunk)):
            self._take(self._pending)
        if self._next >= len(self._chunk):
            return None
        self._next += 1
        action: np.ndarray = self._chunk[self._next - 1]
        return action

    def reset(self) -> None:
        """A new episode begins; an inference that runs is waited for and forgotten."""
        if self._pending is not None:
            self._pending.exception()
        self._pending, self._next = None, 0
        self._chunk = self._chunk[:0]
        self._client.reset()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)

    def __enter__(self) -> RealTimeQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, observation: Mapping[str, Any]) -> None:
        message = dict(observation)
        left = self._chunk[self._next :]
        if self._conditions and len(left):
            message["prev_chunk_left_over"] = left
            message["inference_delay"] = min(max(self._delays, default=0), len(left))
            if self._execution_horizon is not None:
                message["execution_horizon"] = self._execution_horizon
        self._asked_at = self._next
        self._pending = self._thread.submit(lambda: _actions(self._client.infer(message)))

    def _take(self, pending: Future[np.ndarray]) -> None:
        self._pending = None
        chunk = pending.result()
        delay = self._next - self._asked_at
        self._delays.append(delay)
        self._chunk, self._next = chunk, min(delay, len(chunk))


def _actions(answer: Mapping[str, Any]) -> np.ndarray:
    actions = np.asarray(answer["actions"], np.float32)
    if actions.ndim != 2 or not len(actions):
        raise FoveateError(f"expected actions [horizon, action_dim], got shape {list(actions.shape)}")
    return actions


def _at_least_one(steps: int | None) -> int | None:
    if steps is not None and steps < 1:
        raise FoveateError(f"replan_steps and execution_horizon: expected at least 1, got {steps}")
    return steps
