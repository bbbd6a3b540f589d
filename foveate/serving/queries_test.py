"""Turns, batches, and for whom a batch waits; time is what the test says."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from foveate.serving.queries import FairQueue, Query, Refused
from foveate.types import Observation

OBSERVATION = Observation({}, np.zeros(1), "push")


def query(client, session=None, asked=0.0):
    return Query(client, session or f"{client}/", OBSERVATION, asked=asked)


def clients(batch):
    return [q.client for q in batch]


def test_clients_take_turns_however_many_each_has_sent():
    queue = FairQueue(0)
    queue.put([query(1, f"1/{i}") for i in range(6)])
    queue.put([query(2)])
    queue.put([query(3, f"3/{i}") for i in range(2)])
    assert clients(queue.take(3)) == [1, 2, 3]
    assert clients(queue.take(3)) == [1, 3, 1]
    assert clients(queue.take(9)) == [1, 1, 1]
    assert len(queue) == 0


def test_no_batch_holds_two_queries_of_one_session():
    queue = FairQueue(0)
    queue.put([query(1, "a"), query(1, "a"), query(1, "b")])
    assert [q.session for q in queue.take(8)] == ["a"]
    assert [q.session for q in queue.take(8)] == ["a", "b"]


class Clock:
    """Seconds that pass only where a test lets them."""

    now = 0.0

    def __call__(self):
        return self.now


def settled(usual_s, most_s=0.005):
    """A queue in which clients 1 and 2 shared a batch that was answered at 1 s, and 2 asks again so soon after that."""
    clock = Clock()
    queue = FairQueue(most_s, clock)
    for round_ in range(3):
        clock.now = answered = float(round_ + 1)
        queue._answered = dict.fromkeys(queue._last, answered)
        queue.put([query(1, asked=answered), query(2, asked=answered + usual_s)])
        assert clients(queue._pop(8)) == [1, 2]
        queue._last = {1, 2}
    queue._answered = dict.fromkeys((1, 2), clock.now)
    queue.put([query(1, asked=clock.now)])
    return queue, clock


def test_a_batch_waits_for_those_who_usually_ask_at_once():
    queue, clock = settled(usual_s=0.002)
    assert clock.now < queue._company_until() <= clock.now + 0.005


def test_a_robot_that_drives_for_a_while_is_not_waited_for():
    queue, _ = settled(usual_s=0.1)
    assert queue._company_until() == 0


def test_who_has_gone_is_not_waited_for():
    queue, _ = settled(usual_s=0.002)
    queue.forget(2)
    assert queue._company_until() == 0


def test_a_client_alone_waits_for_nobody():
    queue = FairQueue(10.0)
    for _ in range(3):
        queue.put([query(1)])
        assert clients(queue.take(8)) == [1]


def test_a_closed_queue_gives_what_waited_and_takes_no_more():
    queue = FairQueue(0)
    queue.put([query(1), query(2)])
    assert clients(queue.close()) == [1, 2]
    assert queue.take(4) == []
    with pytest.raises(Refused, match="ending") as refused:
        queue.put([query(3)])
    assert refused.value.outcome == "ending"


def test_who_waits_for_a_batch_is_woken_by_the_end():
    queue, taken = FairQueue(0), []
    waiting = threading.Thread(target=lambda: taken.append(queue.take(4)))
    waiting.start()
    queue.close()
    waiting.join(5)
    assert taken == [[]]
