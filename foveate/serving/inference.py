"""The one thread that runs the policy: batches out of a queue, an answer for each query, and nothing ends it.

    worker = InferenceWorker(policy, max_batch=8, max_wait_s=0.005)
    worker.submit([query]); answer = query.answer.result()
    worker.close()

A query that the policy cannot take costs its own answer: the others of its batch are inferred without it. Actions that
are not finite never leave. Where a pruner that chooses how many patches to keep leaves so few that the policy would
act blind, the query runs again with all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

import numpy as np

from foveate.errors import ActionsNotFinite, FoveateError
from foveate.policy import Policy, TraceOptions
from foveate.pruning.base import Budget
from foveate.pruning.diagnostics import collapse_floor
from foveate.serving.metrics import Metrics
from foveate.serving.queries import Answer, FairQueue, Query, Refused
from foveate.types import ActionChunk
from foveate.util.noise import stack_noise

log = logging.getLogger("foveate")


class Witness(Protocol):
    """Whoever keeps the evidence of served inferences."""

    def inferred(self, query: Query, chunk: ActionChunk) -> None: ...
    def forget(self, session: str) -> None: ...


class InferenceWorker:
    """Runs the queries of all clients through one policy."""

    def __init__(
        self,
        policy: Policy,
        metrics: Metrics | None = None,
        *,
        max_batch: int = 8,
        max_wait_s: float = 0.005,
        fallback_kept: int | None = None,
        witness: Witness | None = None,
    ) -> None:
        """
        Args:
            max_wait_s: how long a query waits for others to share its inference at most.
            fallback_kept: a query of which so few patches or fewer are kept runs with all; None: see `fallback_floor`.
            witness: gets each query with its chunk and trace, in the worker's thread.
        """
        self.policy, self.metrics = policy, metrics or Metrics(policy.spec.name)
        self.max_batch, self._witness = max_batch, witness
        self.floor = fallback_floor(policy) if fallback_kept is None else fallback_kept
        self._queue = FairQueue(max_wait_s)
        self._rng = np.random.default_rng()
        self._gone: list[str] = []
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Begin to infer; warmed up before, so that no client pays for the first inferences."""
        example = self.policy.example()
        for batch in sorted({1, self.max_batch}):
            for _ in range(2):
                # All of `_infer` but what clients would see of it.
                queries = [Query(0, f"warm-up/{i}", example) for i in range(batch)]
                self._infer(queries, quiet=True)
        self.policy.reset()
        self._thread.start()

    def submit(self, queries: Sequence[Query]) -> None:
        """Queue what one request asks; each query's `answer` gets its Answer, or raises Refused.

        Raises:
            Refused: the server is ending.
        """
        self._queue.put(queries)

    def gone(self, client: int) -> None:
        """A client has gone."""
        self._queue.forget(client)

    def forget(self, sessions: Iterable[str]) -> None:
        """Sessions are over."""
        self._gone.extend(sessions)  # the policy is the worker's alone; it forgets before its next batch

    def close(self) -> None:
        """Finish the running batch and refuse what waits."""
        for query in self._queue.close():
            query.answer.set_exception(Refused("ending", "the server is ending"))
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while batch := self._queue.take(self.max_batch):
            gone, self._gone = self._gone, []
            for session in gone:
                self.policy.reset(session)
                if self._witness is not None:
                    self._witness.forget(session)
            try:
                self._answer(batch)
            except BaseException as error:  # a fault of ours is no reason to leave clients waiting
                log.exception("serving: the inference thread met an error of its own")
                for query in batch:
                    if not query.answer.done():
                        query.answer.set_exception(_failed(error))

    def _answer(self, batch: list[Query]) -> None:
        now = time.perf_counter()
        wanted = [query for query in batch if query.answer.set_running_or_notify_cancel()]
        for query in wanted:
            if now > query.due:
                query.answer.set_exception(_late(query, "before its turn came"))
        wanted = [query for query in wanted if not query.answer.done()]
        for query in wanted:
            if query.reset:
                self.policy.reset(query.session)
        for query, answer in zip(wanted, self._infer(wanted) if wanted else [], strict=True):
            _settle(query.answer, answer, query)

    def _infer(self, queries: Sequence[Query], quiet: bool = False) -> list[Answer | Refused]:
        """An answer for each query, in order."""
        begun = time.perf_counter()
        queries = [query if query.noise is not None else replace(query, noise=self._noise()) for query in queries]
        evidence = any(query.evidence for query in queries) or self._witness is not None
        try:
            chunks = self._chunks(queries, evidence)
        except Exception as error:
            if len(queries) > 1:
                return [answer for query in queries for answer in self._infer([query], quiet)]
            if not isinstance(error, FoveateError) and not quiet:
                log.exception("serving: the policy failed on an observation")
            return [_failed(error)]
        kept = self._kept(chunks)
        blind = [i for i, count in enumerate(kept) if count <= self.floor]
        if blind:
            again = [queries[i] for i in blind]
            every = np.ones((len(blind), sum(rows * columns for rows, columns in self.policy.spec.grids)), bool)
            for i, chunk in zip(blind, self._chunks(again, evidence, every), strict=True):
                chunks[i] = chunk
            for query in again if self.policy.prefix_cache.pixels is not None else ():
                self.policy.reset(query.session)  # the pruned prefix is not one to go on from
        infer_ms = (time.perf_counter() - begun) * 1e3
        queue_ms = [(begun - query.asked) * 1e3 for query in queries]
        if not quiet:
            self.metrics.inferred(queue_ms, infer_ms, chunks[0].timings_ms)
            for i, count in enumerate(kept):
                self.metrics.kept(count, i in blind)
        return [
            self._told(query, Answer(chunk, len(queries), queue_ms[i], infer_ms, i in blind), quiet)
            for i, (query, chunk) in enumerate(zip(queries, chunks, strict=True))
        ]

    def _told(self, query: Query, answer: Answer, quiet: bool) -> Answer | Refused:
        """The answer, where it may leave; the evidence keeps what may not, too."""
        if self._witness is not None and not quiet:
            self._witness.inferred(query, answer.chunk)
        if np.isfinite(answer.chunk.actions).all():
            return answer
        return Refused(
            "not_finite",
            f"policy {self.policy.spec.name!r} answered actions that are not finite (NaN or infinity), and they are "
            "not sent; check the observation, or serve with --dtype float32",
        )

    def _chunks(self, queries: Sequence[Query], evidence: bool, keep: np.ndarray | None = None) -> list[ActionChunk]:
        try:
            return self.policy.infer_batch(
                [query.observation for query in queries],
                stack_noise([query.noise for query in queries]),
                evidence=TraceOptions() if evidence else None,
                keep=keep,
                sessions=[query.session for query in queries],
                left_over=[query.left_over for query in queries],
            )
        except ActionsNotFinite as error:
            return error.chunks

    def _kept(self, chunks: Sequence[ActionChunk]) -> list[int]:
        """Patches that the pruner has just kept of each observation; empty: it did not choose."""
        if self.policy.pruner is None or not self.policy.pruner.enabled or not chunks[0].timings_ms["prune"]:
            return []  # no time for pruning: the inference went on from an earlier prefix
        return list(self.policy.get_token_pruning_stats()["last_kept_per_sample"])

    def _noise(self) -> np.ndarray | None:
        shape = self.policy.spec.noise_shape
        return None if shape is None else self._rng.standard_normal(shape, dtype=np.float32)


def fallback_floor(policy: Policy) -> float:
    """So few kept patches count as a collapse; a pruner with a budget keeps as few as it was told to."""
    config = getattr(policy.pruner, "config", None)
    if policy.pruner is None or (isinstance(config, Budget) and config.explicit):
        return 0.0
    return collapse_floor(policy.spec.patches, len(policy.spec.views))


def _settle(future: Future[Answer], answer: Answer | Refused, query: Query) -> None:
    if isinstance(answer, Answer) and time.perf_counter() > query.due:
        answer = _late(query, f"its inference took {answer.infer_ms:.0f} ms")
    if isinstance(answer, Answer):
        future.set_result(answer)
    else:
        future.set_exception(answer)


def _late(query: Query, why: str) -> Refused:
    waited, allowed = time.perf_counter() - query.asked, query.due - query.asked
    return Refused("late", f"the answer is late: {waited * 1e3:.0f} ms of {allowed * 1e3:.0f} ms had passed; {why}")


def _failed(error: BaseException) -> Refused:
    """What a client may know of an error: foveate's own words, and of any other the kind alone."""
    if isinstance(error, FoveateError):
        return Refused("failed", str(error))
    return Refused("failed", f"the policy failed on this observation ({type(error).__name__}); the server's log has it")
