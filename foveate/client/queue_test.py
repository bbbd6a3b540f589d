"""Which action is executed when: open loop, and in real time while an inference runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from foveate.client.queue import ActionQueue, RealTimeQueue
from foveate.errors import FoveateError


class Client:
    """Chunk c has the actions 100 c, 100 c + 1, ...; an inference ends when the test lets it.

    Args:
        free: whether inferences end at once.
    """

    def __init__(self, horizon=10, free=True, metadata=None):
        self.horizon, self.free, self.metadata = horizon, free, metadata or {}
        self.asked, self.resets = [], 0
        self.go = threading.Semaphore(0)

    def get_server_metadata(self):
        return self.metadata

    def infer(self, obs):
        self.asked.append(dict(obs))
        chunk = len(self.asked) - 1
        if not self.free and chunk:
            assert self.go.acquire(timeout=10)
        if obs.get("fail"):
            raise FoveateError("no such observation")
        return {"actions": 100 * chunk + np.arange(self.horizon, dtype=np.float32)[:, None] * np.ones((1, 2))}

    def reset(self):
        self.resets += 1


def observe():
    return {"prompt": "push"}


def firsts(actions):
    return [None if action is None else int(action[0]) for action in actions]


def test_open_loop_executes_so_many_of_each_chunk():
    client = Client()
    queue = ActionQueue(client, replan_steps=3)
    assert firsts(queue.action(observe) for _ in range(7)) == [0, 1, 2, 100, 101, 102, 200]
    queue.reset()
    assert firsts([queue.action(observe)]) == [300]
    assert client.resets == 1
    whole = ActionQueue(Client(horizon=2))
    assert firsts(whole.action(observe) for _ in range(3)) == [0, 1, 100]


def until_done(queue):
    queue._pending.exception(timeout=10)


def test_in_real_time_the_old_chunk_goes_on_and_what_is_past_is_skipped():
    client = Client(free=False)
    with RealTimeQueue(client, replan_steps=3) as queue:
        executed = [queue.action(observe) for _ in range(6)]  # asked at the 4th, and not answered yet
        client.go.release()
        until_done(queue)
        executed += [queue.action(observe) for _ in range(3)]
        client.go.release()
    # Three steps passed between the second picture and its chunk: its first three actions are past.
    assert firsts(executed) == [0, 1, 2, 3, 4, 5, 103, 104, 105]
    assert "prev_chunk_left_over" not in client.asked[1]


def test_where_the_old_chunk_ends_the_robot_holds_and_nothing_is_skipped_for_that():
    client = Client(horizon=4, free=False)
    with RealTimeQueue(client, replan_steps=2) as queue:
        executed = [queue.action(observe) for _ in range(7)]
        client.go.release()
        until_done(queue)
        executed.append(queue.action(observe))
        client.go.release()
    assert firsts(executed) == [0, 1, 2, 3, None, None, None, 102]


def test_a_server_that_conditions_is_told_what_is_left():
    client = Client(free=False, metadata={"real_time_chunking": ["guided"]})
    with RealTimeQueue(client, replan_steps=3, execution_horizon=5) as queue:
        for _ in range(5):
            queue.action(observe)
        client.go.release()
        until_done(queue)
        for _ in range(3):
            queue.action(observe)
        client.go.release()
        until_done(queue)
    first, second, third = client.asked
    assert first.keys() == {"prompt"}
    np.testing.assert_array_equal(second["prev_chunk_left_over"][:, 0], np.arange(3, 10))
    assert (second["inference_delay"], second["execution_horizon"]) == (0, 5)
    # Two steps were executed during the second inference, so as many are expected of the third.
    assert third["inference_delay"] == 2
    np.testing.assert_array_equal(third["prev_chunk_left_over"][:, 0], np.arange(103, 110))


def test_what_the_client_raises_is_raised_once_and_reset_begins_anew():
    client = Client()
    with RealTimeQueue(client, replan_steps=2) as queue:
        with pytest.raises(FoveateError, match="no such observation"):
            queue.action(lambda: {"fail": True})
        assert firsts([queue.action(observe)]) == [100]
        queue.reset()
        assert firsts([queue.action(observe)]) == [200]
    assert client.resets == 1


def test_numbers_that_cannot_be():
    with pytest.raises(FoveateError, match="at least 1"):
        ActionQueue(Client(), replan_steps=0)
