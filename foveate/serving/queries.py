"""What waits to be inferred: clients take turns, and a batch waits for company where that pays.

queue = FairQueue(most_wait_s=0.005)
queue.put([query])                    # from any thread
batch = queue.take(8)                 # one thread; [] when the queue is closed and empty
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from foveate.errors import FoveateError
from foveate.types import ActionChunk, LeftOver, Observation


class Refused(FoveateError):
    """A query that gets no actions."""

    def __init__(self, outcome: str, text: str) -> None:
        """
        Args:
            outcome: `invalid`, `late`, `failed`, `not_finite` or `ending`; the metrics count by it.
        """
        super().__init__(text)
        self.outcome = outcome


@dataclass(frozen=True)
class Answer:
    """What became of one query."""

    chunk: ActionChunk
    batch: int
    """Observations that shared the inference."""
    queue_ms: float
    """Between the query's arrival and its inference."""
    infer_ms: float
    fell_back: bool = False
    """Whether the pruner had collapsed, so that the query ran with all tokens."""


@dataclass
class Query:
    """One observation, whose it is, and where its answer goes."""

    client: int
    """Who asks; clients take turns."""
    session: str
    """The episode, for a pruner with a history."""
    observation: Observation
    noise: np.ndarray | None = None
    """float32 [*noise_shape] to start from; None: it is drawn."""
    reset: bool = False
    """Whether the session begins anew."""
    left_over: LeftOver | None = None
    """What the robot has left of the chunk before."""
    evidence: bool = False
    """Whether the client wants to know what was kept."""
    due: float = float("inf")
    """Time (`time.perf_counter`) after which nobody wants the answer."""
    asked: float = field(default_factory=time.perf_counter)
    answer: Future[Answer] = field(default_factory=Future)


class FairQueue:
    """Queries by client. A batch takes one of each client in turn, and never two of one session.

    A batch with room waits for those who have just been answered and usually ask again at once, so that clients in
    closed loops share inferences; a robot that drives for a while first is not waited for, nor is a client alone.
    """

    def __init__(self, most_wait_s: float, now: Callable[[], float] = time.perf_counter) -> None:
        """
        Args:
            most_wait_s: how long a batch waits for company at most.
        """
        self._most_s, self._now = most_wait_s, now
        self._waiting: OrderedDict[int, deque[Query]] = OrderedDict()
        self._changed = threading.Condition()
        self._count, self._closed = 0, False
        self._last: set[int] = set()
        """Clients of the last batch."""
        self._answered: dict[int, float] = {}
        """Those of them who have not asked again -> when they got their answers."""
        self._usual_s: dict[int, float] = {}
        """Client -> how soon after an answer it usually asks again."""

    def __len__(self) -> int:
        return self._count

    def put(self, queries: Sequence[Query]) -> None:
        """Queue what one request asks.

        Raises:
            Refused: the server is ending.
        """
        with self._changed:
            if self._closed:
                raise Refused("ending", "the server is ending and takes no more observations")
            for query in queries:
                client = query.client
                if client in self._answered:
                    took = min(query.asked - self._answered.pop(client), 4 * self._most_s)
                    self._usual_s[client] = (self._usual_s.get(client, took) + took) / 2
                self._waiting.setdefault(client, deque()).append(query)
            self._count += len(queries)
            self._changed.notify()

    def forget(self, client: int) -> None:
        """A client is gone; what it waits for is inferred all the same."""
        with self._changed:
            self._answered.pop(client, None)
            self._usual_s.pop(client, None)

    def take(self, most: int) -> list[Query]:
        """The next batch; waits for its first query. Called when the batch before has its answers.

        Returns:
            Up to `most` queries, none when the queue was closed.
        """
        with self._changed:
            self._answered = dict.fromkeys(self._last, self._now())
            while not self._count and not self._closed:
                self._changed.wait()
            while self._count < most and not self._closed and (left := self._company_until() - self._now()) > 0:
                self._changed.wait(left)
            batch = self._pop(most)
            self._last = {query.client for query in batch}
            return batch

    def _company_until(self) -> float:
        """When the last of those who are expected will have asked again."""
        soon = (
            at + min(1.5 * self._usual_s[client] + 5e-4, self._most_s)
            for client, at in self._answered.items()
            if self._usual_s.get(client, float("inf")) <= self._most_s
        )
        return max(soon, default=0.0)

    def close(self) -> list[Query]:
        """Take no more; what still waits."""
        with self._changed:
            self._closed = True
            left = self._pop(self._count) if self._count else []
            self._changed.notify_all()
            return left

    def _pop(self, most: int) -> list[Query]:
        batch: list[Query] = []
        sessions: set[str] = set()
        skipped = 0
        while self._waiting and len(batch) < most and skipped < len(self._waiting):
            client, queries = self._waiting.popitem(last=False)
            if queries[0].session in sessions:
                skipped += 1
            else:
                batch.append(queries.popleft())
                sessions.add(batch[-1].session)
                skipped = 0
            if queries:
                self._waiting[client] = queries  # behind those who have not had their turn
        self._count -= len(batch)
        return batch
