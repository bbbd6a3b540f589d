"""What travels between a client and the server: openpi's protocol, and what foveate adds to it.

The server speaks first, with its metadata. Then every binary frame of a client is a map, and gets one frame back:

    {"observation/image": ..., "observation/state": ..., "prompt": ...}  -> {"actions": [H, A], "policy_timing": ...}
    {"batch": [observation, ...]}                                        -> {"batch": [answer or {"error": ...}, ...]}
    {"reset": true}, or of one session {"reset": true, "session": name}  -> {"reset": true}

Beside an observation's own keys (`models.common.remote`) foveate reads `reset` (the episode is new), `session` (its
name, where a connection has several), `noise` (to start from), `return_keep` (which patches were kept), and for
real-time chunking `prev_chunk_left_over`, `inference_delay` and `execution_horizon` (`types.LeftOver`). What is wrong
with a query comes back as a text frame, and the connection stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foveate.client.policy import PROTOCOL
from foveate.errors import FoveateError
from foveate.models.common.remote import Remote
from foveate.models.common.robots import RobotMapping
from foveate.policy import Policy, PolicySpec
from foveate.serving.queries import Answer, Refused
from foveate.types import LeftOver, Observation
from foveate.util import msgpack_numpy
from foveate.util.checks import of_type, shown, whole
from foveate.util.choices import name_of
from foveate.version import __version__

MAX_BATCH = 64
"""Observations of one request, at most."""
MAX_SESSION = 128
"""Characters of a session's name, at most."""


@dataclass(frozen=True)
class Asked:
    """One observation of a request."""

    observation: Observation
    session: str = ""
    reset: bool = False
    noise: np.ndarray | None = None
    return_keep: bool = False
    left_over: LeftOver | None = None


@dataclass(frozen=True)
class Request:
    """What one frame asks."""

    asked: list[Asked] = field(default_factory=list)
    batch: bool = False
    """Whether the answers come as a list."""
    reset: bool = False
    """Whether what is remembered of the connection is forgotten before."""
    session: str | None = None
    """The one session that is meant by that; None: all."""


class Reader:
    """Reads the frames of clients of one policy's robot."""

    def __init__(self, robot: RobotMapping, spec: PolicySpec, default_prompt: str | None = None) -> None:
        self.robot, self.spec, self.default_prompt = robot, spec, default_prompt

    @property
    def remote(self) -> Remote:
        return self.robot.remote

    def read(self, frame: bytes | str) -> Request:
        """What a frame asks.

        Raises:
            Refused: it is malformed, or for another robot; the text names the key, what was expected and what came.
        """
        try:
            if isinstance(frame, str):
                raise FoveateError(
                    "a text frame came; expected a binary one, a msgpack map as openpi-client 0.1 and foveate.client "
                    "send it"
                )
            message = of_type("the message", msgpack_numpy.unpack(frame), dict)
            if "batch" in message:
                rows = of_type("batch", message["batch"], list)
                if not 0 < len(rows) <= MAX_BATCH:
                    raise FoveateError(f"batch: expected 1 to {MAX_BATCH} observations, got {len(rows)}")
                asked = [self._asked(f"batch[{i}]: ", of_type(f"batch[{i}]", row, dict)) for i, row in enumerate(rows)]
                return Request(asked, batch=True, reset=_flag(message, "reset"))
            if set(message) <= {"reset", "session"} and _flag(message, "reset"):
                return Request(reset=True, session=_session(message["session"]) if "session" in message else None)
            return Request([self._asked("", message)])
        except Refused:
            raise
        except (FoveateError, ValueError) as error:
            raise Refused("invalid", str(error)) from None

    def _asked(self, where: str, message: Mapping[Any, Any]) -> Asked:
        try:
            observation = self.remote.read(message, self.robot, self.default_prompt)
            return Asked(
                observation,
                _session(message.get("session", "")),
                _flag(message, "reset"),
                self._noise(message.get("noise")),
                _flag(message, "return_keep"),
                self._left_over(message),
            )
        except (FoveateError, ValueError) as error:
            raise FoveateError(f"{where}{error}") from None

    def _noise(self, value: Any) -> np.ndarray | None:
        shape = self.spec.noise_shape
        return None if value is None or shape is None else _floats("noise", value, shape)

    def _left_over(self, message: Mapping[Any, Any]) -> LeftOver | None:
        """What the robot has left of the chunk before; lerobot's names."""
        value = message.get("prev_chunk_left_over")
        if value is None:
            return None
        most = self.spec.action_horizon
        rows = value.shape[0] if isinstance(value, msgpack_numpy.Packed) and value.shape else 0
        if not 1 <= rows <= most:
            raise FoveateError(f"prev_chunk_left_over: expected an array of 1 to {most} actions, got {shown(value)}")
        horizon = message.get("execution_horizon")
        return LeftOver(
            _floats("prev_chunk_left_over", value, (rows, self.spec.action_dim)),
            whole("inference_delay", message.get("inference_delay", 0), 0, most),
            None if horizon is None else whole("execution_horizon", horizon, 1, most),
        )


