"""What an environment is: instructions, views and actions in declared conventions; no simulator is imported here.

An environment holds several tasks and runs one episode at a time. Pictures are rendered only when asked for,
because a policy that executes several actions of a chunk looks at one frame in between.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from foveate.errors import FoveateError, unknown
from foveate.types import Observation


class EnvCrash(FoveateError):
    """An episode that cannot go on: the simulator died, hung or was given an impossible action. Counted as a crash."""


@dataclass(frozen=True)
class EnvConventions:
    """What numbers and pictures mean. A policy states the same for what it was trained with; they must agree."""

    action_space: str
    """What the components are, in order, e.g. `eef_xyz+gripper`."""
    action_dim: int
    """Number of components of one action."""
    delta: bool
    """True: motion is relative to the present pose; False: absolute targets."""
    gripper_sign: str
    """`positive_closes` or `positive_opens`."""
    image_orientation: str = "upright"
    """How pictures arrive, e.g. `upright` or `rotated_180`."""
    control_hz: float = 20.0
    """Actions per second of simulated (or real) time."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepResult:
    """The answer to one action."""

    observation: Observation | None
    """None where no picture was asked for."""
    success: bool
    """The environment's own success signal at this step; the first True ends the episode as a success."""
    done: bool
    """True when no further step is possible (step limit or a terminal state)."""
    info: dict[str, Any] = field(default_factory=dict)
    """Flat numbers and strings, environment specific."""


@dataclass(frozen=True)
class Advice:
    """What a scripted expert, who sees the simulator's state, would do at an instant; a label, never an observation."""

    state: np.ndarray
    """The robot's state, as an observation of this instant holds it: float32 [S]."""
    action: np.ndarray
    """float32 [action_dim] in [-1, 1]."""


@dataclass(frozen=True)
class Snapshot:
    """What a simulator knows of an instant besides the observation; for recordings, never for a policy."""

    images: Mapping[str, np.ndarray]
    """View -> uint8 [h, w, 3], upright, at the size asked for; empty where none was asked for."""
    robot: Mapping[str, np.ndarray]
    """Float arrays under DROID's names: joint_positions [J] rad, joint_velocities [J] rad/s, cartesian_position [6]
    (x, y, z in m, then Euler angles xyz in rad, of the hand in the world), gripper_position [] from 0 (open) to 1."""
    cameras: Mapping[str, Mapping[str, np.ndarray]]
    """View -> `intrinsics` [3, 3] in pixels of the recorded pictures, `extrinsics` [6]: the camera's pose in the world
    as cartesian_position, x to the right of the picture, y down, z forward."""


class Env(Protocol):
    """One simulator (or robot) with a fixed set of views and tasks."""

    conventions: EnvConventions
    views: tuple[str, ...]
    tasks: tuple[str, ...]
    max_steps: int
    """Steps after which `done` is True."""

    def reset(self, task: str, seed: int) -> Observation:
        """Start an episode; the same task and seed give the same scene."""
        ...

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        """Execute one action, float32 [action_dim]; `EnvCrash` where it is not finite or of another size."""
        ...

    def close(self) -> None: ...

    # One with more to tell has
    #     about: dict[str, Any]       # `versions` and `settings`, for a run's records
    #     scene: dict[str, Any]       # what the last reset began with, beside the seed
    #     def examine(self) -> list[str]      # what differs from how it should look, in sentences; ends the episode
    # One with a scripted expert has
    #     def advise(self) -> Advice          # at this instant; FoveateError where the task is none of the expert's
    # One that can be recorded in detail also has
    #     def snapshot(self, size: tuple[int, int] | None) -> Snapshot
    # which renders this instant at (width, height), or not at all; and one that knows its objects
    #     def segment(self, size: tuple[int, int] | None) -> dict[str, dict[str, np.ndarray]]
    # view -> object -> bool [h, w], where those pictures show it.


ENVS = {"metaworld": "foveate.envs.metaworld.env:MetaWorldEnv", "libero": "foveate.envs.libero:LiberoEnv"}
"""Name -> `module:Class`; any other `module:Class` is accepted as a name too."""


def make_env(name: str, **kwargs: Any) -> Env:
    """The environment of this name (a key of `ENVS` or `module:Class`), in this process."""
    if ":" not in name and name not in ENVS:
        raise unknown("environment", name, ENVS)
    module, _, attribute = ENVS.get(name, name).partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FoveateError(f"environment {name!r}: cannot load {attribute!r} from {module!r} ({error})") from error
    return cls(**kwargs)


def default_python(name: str) -> str:
    """The interpreter of an environment's worker, where nobody names one: this one, or where LIBERO is."""
    if name == "libero":
        from foveate.envs.libero.install import interpreter

        return interpreter() or sys.executable
    return sys.executable


def check_simulator(name: str, python: str | None = None) -> None:
    """Tell at once, before anything is loaded, that an environment's worker cannot start.

    Args:
        python: the worker's interpreter; None: `default_python`.
    Raises:
        FoveateError: the interpreter is not there, or lacks LIBERO.
    """
    program = python or default_python(name)
    if shutil.which(program) is None:
        raise FoveateError(f"env.python {program!r}: there is no such program; name a Python interpreter")
    if name == "libero":
        from foveate.envs.libero.install import check_installed

        check_installed(program)


def check_action(action: np.ndarray, action_dim: int) -> np.ndarray:
    """float32 [action_dim], finite; otherwise `EnvCrash`."""
    action = np.asarray(action, dtype=np.float32)
    if action.shape != (action_dim,):
        raise EnvCrash(f"action: expected {action_dim} numbers, got shape {action.shape}")
    if not np.isfinite(action).all():
        raise EnvCrash(f"action: expected finite numbers, got {action.tolist()}; the policy diverged")
    return action


def check_conventions(env: EnvConventions, policy: EnvConventions | Mapping[str, Any]) -> None:
    """Raise `FoveateError` that lists every convention in which policy and environment differ.

    A field that a policy does not declare counts as a difference: guessing a gripper sign breaks robots.
    """
    wanted = policy.to_dict() if isinstance(policy, EnvConventions) else dict(policy)
    here = env.to_dict()
    lines = []
    for f in fields(EnvConventions):
        theirs = wanted.get(f.name, "(not declared)")
        same = abs(here[f.name] - theirs) < 1e-6 if _numbers(here[f.name], theirs) else here[f.name] == theirs
        if not same:
            lines.append(f"{f.name}: environment {here[f.name]!r}, policy {theirs!r}")
    if lines:
        raise FoveateError(
            "the policy was trained with other conventions than this environment has: "
            + "; ".join(lines)
            + ". Choose the environment that the policy was made for, or correct the policy's robot.yaml."
        )


def _numbers(*values: Any) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
