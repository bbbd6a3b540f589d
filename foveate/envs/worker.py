"""An environment in a process of its own, with its own interpreter if need be.

Simulators crash, hang, leak and pin clashing packages. `WorkerEnv` keeps one behind a socket: same interface as the
environment itself, but a crash or a hang becomes `EnvCrash`, after which `restart()` gives a fresh one.

The worker side (`main`) imports NumPy and the simulator alone, no torch, and nothing that
an older Python lacks. Messages are those of `util/wire.py`: nothing is pickled.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foveate.envs.base import (
    Advice,
    EnvConventions,
    EnvCrash,
    Snapshot,
    StepResult,
    check_action,
    default_python,
    make_env,
)
from foveate.errors import FoveateError
from foveate.types import Observation
from foveate.util.process import die_with_parent, kill_group
from foveate.util.wire import WireError, receive, send

SOURCE_ROOT = Path(__file__).resolve().parents[2]
STDERR_LINES = 6
SPAWNER = ThreadPoolExecutor(1, "env-spawner")
"""The thread that starts workers. The kernel ends a worker with the thread that started it, so this must be one that
lives as long as the run, and not whoever happens to need a simulator."""


class WorkerEnv:
    """`make_env(env_name, **kwargs)` in a subprocess. Not thread-safe: one thread steps one worker."""

    conventions: EnvConventions
    views: tuple[str, ...]
    tasks: tuple[str, ...]
    max_steps: int
    about: dict[str, Any]
    """What a run tells of the simulator, `versions` and `settings`; empty where it says nothing."""
    warnings: tuple[str, ...]
    """What the environment warned of when it was made."""
    scene: dict[str, Any]
    """What the last reset began with, beside the seed; flat numbers and strings."""

    def __init__(self, env_name: str, python: str | None = None, timeout_s: float = 60.0, **kwargs: Any) -> None:
        """
        env_name: a name that `make_env` knows, or `module:Class`.
        python: the worker's interpreter; None: `default_python`. It needs NumPy and the simulator; foveate's source is
            put on its path.
        timeout_s: a worker that is silent for so long, at its start or at a step, counts as hung.
        kwargs: for the environment's constructor; plain JSON values.
        """
        self.env_name, self.timeout_s, self.kwargs = env_name, timeout_s, kwargs
        self.python = python or default_python(env_name)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._start()

    def reset(self, task: str, seed: int) -> Observation:
        answer = self._call("reset", task=task, seed=int(seed))
        self.scene = answer["scene"]
        return self._observation(answer["observation"])

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        action = check_action(action, self.conventions.action_dim)
        answer = self._call("step", action=action, render=bool(render))
        seen = answer["observation"]
        return StepResult(
            self._observation(seen) if seen is not None else None, answer["success"], answer["done"], answer["info"]
        )

    def snapshot(self, size: tuple[int, int] | None = None) -> Snapshot | None:
        """What the simulator knows of this instant, rendered at (width, height) if asked; None: it cannot tell."""
        answer = self._call("snapshot", size=None if size is None else list(size))
        return None if answer is None else Snapshot(answer["images"], answer["robot"], answer["cameras"])

    def segment(self, size: tuple[int, int] | None = None) -> dict[str, dict[str, np.ndarray]] | None:
        """View -> object -> bool [h, w] at this instant, at (width, height) if asked; None: it cannot tell."""
        return self._call("segment", size=None if size is None else list(size))

    def advise(self) -> Advice:
        """What the environment's scripted expert would do at this instant.

        Raises:
            FoveateError: it has none, or none for this task.
        """
        answer = self._call("advise")
        if answer is None:
            raise FoveateError(f"environment {self.env_name!r} has no scripted expert")
        return Advice(answer["state"], answer["action"])

    def examine(self) -> list[str]:
        """What differs from how this simulator should look, in sentences; ends the episode."""
        told: list[str] = self._call("examine")
        return told

    def restart(self) -> None:
        """End the process, however it is, and start a fresh one; the next call must be `reset`."""
        self._kill()
        self._start()

    def close(self) -> None:
        """End the worker; harmless when it has ended already."""
        if self._socket is not None and self._process is not None:
            try:
                self._socket.settimeout(5.0)
                send(self._socket, {"call": "close"})
                self._process.wait(5.0)
            except (OSError, subprocess.TimeoutExpired):
                pass
        self._kill()

    def __enter__(self) -> WorkerEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        # What the simulator prints goes to a file: its last lines explain a crash.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        path = [str(SOURCE_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        try:
            self._process = SPAWNER.submit(
                subprocess.Popen,
                [self.python, "-c", f"from foveate.envs.worker import main; main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the run, which closes its workers itself
            ).result()
        except OSError as error:
            ours.close()
            raise FoveateError(
                f"env.python {self.python!r}: cannot be started ({error.strerror}); name a Python interpreter"
            ) from error
        finally:
            theirs.close()
        self._socket = ours
        try:
            said = self._call("make", name=self.env_name, kwargs=self.kwargs)
        except FoveateError:
            self._kill()
            raise
        self.conventions = EnvConventions(**said["conventions"])
        self.views, self.tasks = tuple(said["views"]), tuple(said["tasks"])
        self.max_steps, self.about, self.scene = said["max_steps"], said["about"], {}
        self.warnings = tuple(said["warnings"])

    def _call(self, call: str, **arguments: Any) -> Any:
        """Send one request and wait for its answer."""
        if self._socket is None or self._process is None:
            raise EnvCrash(f"environment {self.env_name}: its worker has ended; call restart()")
        what = f"environment {self.env_name}, {call}"
        self._socket.settimeout(self.timeout_s)
        try:
            send(self._socket, {"call": call, **arguments})
            answer = receive(self._socket)
        except TimeoutError as error:
            self._kill()
            raise EnvCrash(f"{what}: no answer within {self.timeout_s:g} s; the worker hung and was ended") from error
        except WireError as error:
            self._kill()
            raise EnvCrash(f"{what}: the worker's answer cannot be read: {error}") from error
        except (OSError, EOFError) as error:
            status = self._kill()
            ended = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise EnvCrash(f"{what}: the worker died ({ended}){self._last_words()}") from error
        if "error" in answer:
            kind = FoveateError if answer["kind"] == "user" else EnvCrash
            raise kind(answer["error"] if answer["kind"] != "bug" else f"{what}: {answer['error']}")
        return answer["value"]

    def _observation(self, message: Any) -> Observation:
        lacking = [view for view in self.views if view not in message["images"]]
        if lacking:
            raise EnvCrash(f"the environment's observation lacks its view {', '.join(lacking)}")
        try:
            return Observation(message["images"], message["state"], message["prompt"])
        except ValueError as error:
            raise EnvCrash(f"the environment's observation is invalid: {error}") from error

    def _kill(self) -> int:
        """End the process for sure; returns its exit status."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is None:
            return 0
        try:
            status = self._process.wait(0.2)  # a worker that died by itself keeps its own status
        except subprocess.TimeoutExpired:
            kill_group(self._process.pid)  # `python` may be a script around an interpreter
            status = self._process.wait()
        self._process = None
        return status

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4000))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return "; its last lines: " + " | ".join(lines) if lines else ""

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._kill()


