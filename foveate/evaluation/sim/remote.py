"""A policy behind a server, as evaluation runs one: `--policy ws://host:port`, of `foveate serve` or of openpi.

    policy = connect(SimConfig(policy="ws://127.0.0.1:8000", robot="libero"))
    chunk = policy.infer_batch([observation], sessions=["push/0"])[0]

foveate's server says which robot it serves and what its pruner keeps, takes whole batches, and starts from the noise
that is sent: an evaluation gives what it gives without a server. Of another server the robot has to be named, and what
it keeps stays unknown. A server that goes away is tried again until it is back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.client import PolicyClient
from foveate.errors import ActionsNotFinite, FoveateError
from foveate.models.common.remote import Remote
from foveate.models.common.robots import RobotMapping
from foveate.policy import LoadOptions, PolicySpec, TraceOptions
from foveate.pruning import make_pruner
from foveate.types import STAGES, ActionChunk, LeftOver, Observation, Span, TokenLayout, Trace

if TYPE_CHECKING:
    from foveate.evaluation.sim.simulate import SimConfig

PICTURE = 224
"""Side of the picture that an unknown server is tried with; openpi's clients send such ones."""
TRIES = 1000
"""How often a query is sent whose connection is lost; each time the server is waited for."""


def connect(config: SimConfig, *, wait_s: float = 600.0, timeout_s: float = 120.0) -> RemotePolicy:
    """The policy behind a server.

    Args:
        wait_s: how long to try again where the server is not there, at first or later.
        timeout_s: silence for so long counts as a lost connection.
    Raises:
        FoveateError: options of a policy that is loaded here, no server, or one that does not say what it serves.
    """
    said = differing_from_default(config)
    if said:
        raise FoveateError(f"{', '.join(said)}: the server at {config.policy} settles that; give it to `foveate serve`")
    client = PolicyClient(config.policy, wait_s=wait_s, timeout_s=timeout_s, tries=TRIES)
    try:
        return RemotePolicy(client, config.robot)
    except BaseException:
        client.close()
        raise


def differing_from_default(config: SimConfig) -> list[str]:
    """Options that were given, and belong to whoever loads the policy."""
    plain = LoadOptions(policy=config.policy, robot=config.robot)
    said = [f.name for f in fields(LoadOptions) if getattr(config, f.name) != getattr(plain, f.name)]
    return said + (["trace_out_dir"] if config.trace_out_dir is not None else [])


