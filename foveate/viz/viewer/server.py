"""The viewer's server: run folders as JSON and pictures, and the page that draws them.

    serve([Path("runs/full"), Path("runs/lightvla")], port=8421)

It answers this machine alone, writes nothing, and reads nothing outside the folders it was given. The page is told
what may run in it (`SECURITY`): its own files, so that no word of a run folder becomes code. Needs the extra `view`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import FoveateError
from foveate.tracing.record import Record
from foveate.tracing.summary import flatten
from foveate.tracing.tokens import token_row
from foveate.types import STAGES
from foveate.util.files import nan_to_null
from foveate.util.pictures import ImageError, encoded, open_picture
from foveate.util.ports import cannot_listen
from foveate.viz.plots import load_images, picture_path, spread
from foveate.viz.report.charts import PALETTE
from foveate.viz.report.data import Row
from foveate.viz.viewer.actions import Course, course, part
from foveate.viz.viewer.frame import colors, describe, heat_of
from foveate.viz.viewer.run import Episode, ViewedRun

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
STATIC = Path(__file__).with_name("static")
CHUNKS = 400
"""Dumps of one episode that are opened for its actions, evenly over it."""
SERIES: dict[str, tuple[str, ...]] = {"num_kept": ("kept", "num_kept"), "num_patches": ("patches", "num_patches")}
SERIES |= {f"{stage}_ms": (f"{stage}_ms",) for stage in STAGES}
"""Number of an inference -> its names in rows, those of `queries.jsonl` first."""
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Check = Callable[[Record, Mapping[str, np.ndarray]], Mapping[str, Any]]
"""What covering parts of an inference's pictures (view -> uint8 [H, W, 3]) does to the actions, as JSON values."""


