"""A server in a thread or as a process, and a policy without a model that does what a test says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from foveate.engine.reuse import PrefixReuse
from foveate.errors import ActionsNotFinite, FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.policy import PolicySpec, TraceOptions
from foveate.serving.inference import InferenceWorker
from foveate.serving.server import PolicyServer
from foveate.testing.runs import layout
from foveate.types import ActionChunk, LeftOver, Observation, Trace

HORIZON = 10
GRID = (4, 4)


class StubPolicy:
    """Answers each observation with actions that all are its state's sum, plus the first number of its noise.

    Args:
        before: called with the observations of each inference; what it raises is raised.
        kept: patches that the "pruner" keeps of an observation; None: there is no pruner.
    """

    def __init__(
        self,
        robot: str = "metaworld",
        *,
        before: Callable[[Sequence[Observation]], None] = lambda observations: None,
        kept: Callable[[Observation], int] | None = None,
    ) -> None:
        mapping = RobotMapping.load(robot)
        self.before, self.kept = before, kept
        self.processor, self.engine = SimpleNamespace(robot=mapping), SimpleNamespace(guides=False)
        self.real_time_chunking: tuple[str, ...] = ()
        self.pruner = None if kept is None else SimpleNamespace(enabled=True, config=None)
        self.prefix_cache = PrefixReuse()
        self.batches: list[list[Observation]] = []
        self.resets: list[str | None] = []
        self._last_kept: list[int] = []
        views = tuple(mapping.views)
        self.spec = PolicySpec(
            name="stub",
            views=mapping.required_views,
            cameras=mapping.views,
            state=tuple(mapping.state),
            state_dim=mapping.state_dim,
            action_dim=mapping.action_dim,
            action_horizon=HORIZON,
            patches=GRID[0] * GRID[1] * mapping.num_cameras,
            conventions=mapping.conventions,
            image_size=56,
            grids=(GRID,) * len(views),
            depth=2,
            heads=2,
            noise_shape=(HORIZON, mapping.action_dim),
            num_steps=2,
        )

    def example(self) -> Observation:
        views = {view: np.zeros((56, 56, 3), np.uint8) for view in self.spec.views}
        return Observation(views, np.zeros(self.spec.state_dim), "wait")

    def reset(self, session: str | None = None) -> None:
        self.resets.append(session)

    def get_token_pruning_stats(self) -> dict[str, Any]:
        return {"last_kept_per_sample": self._last_kept}

    def infer_batch(
        self,
        observations: Sequence[Observation],
        noise: np.ndarray | None = None,
        *,
        evidence: TraceOptions | None = None,
        keep: np.ndarray | None = None,
        sessions: Sequence[str | None] | None = None,
        left_over: Sequence[LeftOver | None] | None = None,
    ) -> list[ActionChunk]:
        if any(left is not None for left in left_over or ()):
            raise FoveateError("real-time chunking: a stub has no flow to guide")
        begun = time.perf_counter()
        if not all(observation.prompt == "wait" for observation in observations):  # no warm-up
            self.batches.append(list(observations))
            self.before(observations)
        tokens, chunks = layout(GRID, tuple(self.processor.robot.views)), []
        counts = [tokens.num_patches if keep is not None or self.kept is None else self.kept(o) for o in observations]
        if keep is None:
            self._last_kept = counts
        assert noise is not None and sessions is not None and len(noise) == len(sessions) == len(observations)
        for observation, start, count in zip(observations, noise, counts, strict=True):
            value = observation.state.sum() + start[0, 0] * 1e-3
            if observation.prompt == "nan":
                value = np.nan
            actions = np.full((HORIZON, self.spec.action_dim), value, np.float32)
            mask = np.arange(tokens.num_patches) < count
            trace = Trace(tokens, {"keep_mask": mask, "valid": np.ones_like(mask)}) if evidence else None
            chunks.append(ActionChunk(actions, {"prune": 0.1, "total": (time.perf_counter() - begun) * 1e3}, trace))
        if not all(np.isfinite(chunk.actions).all() for chunk in chunks):
            raise ActionsNotFinite("not finite", chunks)
        return chunks


@contextmanager
def served(policy: Any, *, worker: dict[str, Any] | None = None, **options: Any) -> Iterator[PolicyServer]:
    """A server on a free port, in a thread of its own; ended as by SIGTERM.

    Args:
        worker: arguments of the InferenceWorker.
        options: of the PolicyServer.
    """
    server = PolicyServer(InferenceWorker(policy, **(worker or {})), port=0, **options)
    ready, failure = threading.Event(), []

    def run() -> None:
        try:
            asyncio.run(server.run(ready.set))
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert ready.wait(60)
        if failure:
            raise failure[0]
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


def started(port: int, *words: str, seconds: float = 120) -> subprocess.Popen[str]:
    """`foveate serve` as a process that answers on a port; what it prints is in its `stdout`."""
    command = [sys.executable, "-m", "foveate", "serve", "--port", str(port), *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
            return server
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise AssertionError(f"no server: {server.communicate()[0]}")