def metadata(policy: Policy) -> dict[str, Any]:
    """What the server says first: openpi's clients read what they know of it, foveate's all."""
    robot, spec = policy.processor.robot, policy.spec
    pruner = getattr(policy.pruner, "config", None)
    return {
        "server": f"foveate {__version__}",
        "protocol": PROTOCOL,
        "policy": spec.name,
        "robot": robot.name,
        "observation": [*robot.remote.keys(robot), "prompt"],
        "pruner": None if pruner is None else {"name": name_of(type(pruner)), **asdict(pruner)},
        "cameras": {view: list(names) for view, names in robot.views.items()},
        "optional_views": list(robot.optional_views),
        "state": [[name, size] for name, size in robot.state],
        "remote": asdict(robot.remote),
        "image_size": spec.image_size,
        "grids": [list(grid) for grid in spec.grids],
        "patches": spec.patches,
        "action_horizon": spec.action_horizon,
        "action_dim": spec.action_dim,
        "real_time_chunking": list(policy.real_time_chunking),
        "max_delay": spec.max_delay,
        "noise_shape": None if spec.noise_shape is None else list(spec.noise_shape),
        "conventions": dict(spec.conventions),
    }


def answer_of(answer: Answer, asked: Asked) -> dict[str, Any]:
    """One answer, as openpi's server gives it."""
    stages = {f"{stage}_ms": ms for stage, ms in answer.chunk.timings_ms.items() if stage != "total"}
    message: dict[str, Any] = {
        "actions": answer.chunk.actions,
        "policy_timing": {
            "infer_ms": answer.infer_ms,
            "queue_ms": answer.queue_ms,
            **stages,
            "batch": answer.batch,
        },
    }
    if asked.return_keep:
        message["keep"] = kept_of(answer)
        message["fell_back"] = answer.fell_back
    return message


def kept_of(answer: Answer) -> dict[str, np.ndarray]:
    """View -> bool [rows, columns]: the patches that were kept."""
    trace = answer.chunk.trace
    assert trace is not None and trace.keep is not None
    mask = trace.keep["keep_mask"]
    spans = {span.name: span.grid for span in trace.layout.images}
    return {view: mask[part].reshape(spans[view]) for view, part in trace.layout.view_slices.items()}


def _floats(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of this shape and finite, checked before it is made."""
    if not isinstance(value, msgpack_numpy.Packed) or value.dtype[1:] not in ("f4", "f8") or value.shape != shape:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, msgpack_numpy.Packed) else shown(value)
        raise FoveateError(f"{name}: expected a float32 array {list(shape)}, got {got}")
    floats = value.array().astype(np.float32)
    if not np.isfinite(floats).all():
        raise FoveateError(f"{name}: expected finite numbers")
    return floats


def _flag(message: Mapping[Any, Any], name: str) -> bool:
    return bool(of_type(name, message.get(name, False), bool))


def _session(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_SESSION:
        raise FoveateError(f"session: expected a name of at most {MAX_SESSION} characters, got {shown(value)}")
    return value
