"""The worker beside a real policy and a stub: batches give what their queries give alone, clients fare alike."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from foveate.pruning import make_pruner
from foveate.serving.inference import InferenceWorker, fallback_floor
from foveate.serving.queries import Query, Refused
from foveate.testing.serving import StubPolicy
from foveate.training.policy.untrained import TINY, random_policy


def test_queries_that_share_an_inference_get_what_they_get_alone():
    rng = np.random.default_rng(0)
    with random_policy(TINY, "lightvla") as policy:
        worker = InferenceWorker(policy, max_batch=8, fallback_kept=0)
        worker.start()
        queries = [
            Query(i, f"{i}/", policy.example(i), rng.standard_normal(policy.spec.noise_shape, np.float32))
            for i in range(6)
        ]
        worker.submit(queries)
        answers = [query.answer.result(60) for query in queries]
        worker.close()
        alone = [policy.infer(query.observation, query.noise) for query in queries]
    assert {answer.batch for answer in answers} == {6}
    for answer, expected in zip(answers, alone, strict=True):
        np.testing.assert_allclose(answer.chunk.actions, expected.actions, atol=2e-5)


@pytest.fixture
def worker():
    """Inferences of 5 ms that share up to four observations."""
    policy = StubPolicy(before=lambda _: time.sleep(0.005))
    running = InferenceWorker(policy, max_batch=4)
    running.start()
    yield running
    running.close()


def go(policy):
    """An observation that is no warm-up."""
    return replace(policy.example(), prompt="go")


def ask(worker, client, count, counts):
    """So many queries, each when the one before is answered; fewer where the worker ends."""
    with suppress(Refused):
        for _ in range(count):
            query = Query(client, f"{client}/", go(worker.policy))
            worker.submit([query])
            query.answer.result(30)
            counts[client] += 1


def test_more_clients_than_a_batch_holds_fare_alike(worker):
    counts = dict.fromkeys(range(10), 0)
    threads = [threading.Thread(target=ask, args=(worker, i, 10_000, counts), daemon=True) for i in counts]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    seen = list(counts.values())
    worker.close()
    assert min(seen) >= 0.8 * np.mean(seen) > 5
    assert np.mean([len(batch) for batch in worker.policy.batches[5:]]) > 3.5


def test_clients_in_closed_loop_come_to_share_their_inferences(worker):
    counts = dict.fromkeys(range(3), 0)
    threads = [threading.Thread(target=ask, args=(worker, i, 40, counts)) for i in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sizes = [len(batch) for batch in worker.policy.batches]
    assert np.mean(sizes[len(sizes) // 2 : -3]) > 2.5, sizes


def test_told_to_end_what_waits_is_refused():
    begun = threading.Event()

    def slow(observations):
        begun.set()
        time.sleep(0.2)

    policy = StubPolicy(before=slow)
    running = InferenceWorker(policy, max_batch=1)
    running.start()
    queries = [Query(i, f"{i}/", go(policy)) for i in range(2)]
    running.submit(queries[:1])
    assert begun.wait(5)
    running.submit(queries[1:])
    running.close()
    assert queries[0].answer.result(0).batch == 1
    with pytest.raises(Refused, match="ending"):
        queries[1].answer.result(0)


@pytest.mark.parametrize(
    ("pruner", "floor"), [(None, 0), ("lightvla", 6), ({"name": "lightvla", "keep_tokens": 2}, 0), ("random", 0)]
)
def test_a_budget_is_no_collapse(pruner, floor):
    policy = StubPolicy()
    spec = {"name": "random", "keep_ratio": 0.1} if pruner == "random" else pruner
    policy.pruner = make_pruner(spec)
    assert fallback_floor(policy) == floor
