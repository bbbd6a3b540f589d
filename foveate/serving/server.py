"""The server: a port, connections, and an end that loses no running answer; what is said on them is `service.py`'s.

    server = PolicyServer(InferenceWorker(policy), host="127.0.0.1", port=8000)
    asyncio.run(server.run())

The event loop reads, checks and writes; inference is the worker's thread (`inference.py`), so that a slow policy slows
no handshake, ping or `/healthz`. The library is `websockets`, as openpi's server and client use it: it bounds a message
while it comes in, answers pings, and closes what has gone silent.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from http import HTTPStatus

from foveate.errors import FoveateError
from foveate.serving.access import TOKEN_NEEDED, Access
from foveate.serving.inference import InferenceWorker
from foveate.serving.service import Service
from foveate.util.ports import allow_open_files, cannot_listen

try:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response
except ImportError as error:
    raise FoveateError('websockets is missing; run: pip install "foveate[serve]"') from error

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
        self.service = Service(worker, default_prompt, deadline_ms)
        self.worker, self.metrics, self.host, self.port = worker, worker.metrics, host, port
        self._access = access or Access()
        self._max_bytes, self._drain_s = max_message_bytes, drain_s
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
                await self.service.drained(self._drain_s)
        except OSError as error:
            raise FoveateError(cannot_listen(self.host, self.port, error)) from error
        finally:
            await asyncio.to_thread(self.worker.close)

    def stop(self) -> None:
        """End; from any thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Plain requests, and who may open a connection; None: it is opened."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self._access.allows(request.headers.get("Authorization")):
            self.metrics.refused("token")
            response = connection.respond(HTTPStatus.UNAUTHORIZED, TOKEN_NEEDED)
            response.headers["WWW-Authenticate"] = "Api-Key"
            return response
        if request.path == "/metrics":
            kind, page = self.metrics.page()
            response = connection.respond(HTTPStatus.OK, page.decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = kind
            return response
        if self._ending or self.service.open >= self._most:
            self.metrics.refused("ending" if self._ending else "full")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending or full\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            await self.service.converse(connection, connection.send)
        except ConnectionClosed:
            pass  # killed, cut off, or gone without a word
        except Exception:
            log.exception("serving: a connection met an error of the server's own")
            await connection.close(1011, "internal error")
