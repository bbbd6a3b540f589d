"""The server: connections, one frame in and one out, and an end that loses no running answer.

    server = PolicyServer(policy, host="127.0.0.1", port=8000)
    asyncio.run(server.run())

The event loop reads, checks and writes; inference is the worker's thread (`inference.py`), so that a slow policy slows
no handshake, ping or `/healthz`. The library is `websockets`, as openpi's server and client use it: it bounds a message
while it comes in, answers pings, and closes what has gone silent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from foveate.errors import FoveateError
from foveate.serving.access import Access
from foveate.serving.inference import InferenceWorker
from foveate.serving.protocol import Asked, Reader, Request, answer_of, metadata
from foveate.serving.queries import Query, Refused
from foveate.util import msgpack_numpy
from foveate.util.ports import allow_open_files, holder_of

try:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response
except ImportError as error:
    raise FoveateError('websockets is missing; run: pip install "foveate[serve]"') from error

MAX_SESSIONS = 256
"""Sessions of one connection, at most."""
SPARE_FILES = 64
"""Open files that are left for other things than connections."""
PING_S, SILENT_S = 20.0, 60.0
"""A client is pinged so often, and cut off when it has not answered for so long."""

log = logging.getLogger("foveate")
_quiet = logging.getLogger("foveate.websockets")
_quiet.setLevel(logging.CRITICAL)  # handshakes that fail are counted; each with a traceback would fill the log


class PolicyServer:
    """Serves one policy to any number of clients."""

    def __init__(
        self,
        worker: InferenceWorker,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        access: Access | None = None,
        default_prompt: str | None = None,
        deadline_ms: float | None = None,
        max_message_bytes: int = 1 << 24,
        drain_s: float = 10.0,
    ) -> None:
        """
        Args:
            port: 0 takes a free one.
            access: who may ask; None: everybody.
            deadline_ms: an answer that would come later becomes an error; None: none is too late.
            drain_s: told to end, it waits so long for running answers.
        """
        policy = worker.policy
        self.worker, self.metrics, self.host, self.port = worker, worker.metrics, host, port
        self._access = access or Access()
        self._reader = Reader(policy.processor.robot, policy.spec, default_prompt)
        self._hello = msgpack_numpy.pack(metadata(policy))
        self._deadline_s = float("inf") if deadline_ms is None else deadline_ms / 1e3
        self._max_bytes, self._drain_s = max_message_bytes, drain_s
        self._numbers = itertools.count(1)
        self._open = self._running = 0
        self._most = 0
        """Connections at once, as many as open files allow."""
        self._ending = False
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Warm up, listen, and serve until `stop`, SIGTERM or Ctrl-C; then answer what runs, and end.

        Args:
            on_ready: called when clients can connect; `port` is known by then.
        Raises:
            FoveateError: the port is in use, or cannot be had.
        """
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._most = allow_open_files() - SPARE_FILES
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop.set)
        try:
            await asyncio.to_thread(self.worker.start)
            async with serve(
                self._serve,
                self.host,
                self.port,
                process_request=self._admit,
                compression=None,
                max_size=self._max_bytes,
                max_queue=2,
                ping_interval=PING_S,
                ping_timeout=SILENT_S,
                close_timeout=2.0,
                server_header=None,
                logger=_quiet,
            ) as server:
                self.port = next(iter(server.sockets)).getsockname()[1]
                on_ready()
                await self._stop.wait()
                self._ending = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._drained(), self._drain_s)
        except OSError as error:
            raise FoveateError(_no_port(self.host, self.port, error)) from error
        finally:
            await asyncio.to_thread(self.worker.close)

    def stop(self) -> None:
        """End; from any thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _drained(self) -> None:
        while self._running:
            await asyncio.sleep(0.01)

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Plain requests, and who may open a connection; None: it is opened."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self._access.allows(request.headers.get("Authorization")):
            self.metrics.refused("token")
            response = connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Api-Key TOKEN\n")
            response.headers["WWW-Authenticate"] = "Api-Key"
            return response
        if request.path == "/metrics":
            kind, page = self.metrics.page()
            response = connection.respond(HTTPStatus.OK, page.decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = kind
            return response
        if self._ending or self._open >= self._most:
            self.metrics.refused("ending" if self._ending else "full")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending or full\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        """One client, from its first frame to its last."""
        client = _Client(next(self._numbers))
        self._open += 1
        self.metrics.connections.inc()
        try:
            await connection.send(self._hello)
            before_ms = None
            async for frame in connection:
                begun = time.perf_counter()
                self._running += 1
                try:
                    await connection.send(await self._reply(client, frame, before_ms))
                finally:
                    self._running -= 1
                before_ms = (time.perf_counter() - begun) * 1e3
        except ConnectionClosed:
            pass  # killed, cut off, or gone without a word
        except Exception:
            log.exception("serving: a connection met an error of the server's own")
            await connection.close(1011, "internal error")
        finally:
            self._open -= 1
            self.metrics.connections.dec()
            self.worker.gone(client.number)
            self.worker.forget(client.forget())

    async def _reply(self, client: _Client, frame: bytes | str, before_ms: float | None) -> bytes | str:
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


def _no_port(host: str, port: int, error: OSError) -> str:
    reason = error.strerror or str(error)
    holder = holder_of(port)
    by = f" by {holder}" if holder else ""
    if "in use" in reason.lower():
        return f"port {port} of {host} is in use{by}; choose another with --port, or end what holds it"
    return f"cannot listen on {host}:{port}: {reason}"