def serve(connection: socket.socket) -> None:
    """The worker's loop: answer requests until `close` or the end of the connection."""
    env: Any = None
    while True:
        try:
            request = receive(connection)
        except (EOFError, OSError, WireError):
            break
        call = request.pop("call")
        if call == "close":
            break
        try:
            if call == "make":
                with _heard() as warnings:
                    env = make_env(request["name"], **request["kwargs"])
                value: Any = {
                    "conventions": env.conventions.to_dict(),
                    "views": list(env.views),
                    "tasks": list(env.tasks),
                    "max_steps": env.max_steps,
                    "about": getattr(env, "about", {}),
                    "warnings": warnings,
                }
            elif call == "snapshot":
                value = _snapshot(env, request["size"])
            elif call == "segment":
                size = request["size"]
                value = env.segment(size and tuple(size)) if hasattr(env, "segment") else None
            elif call == "reset":
                seen = _message(env.reset(request["task"], request["seed"]))
                value = {"observation": seen, "scene": getattr(env, "scene", {})}
            elif call == "advise":
                value = asdict(env.advise()) if hasattr(env, "advise") else None
            elif call == "examine":
                value = env.examine() if hasattr(env, "examine") else []
            else:
                result = env.step(request["action"], render=request["render"])
                value = {
                    "observation": None if result.observation is None else _message(result.observation),
                    "success": bool(result.success),
                    "done": bool(result.done),
                    "info": result.info,
                }
            answer: dict[str, Any] = {"value": value}
        except EnvCrash as error:
            answer = {"kind": "crash", "error": str(error)}
        except FoveateError as error:
            answer = {"kind": "user", "error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"kind": "bug", "error": f"{type(error).__name__}: {error}"}
        send(connection, answer)
    if env is not None:
        env.close()


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings that foveate logs meanwhile: in a worker nobody would read them."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("foveate")
    logger.addHandler(handler)
    try:
        yield warnings
    finally:
        logger.removeHandler(handler)


def _message(observation: Observation) -> dict[str, Any]:
    return {"images": dict(observation.images), "state": observation.state, "prompt": observation.prompt}


def _snapshot(env: Any, size: list[int] | None) -> dict[str, Any] | None:
    if not hasattr(env, "snapshot"):
        return None
    seen = env.snapshot(None if size is None else tuple(size))
    return {"images": dict(seen.images), "robot": dict(seen.robot), "cameras": dict(seen.cameras)}


def main(descriptor: int) -> None:
    """The worker process: serve on an inherited socket, and end with the run, whatever the simulator is doing then."""
    connection = socket.socket(fileno=descriptor)
    die_with_parent()
    hung_up = select.poll()
    hung_up.register(connection, 0)
    if not hung_up.poll(0):  # the run may have been killed before the line above took hold
        serve(connection)
