"""What is said on a connection, whatever carries its frames: one in, one out, and what is remembered of each client.

service = Service(worker)
await service.converse(connection, connection.send)     # `server.py` over a socket, `replicas.py` over Ray Serve
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from typing import Any

from foveate.serving.inference import InferenceWorker
from foveate.serving.protocol import Asked, Reader, Request, answer_of, metadata
from foveate.serving.queries import Query, Refused
from foveate.util import msgpack_numpy

MAX_SESSIONS = 256
"""Sessions of one connection, at most."""

Frame = bytes | str


class Service:
    """Answers the clients of one policy; of one event loop."""

    def __init__(
        self, worker: InferenceWorker, default_prompt: str | None = None, deadline_ms: float | None = None
    ) -> None:
        """
        Args:
            deadline_ms: an answer that would come later becomes an error; None: none is too late.
        """
        policy = worker.policy
        self.worker, self.metrics = worker, worker.metrics
        self.open = 0
        """Connections that stand."""
        self._running = 0
        self._reader = Reader(policy.processor.robot, policy.spec, default_prompt)
        self._hello = msgpack_numpy.pack(metadata(policy))
        self._deadline_s = float("inf") if deadline_ms is None else deadline_ms / 1e3
        self._numbers = itertools.count(1)

    async def converse(self, frames: AsyncIterable[Frame], send: Callable[[Frame], Awaitable[None]]) -> None:
        """One client, from the metadata that greet it to its last frame.

        Raises:
            Exception: what `frames` and `send` raise, when the client has gone.
        """
        client = _Client(next(self._numbers))
        self.open += 1
        self.metrics.connections.inc()
        try:
            await send(self._hello)
            before_ms = None
            async for frame in frames:
                begun = time.perf_counter()
                self._running += 1
                try:
                    await send(await self._reply(client, frame, before_ms))
                finally:
                    self._running -= 1
                before_ms = (time.perf_counter() - begun) * 1e3
        finally:
            self.open -= 1
            self.metrics.connections.dec()
            self.worker.gone(client.number)
            self.worker.forget(client.forget())

    async def drained(self, most_s: float) -> None:
        """Wait until no answer is running, so long at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), most_s)

    async def _drained(self) -> None:
        while self._running:
            await asyncio.sleep(0.01)

    async def _reply(self, client: _Client, frame: Frame, before_ms: float | None) -> Frame:
        """The frame that answers one: a map, or a text that says what is wrong."""
        begun = time.perf_counter()
        try:
            request = self._reader.read(frame)
            answers = await self._ask(client, request)
        except Refused as refused:
            self.metrics.answered(refused.outcome)
            return str(refused)
        timing = {"infer_ms": (time.perf_counter() - begun) * 1e3}
        if before_ms is not None:
            timing["prev_total_ms"] = before_ms
        if request.batch:
            return msgpack_numpy.pack({"batch": answers, "server_timing": timing})
        message = answers[0] if answers else {"reset": True}
        return msgpack_numpy.pack({**message, "server_timing": timing})

    async def _ask(self, client: _Client, request: Request) -> list[dict[str, Any]]:
        """The answers to a request's observations; in a batch a refused one is told in its place."""
        if request.reset:
            self.worker.forget(client.forget(request.session))
        now = time.perf_counter()
        queries = [
            Query(
                client.number,
                client.name_of(asked.session),
                asked.observation,
                asked.noise,
                left_over=asked.left_over,
                reset=client.meet(asked.session) or asked.reset,
                evidence=asked.return_keep,
                due=now + self._deadline_s,
                asked=now,
            )
            for asked in request.asked
        ]
        self.worker.submit(queries)
        futures = (asyncio.wrap_future(query.answer) for query in queries)
        results = await asyncio.gather(*futures, return_exceptions=True)
        return [self._told(asked, result, request.batch) for asked, result in zip(request.asked, results, strict=True)]

    def _told(self, asked: Asked, result: Any, batch: bool) -> dict[str, Any]:
        if isinstance(result, Refused) and batch:
            self.metrics.answered(result.outcome)
            return {"error": str(result)}
        if isinstance(result, BaseException):
            raise result
        self.metrics.answered("ok")
        return answer_of(result, asked)


class _Client:
    """One connection and its sessions."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sessions: set[str] = set()

    def name_of(self, session: str) -> str:
        """The name under which the policy remembers it."""
        return f"{self.number}/{session}"

    def forget(self, session: str | None = None) -> list[str]:
        """End one session, or all; the names under which the policy remembers them."""
        ended = self.sessions if session is None else self.sessions & {session}
        self.sessions = self.sessions - ended
        return [self.name_of(name) for name in ended]

    def meet(self, session: str) -> bool:
        """Whether a session is new."""
        if session in self.sessions:
            return False
        if len(self.sessions) >= MAX_SESSIONS:
            raise Refused(
                "invalid", f"session: a connection has {MAX_SESSIONS} of them at most; send reset to begin anew"
            )
        self.sessions.add(session)
        return True