class RemotePolicy:
    """What a rollout needs of a policy, asked of a server. One caller at a time.

    Args:
        robot: the mapping's name or file, where the server does not say what it serves.
    Raises:
        FoveateError: it does not say so, and no robot is named.
    """

    def __init__(self, client: PolicyClient, robot: str | None = None) -> None:
        self.client, self.known = client, client.speaks_foveate
        told = client.get_server_metadata()
        if self.known and robot is not None and Path(robot).stem != told["robot"]:
            raise FoveateError(f"--robot {robot}: {client.uri} serves robot {told['robot']!r}; leave it out")
        if self.known:
            self.robot = _robot_of(told)
            self.pruner = make_pruner(told["pruner"])
        elif robot is None:
            raise FoveateError(
                f"{client.uri}: the server does not say which robot it serves; name it: --robot libero, droid, aloha "
                "or a YAML file"
            )
        else:
            self.robot, self.pruner = RobotMapping.load(robot), None
        self.layout = _layout([(view, tuple(grid)) for view, grid in zip(self.robot.views, told["grids"], strict=True)]
                              if self.known else [])  # fmt: skip
        self.spec = self._spec(told)

    def infer_batch(
        self,
        observations: Sequence[Observation],
        noise: np.ndarray | None = None,
        *,
        evidence: TraceOptions | None = None,
        sessions: Sequence[str | None] | None = None,
        left_over: Sequence[LeftOver | None] | None = None,
    ) -> list[ActionChunk]:
        """As `Policy.infer_batch`; `total` is what the robot waits: the way to the server and back is in it.

        Raises:
            ActionsNotFinite: actions hold NaN or infinity, which foveate's server would not send.
            FoveateError: the server refuses an observation, or is gone for good.
        """
        messages = [self.robot.remote.write(observation, self.robot) for observation in observations]
        for i, message in enumerate(messages if self.known else ()):
            message |= {"return_keep": evidence is not None, "session": (sessions[i] if sessions else None) or ""}
            if noise is not None:
                message["noise"] = noise[i]
            left = left_over[i] if left_over else None
            if left is not None:
                message |= {"prev_chunk_left_over": left.actions, "inference_delay": left.inference_delay}
        begun = time.perf_counter()
        answers = self.client.infer_batch(messages)
        ms = (time.perf_counter() - begun) * 1e3
        refused = next((answer["error"] for answer in answers if "error" in answer), None)
        if refused is not None:
            raise FoveateError(refused)
        chunks = [self._chunk(answer, ms, evidence is not None) for answer in answers]
        if not all(np.isfinite(chunk.actions).all() for chunk in chunks):
            raise ActionsNotFinite(f"{self.client.uri} answered actions that are not finite", chunks)
        return chunks

    @property
    def real_time_chunking(self) -> tuple[str, ...]:
        """As `Policy.real_time_chunking`."""
        return tuple(self.client.get_server_metadata().get("real_time_chunking", ())) if self.known else ()

    def reset(self, session: str | None = None) -> None:
        """The server forgets a session; None: all of this connection."""
        self.client.reset(session)

    def report(self) -> dict[str, Any]:
        """What results say in place of an engine."""
        told = self.client.get_server_metadata()
        known: dict[str, Any] = {name: told[name] for name in ("server", "policy", "robot") if name in told}
        return {"remote": self.client.uri, "connections": self.client.connections, **known}

    def _chunk(self, answer: Mapping[str, Any], ms: float, evidence: bool) -> ActionChunk:
        actions = np.array(answer["actions"], np.float32)
        if actions.ndim != 2 or actions.shape[1] < self.robot.action_dim:
            raise FoveateError(
                f"{self.client.uri}: expected actions [horizon, {self.robot.action_dim}] of robot {self.robot.name!r}, "
                f"got shape {list(actions.shape)}; is it another robot's policy?"
            )
        timing = answer.get("policy_timing", {})
        stages = {stage: timing[f"{stage}_ms"] for stage in STAGES if f"{stage}_ms" in timing}
        trace = None
        if evidence and "keep" in answer:
            mask = np.concatenate([answer["keep"][span.name].ravel() for span in self.layout.images])
            trace = Trace(self.layout, {"keep_mask": mask, "valid": self._present()})
        return ActionChunk(actions[:, : self.robot.action_dim], {**stages, "total": ms}, trace)

    def _present(self) -> np.ndarray:
        """bool [P]: patches of cameras that the robot has."""
        return np.concatenate([np.full(len(span), bool(self.robot.views[span.name])) for span in self.layout.images])

    def _spec(self, told: Mapping[str, Any]) -> PolicySpec:
        robot = self.robot
        horizon = told["action_horizon"] if self.known else self._try()
        return PolicySpec(
            name=told["policy"] if self.known else self.client.uri.partition("://")[2],
            views=robot.required_views,
            cameras=robot.views,
            state=robot.state,
            state_dim=robot.state_dim,
            action_dim=robot.action_dim,
            action_horizon=horizon,
            patches=int(self._present().sum()) if self.known else 0,
            conventions=robot.conventions,
            image_size=told.get("image_size", PICTURE),
            grids=tuple(tuple(grid) for grid in told.get("grids", ())),
            depth=0,
            heads=0,
            noise_shape=tuple(told["noise_shape"]) if told.get("noise_shape") else None,
            num_steps=None,
        )

    def _try(self) -> int:
        """Ask once, to see how many actions come at a time."""
        grey = np.full((PICTURE, PICTURE, 3), 128, np.uint8)
        views = {view: grey for view in self.robot.required_views}
        example = Observation(views, np.zeros(self.robot.state_dim), "wait")
        return len(self._chunk(self.client.infer(self.robot.remote.write(example, self.robot)), 0.0, False).actions)


def _robot_of(told: Mapping[str, Any]) -> RobotMapping:
    return RobotMapping(
        name=told["robot"],
        views={view: tuple(names) for view, names in told["cameras"].items()},
        state=tuple((name, size) for name, size in told["state"]),
        action_dim=told["action_dim"],
        optional_views=tuple(told["optional_views"]),
        conventions=told["conventions"],
        remote=Remote(**told["remote"]),
    )


def _layout(grids: Sequence[tuple[str, tuple[int, ...]]]) -> TokenLayout:
    spans, start = [], 0
    for view, (rows, columns) in grids:
        spans.append(Span(view, "image", start, start + rows * columns, (rows, columns)))
        start += rows * columns
    return TokenLayout(tuple(spans))
