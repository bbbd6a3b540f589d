"""Many replicas of a policy on many machines, over Ray Serve: the protocol and the metrics of one server.

    serve_replicas(ServeConfig(policy="metaworld_tiny", replicas=2), Access())

Ray Serve routes each connection to a replica, which keeps it: sessions, their history and the batches of inferences
are the replica's own, as those of a server are. Where a replica dies its connections end, and their clients connect
anew, to another one; Ray starts a replica in its place. `RAY_ADDRESS` names the cluster; without it, Ray starts on this
machine. Every machine needs foveate, the policy and the data that it names under the same paths.
"""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError
from foveate.models.registry import detect
from foveate.serving.access import TOKEN_NEEDED, Access
from foveate.serving.config import ServeConfig, ready_line
from foveate.serving.load import loaded_worker
from foveate.serving.metrics import merged
from foveate.serving.service import Frame, Service
from foveate.util.cluster import cause, require_ray
from foveate.util.ports import check_port
from foveate.util.progress import SILENT, Reporter
from foveate.util.shipped import find_policy
from foveate.util.words import plural

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

NAME = "foveate"
"""Of the application and of its deployment."""
CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
"""Name and namespace of the actor that is there where Ray Serve runs already."""
CONNECTIONS = 1000
"""Of one replica, at most; those beyond wait for one that has room."""
PROXY_MB = 16
"""Ray Serve's own limit to the size of a message."""
LOOK_S, DEAD_S = 1.0, 60.0
"""A replica is asked so often whether it lives, and taken for dead after so long a silence."""

log = logging.getLogger("foveate")


def serve_replicas(config: ServeConfig, access: Access, report: Reporter = SILENT) -> None:
    """Serve until SIGTERM or Ctrl-C, with `config.replicas` processes.

    Raises:
        FoveateError: Ray is not installed, runs a service already or has no room; the policy or the port cannot be had.
    """
    ray = require_ray("--replicas")
    try:
        from ray import serve
    except ImportError as error:
        raise FoveateError(f'--replicas: Ray Serve lacks {error.name}; run: pip install "foveate[ray]"') from error
    if config.max_message_mb > PROXY_MB:
        raise FoveateError(f"max_message_mb: Ray Serve takes {PROXY_MB} at most, got {config.max_message_mb:g}")
    port = check_port(config.host, config.port)
    policy = find_policy(config.policy)
    detect(policy, config)  # what is missing is told before a cluster starts
    kind = "CPU" if config.device == "cpu" else "GPU"
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            with report.status("looking for Ray"):
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
        _check_room(ray, config, kind)
        stack.callback(_shut_down, serve)
        deployed = serve.deployment(
            name=NAME,
            num_replicas=config.replicas,
            ray_actor_options={f"num_{kind.lower()}s": 1},
            max_ongoing_requests=CONNECTIONS,
            health_check_period_s=LOOK_S,
            health_check_timeout_s=DEAD_S,
            graceful_shutdown_timeout_s=5.0,
        )(serve.ingress()(Replica))
        try:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": config.host, "port": port},
                logging_config={"log_level": "ERROR", "enable_access_log": False},
            )
            with report.status(f"{config.replicas} replicas load the policy"):
                handle = serve.run(deployed.bind(config, access), name=NAME)
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise FoveateError(f"--replicas: no replica could be started: {cause(error)}") from error
        report.line(
            ready_line(f"{plural(config.replicas or 0, 'replica')} of {policy.resolve().name}", config.host, port)
        )
        _until_told_to_end()
        with suppress(TimeoutError):
            handle.broadcast("drain").results(timeout_s=config.drain_s + 5, return_exceptions=True)


def _check_room(ray: Any, config: ServeConfig, kind: str) -> None:
    room = int(ray.available_resources().get(kind, 0))
    if room < (config.replicas or 0):
        raise FoveateError(f"--replicas {config.replicas}: each needs a {kind}, and {room} of the cluster's are free")
    try:
        ray.get_actor(*CONTROLLER)
    except ValueError:
        return
    raise FoveateError(
        "--replicas: this Ray cluster runs Ray Serve already, with a port of its own; `serve shutdown` ends it"
    )