def serve(
    folders: Sequence[Path], port: int, check: Check | None = None, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve until interrupted.

    Args:
        port: 0: a free one.
        on_ready: gets the page's address when it can be opened.
    Raises:
        FoveateError: a folder is none of a run, the port is taken, or the extra `view` is not installed.
    """
    app = make_app(folders, check)
    import uvicorn

    listening = _listen(port)
    on_ready(f"http://{HOST}:{listening.getsockname()[1]}/")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise FoveateError(cannot_listen(HOST, port, error)) from error
    return listening


def make_app(folders: Sequence[Path], check: Check | None = None) -> Starlette:
    """The application; errors as of `serve`."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import FileResponse, JSONResponse, Response
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles
    except ImportError as error:
        raise FoveateError('the viewer needs starlette and uvicorn; pip install "foveate[view]"') from error

    view = Viewer(folders, check)

    def answer(make: Callable[[Request], Any]) -> Callable[[Request], Response]:
        """Endpoints are plain functions, which Starlette runs in threads."""

        def endpoint(request: Request) -> Response:
            try:
                made = make(request)
            except FoveateError as error:
                return JSONResponse({"error": str(error)}, 404)
            except (KeyError, ValueError) as error:
                return JSONResponse({"error": f"not understood: {request.url.path}: {error}"}, 400)
            return made if isinstance(made, Response) else JSONResponse(nan_to_null(made))

        return endpoint

    def picture(request: Request) -> Response:
        content, kind = view.picture(*_frame(request), int(request.path_params["view"]))
        return Response(content, media_type=kind)

    def heat(request: Request) -> Any:
        return view.heat(*_frame(request), request.query_params)

    def covered(request: Request) -> Any:
        # Another site's page could have the policy infer, though it could not read the answer.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise FoveateError("a causal check is asked for from this page alone")
        return view.check(*_frame(request))

    at = "/api/runs/{run:int}/episodes/{episode:path}"
    routes = [
        Route("/", lambda request: FileResponse(STATIC / "index.html")),
        Route("/theme.css", lambda request: Response(theme(), media_type="text/css")),
        Route("/api", answer(lambda request: view.about())),
        Route("/api/part", answer(lambda request: view.part(request.query_params))),
        Route(f"{at}/frames/{{frame:int}}/pictures/{{view:int}}", answer(picture)),
        Route(f"{at}/frames/{{frame:int}}/heat", answer(heat)),
        Route(f"{at}/frames/{{frame:int}}/check", answer(covered), methods=["POST"]),
        Route(f"{at}/frames/{{frame:int}}", answer(lambda request: view.frame(*_frame(request)))),
        Route(f"{at}/actions", answer(lambda request: view.actions(*_episode(request)))),
        Route(f"{at}/moments", answer(lambda request: view.moments(*_episode(request)))),
        Route("/api/runs/{run:int}", answer(lambda request: view.run(int(request.path_params["run"])))),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]  # fmt: skip
    # Another name that leads here (DNS rebinding) gets nothing.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[Middleware(_Headers), hosts])


class _Headers:
    """ASGI: `SECURITY` on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower().encode(): text.encode() for name, text in SECURITY.items()}
                message["headers"] = [*((n, v) for n, v in message["headers"] if n not in said), *said.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


def _episode(request: Request) -> tuple[int, str]:
    return int(request.path_params["run"]), request.path_params["episode"]


def _frame(request: Request) -> tuple[int, str, int]:
    return (*_episode(request), int(request.path_params["frame"]))


def theme() -> str:
    """The report's colours as CSS variables, light and dark."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"


class Viewer:
    """What the page can ask, as JSON values; knows no HTTP.

    A run is named by its place in `folders`, an episode by its key, an inference by its place in the episode.

    Raises:
        FoveateError: in every method, where something is not there or cannot be read.
    """

    def __init__(self, folders: Sequence[Path], check: Check | None = None) -> None:
        if not folders:
            raise FoveateError("which run? Give its folder: foveate view runs/NAME")
        self.runs = [ViewedRun(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
        for run in self.runs:
            run.episodes()  # what the page asks for first
        self._check, self._asking = check, threading.Lock()

    def about(self) -> dict[str, Any]:
        """What does not change while the page is open."""
        runs = [{"name": run.folder.resolve().name, "folder": str(run.folder)} for run in self.runs]
        return {"runs": runs, "can_check": self._check is not None, **colors()}

    def run(self, run: int) -> dict[str, Any]:
        """The episodes of a run as they are now, and what is wrong with its logs."""
        found = self._run(run)
        episodes = [_summary(episode) for episode in found.episodes()]
        return {"episodes": episodes, "warnings": [text for texts in found.warnings.values() for text in texts]}

    def moments(self, run: int, key: str) -> dict[str, Any]:
        """The inferences of an episode, and what the logs say of each."""
        episode = self._run(run).episode(key)
        summary = _summary(episode)
        if not summary["instruction"]:  # no log tells it; a dump may
            first = self._read(run, episode, 1)[0]
            summary["instruction"] = first[0][1].meta.get("instruction", "") if first else ""
        return {
            **summary,
            "steps": [moment.step for moment in episode.moments],
            "dumps": [moment.dump is not None for moment in episode.moments],
            "series": _series([moment.row for moment in episode.moments]),
        }

    def actions(self, run: int, key: str) -> dict[str, Any]:
        """The actions of an episode over its steps; of a long one, those of some inferences, evenly over it.

        Where no log has the numbers of the inferences, `series` has them, as of `moments`.
        """
        episode = self._run(run).episode(key)
        read, problems = self._read(run, episode, CHUNKS)
        found = _course(episode, read)
        rows = {step: flatten(token_row(record)) for step, record in read}
        return {
            "steps": found.steps.tolist(),
            "actions": found.actions.round(6).T.tolist(),
            "series": _series([moment.row or rows.get(moment.step, {}) for moment in episode.moments]),
            "problems": problems,
        }

    def frame(self, run: int, key: str, frame: int) -> dict[str, Any]:
        """One inference; see `viewer.frame`."""
        return describe(self._record(run, key, frame))

    def heat(self, run: int, key: str, frame: int, said: Mapping[str, str]) -> dict[str, Any]:
        """A heat map of one inference: `kind`, `layer`, and `head`, without which it is the mean over heads."""
        layer, head = (int(said[name]) if name in said else None for name in ("layer", "head"))
        return heat_of(self._record(run, key, frame), said["kind"], layer, head)

    def picture(self, run: int, key: str, frame: int, view: int) -> tuple[bytes, str]:
        """A source picture as it is stored, where browsers know it, and its media type."""
        record = self._record(run, key, frame)
        if not 0 <= view < len(record.views) or (path := picture_path(record, record.views[view])) is None:
            raise FoveateError(f"{record.name}: no picture of view {view}")
        content = encoded(path)
        for start, kind in ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg")):
            if content.startswith(start):
                return content, kind
        return _png(path), "image/png"

    def part(self, said: Mapping[str, str]) -> dict[str, Any]:
        """Where two episodes part: `a` and `b` are their runs, `ea` and `eb` their keys, `tolerance` a share."""
        tolerance = float(said["tolerance"])
        if not 0 <= tolerance <= 1:
            raise FoveateError(f"tolerance: expected a share from 0 to 1, got {tolerance:g}")
        problems: list[str] = []

        def whole(side: str) -> Course:
            episode = self._run(int(said[side])).episode(said[f"e{side}"])
            read, wrong = self._read(int(said[side]), episode, None)
            problems.extend(wrong)
            return _course(episode, read)

        found = part(whole("a"), whole("b"), tolerance)
        return {
            "step": found.step,
            "number": found.number,
            "steps": found.steps.tolist(),
            "difference": found.difference.round(6).tolist(),
            "problems": problems,
        }

    def check(self, run: int, key: str, frame: int) -> Mapping[str, Any]:
        """The causal check of one inference."""
        if self._check is None:
            raise FoveateError("a causal check asks the policy again: start the viewer with --policy")
        record = self._record(run, key, frame)
        with self._asking:  # a policy answers one question at a time
            return self._check(record, load_images(record))

    def _run(self, run: int) -> ViewedRun:
        if not 0 <= run < len(self.runs):
            raise FoveateError(f"no run {run}; there are {len(self.runs)}")
        return self.runs[run]

    def _record(self, run: int, key: str, frame: int) -> Record:
        moments = self._run(run).episode(key).moments
        if not 0 <= frame < len(moments):
            raise FoveateError(f"episode {key}: no inference {frame}; there are {len(moments)}")
        return self._run(run).record(moments[frame])

    def _read(self, run: int, episode: Episode, limit: int | None) -> tuple[list[tuple[int, Record]], list[str]]:
        """Step and record of the dumps of an episode, of so many at most, and what could not be read."""
        read, problems = [], []
        for moment in spread([moment for moment in episode.moments if moment.dump is not None], limit):
            try:
                read.append((moment.step, self._run(run).record(moment)))
            except FoveateError as error:
                problems.append(str(error))
        return read, problems


def _course(episode: Episode, read: Sequence[tuple[int, Record]]) -> Course:
    steps = episode.row.get("steps")
    chunks = [(step, record.action) for step, record in read if record.action is not None]
    return course(chunks, None if steps is None else int(steps))


def _summary(episode: Episode) -> dict[str, Any]:
    row = episode.row or next((moment.row for moment in episode.moments), {})
    return {
        "key": episode.key,
        "task": episode.task,
        "episode": episode.number,
        "seed": episode.seed,
        "status": episode.row.get("status", ""),
        "variant": row.get("variant", ""),
        "instruction": episode.row.get("instruction", ""),
        "length": episode.row.get("steps"),
        "inferences": len(episode.moments),
        "traced": episode.traced,
    }


def _series(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Number -> its value at each inference; those that no row has are left out."""
    columns = {
        name: [next((row[n] for n in names if row.get(n) is not None), None) for row in rows]
        for name, names in SERIES.items()
    }
    if not any(columns["total_ms"]):
        columns["total_ms"] = [1e3 * row["forward_latency_s"] if "forward_latency_s" in row else None for row in rows]
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _png(path: Path) -> bytes:
    import io

    buffer = io.BytesIO()
    try:
        open_picture(path).save(buffer, "PNG", compress_level=1)
    except ImageError as error:
        raise FoveateError(f"{path}: not a readable picture ({error})") from error
    return buffer.getvalue()