def _shut_down(serve: Any) -> None:
    # Ray prints the end of Serve's own controller as that of a task that failed.
    with redirect_stdout(io.StringIO()):
        serve.shutdown()


def _until_told_to_end() -> None:
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    told.wait()


class Replica:
    """One process of the cluster: a policy, and the connections that Ray Serve gives it."""

    def __init__(self, config: ServeConfig, access: Access) -> None:
        from ray import serve

        self._name = serve.get_replica_context().replica_id.unique_id
        if config.trace_out_dir is not None:
            config = replace(config, trace_out_dir=str(Path(config.trace_out_dir) / self._name))
        self._access, self._drain_s = access, config.drain_s
        self._max_bytes = int(config.max_message_mb * 2**20)
        self._held = ExitStack()
        self._worker = self._held.enter_context(loaded_worker(config))
        self._service = Service(self._worker, config.default_prompt, config.deadline_ms)
        self._connections: set[WebSocket] = set()
        self._ending = False
        self._worker.start()

    def __serve_build_asgi_app__(self) -> Starlette:
        """Ray Serve's name for what answers HTTP and WebSocket."""
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route, WebSocketRoute

        return Starlette(
            routes=[
                Route("/healthz", lambda request: PlainTextResponse("OK\n")),
                Route("/metrics", self._metrics),
                WebSocketRoute("/{path:path}", self._talk),
            ]
        )

    async def page(self) -> tuple[str, bytes]:
        """The replica's name and its metrics."""
        return self._name, self._worker.metrics.page()[1]

    async def drain(self) -> None:
        """Take no more connections, finish the running answers, and end what stands."""
        self._ending = True
        await self._service.drained(self._drain_s)
        for connection in list(self._connections):
            await connection.close(1001, "the server is ending")
        await asyncio.to_thread(self._worker.close)
        self._held.close()

    async def _metrics(self, request: Request) -> Response:
        """Those of all replicas, whichever is asked."""
        from ray import serve
        from starlette.responses import PlainTextResponse, Response

        if not self._access.allows(request.headers.get("authorization")):
            return PlainTextResponse(TOKEN_NEEDED, 401, {"WWW-Authenticate": "Api-Key"})
        asked = serve.get_deployment_handle(NAME, NAME).broadcast("page")
        pages = await asked.results_async(timeout_s=5.0, return_exceptions=True)
        kind, text = merged(dict(page for page in pages if not isinstance(page, BaseException)))
        return Response(text, headers={"Content-Type": kind})

    async def _talk(self, connection: WebSocket) -> None:
        from starlette.responses import PlainTextResponse
        from starlette.websockets import WebSocketDisconnect

        if not self._access.allows(connection.headers.get("authorization")):
            self._worker.metrics.refused("token")
            return await connection.send_denial_response(PlainTextResponse(TOKEN_NEEDED, 401))
        if self._ending:
            self._worker.metrics.refused("ending")
            return await connection.send_denial_response(PlainTextResponse("the server is ending\n", 503))
        await connection.accept()
        self._connections.add(connection)
        try:
            await self._service.converse(self._frames(connection), partial(_send, connection))
        except WebSocketDisconnect:
            pass  # killed, cut off, or gone without a word
        except _TooLarge:
            await connection.close(1009)
        except Exception:
            log.exception("serving: a connection met an error of the server's own")
            await connection.close(1011, "internal error")
        finally:
            self._connections.discard(connection)

    async def _frames(self, connection: WebSocket) -> AsyncIterator[Frame]:
        while (message := await connection.receive())["type"] != "websocket.disconnect":
            frame = message.get("bytes")
            frame = message["text"] if frame is None else frame
            if len(frame) > self._max_bytes:
                raise _TooLarge
            yield frame


class _TooLarge(Exception):
    """A message is larger than the server takes."""


async def _send(connection: WebSocket, frame: Frame) -> None:
    await (connection.send_text(frame) if isinstance(frame, str) else connection.send_bytes(frame))
