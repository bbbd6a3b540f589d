"""Robot mappings: how one robot's observation and action become the model's, declared in a YAML file.

Shipped: `foveate/robots/{droid,libero,aloha,metaworld}.yaml`; a user writes another for their robot, and a policy
folder may bring its own `robot.yaml`. The facts of the first three are openpi's. NumPy alone.

The order of work is openpi's. In: joint signs, gripper, (training: absolute action -> delta), normalisation.
Out: the inverse of normalisation, delta -> absolute, joint signs, gripper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from foveate.errors import FoveateError, unknown
from foveate.models.common.remote import Remote
from foveate.util.checks import of_type, one_of, shown, whole

ROBOTS_DIR = Path(__file__).resolve().parents[2] / "robots"
MAX_DIM = 4096
"""Numbers of a state's part or of an action, at most."""


@dataclass(frozen=True)
class Range:
    """A linear map that takes the interval `source` to `target`."""

    source: tuple[float, float]
    target: tuple[float, float]

    def __post_init__(self) -> None:
        for name, ends in (("source", self.source), ("target", self.target)):
            if len(ends) != 2 or ends[0] == ends[1]:
                raise FoveateError(f"gripper range: {name} needs two different ends, got {list(ends)}")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        (a, b), (c, d) = self.source, self.target
        return (x - a) / (b - a) * (d - c) + c

    def inverse(self, y: np.ndarray) -> np.ndarray:
        return Range(self.target, self.source)(y)


@dataclass(frozen=True)
class Linkage:
    """Finger position [m] -> horn angle [rad] of a crank with these lengths [m] (Interbotix' gripper)."""

    arm_length: float
    horn_radius: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        sine = (self.horn_radius**2 + x**2 - self.arm_length**2) / (2 * self.horn_radius * x)
        angle: np.ndarray = np.arcsin(np.clip(sine, -1, 1))
        return angle

    def inverse(self, y: np.ndarray) -> np.ndarray:
        sine: np.ndarray = self.horn_radius * np.sin(y)
        return sine + np.sqrt(self.arm_length**2 - self.horn_radius**2 + sine**2)


@dataclass(frozen=True)
class Sign:
    """-1, 0 or 1: a gripper that is told to open or to close, nothing between."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        sign: np.ndarray = np.sign(x)
        return sign

    def inverse(self, y: np.ndarray) -> np.ndarray:
        within: np.ndarray = np.clip(y, -1, 1)
        return within


GripperStep = Range | Linkage | Sign


@dataclass(frozen=True)
class Gripper:
    """Entries of state and action that are grippers, and their way into and out of the model's units."""

    dims: tuple[int, ...] = ()
    state: tuple[GripperStep, ...] = ()
    """Robot -> model, applied in order."""
    actions: tuple[GripperStep, ...] = ()
    """Model -> robot, applied in order."""


@dataclass(frozen=True)
class RobotMapping:
    """One robot, as the policy's training data saw it."""

    name: str
    views: Mapping[str, tuple[str, ...]]
    """Model view -> names under which the observation may carry it, the first one preferred; empty: absent."""
    state: tuple[tuple[str, int], ...]
    """The state's parts in order: name, length."""
    action_dim: int
    """Of the robot; the model's is larger."""
    optional_views: tuple[str, ...] = ()
    """Model views that may be missing: they become masked black images. Any other missing view is an error."""
    joint_signs: tuple[int, ...] = ()
    """1 or -1 per entry of state and action: the model's joint directions; empty: all 1."""
    delta_mask: tuple[bool, ...] = ()
    """Entries whose action the model gives relative to the state; empty: none."""
    gripper: Gripper = field(default_factory=Gripper)
    asset_ids: tuple[str, ...] = ()
    """Names of this robot's norm stats in openpi checkpoints."""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """What the policy was trained with, by the field names of `EnvConventions`; a mismatch stops an evaluation."""
    state_in_prompt: bool | None = None
    """Whether the state is written into the prompt; None: as the model does (π0.5 yes, π0 no)."""
    default_prompt: str | None = None
    """Used where an observation brings an empty prompt."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`state` and `actions` -> their columns in a data set, side by side, where it has none of the usual names."""
    remote: Remote = field(default_factory=Remote)
    """What the robot's clients call pictures and state when they ask a policy server."""

    def __post_init__(self) -> None:
        whole(f"robot {self.name!r}: action_dim", self.action_dim, 1, MAX_DIM)
        for part, size in self.state:
            whole(f"robot {self.name!r}: length of the state's part {part!r}", size, 1, MAX_DIM)
        for what, size in (("joint_signs", len(self.joint_signs)), ("delta_mask", len(self.delta_mask))):
            if size and size != self.action_dim:
                raise FoveateError(
                    f"robot {self.name!r}: {what} has {size} entries, expected action_dim {self.action_dim}"
                )
        for what in self.columns:
            one_of(f"robot {self.name!r}: columns", what, ("state", "actions"))
        if set(self.joint_signs) - {1, -1}:
            raise FoveateError(f"robot {self.name!r}: joint_signs are 1 or -1, got {list(self.joint_signs)}")
        if (any(self.joint_signs) or any(self.delta_mask)) and self.state_dim < self.action_dim:
            raise FoveateError(
                f"robot {self.name!r}: joint_signs and delta_mask pair each action with the state entry at the same "
                f"place, but the state has {self.state_dim} entries and the action {self.action_dim}"
            )
        for view in self.optional_views:
            if view not in self.views:
                raise unknown(f"view in optional_views of robot {self.name!r}:", view, self.views)
        if any(not 0 <= d < min(self.action_dim, self.state_dim) for d in self.gripper.dims):
            raise FoveateError(f"robot {self.name!r}: gripper dims {list(self.gripper.dims)} lie outside the action")
        declared = self.conventions.get("action_dim", self.action_dim)
        if declared != self.action_dim:
            raise FoveateError(
                f"robot {self.name!r}: conventions say action_dim {declared}, above it is {self.action_dim}"
            )
        object.__setattr__(self, "conventions", {**self.conventions, "action_dim": self.action_dim})

    @property
    def state_dim(self) -> int:
        return sum(size for _, size in self.state)

    @property
    def required_views(self) -> tuple[str, ...]:
        """Names of the views that an observation must hold, in the model's order."""
        return tuple(names[0] for view, names in self.views.items() if names and view not in self.optional_views)

    @property
    def num_cameras(self) -> int:
        """Cameras that the robot has; the rest of the model's views are masked."""
        return sum(bool(names) for names in self.views.values())

    def restricted(self, views: tuple[str, ...]) -> RobotMapping:
        """The same robot with just these model views, in this order.

        Raises:
            FoveateError: the model reads a view that the mapping does not name.
        """
        for view in views:
            if view not in self.views:
                raise FoveateError(
                    f"the model reads view {view!r}, and robot {self.name!r} maps only {list(self.views)}; "
                    "add it to the robot's YAML (an empty list where the robot has no such camera)"
                )
        optional = tuple(view for view in self.optional_views if view in views)
        return dataclasses.replace(self, views={view: self.views[view] for view in views}, optional_views=optional)

    def select_views(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """Model view -> the observation's image, None where the view is absent.

        Raises:
            FoveateError: a view that the policy needs is not there.
        """
        chosen: dict[str, np.ndarray | None] = {}
        for view, names in self.views.items():
            chosen[view] = next((images[name] for name in names if name in images), None)
            if chosen[view] is None and names and view not in self.optional_views:
                raise FoveateError(
                    f"the observation has no view {' or '.join(map(repr, names))} (model view {view!r} of robot "
                    f"{self.name!r}): expected {list(self.required_views)}, got {sorted(images)}; rename the view, or "
                    "name it in the robot's YAML under views"
                )
        if all(image is None for image in chosen.values()):
            raise FoveateError(f"robot {self.name!r}: the observation has none of the views {list(self.views)}")
        return chosen

    def to_model_state(self, state: np.ndarray) -> np.ndarray:
        """float [..., S] in the robot's units -> float64 [..., S], not yet normalised."""
        if state.shape[-1] != self.state_dim:
            parts = ", ".join(f"{name} ({size})" for name, size in self.state)
            raise FoveateError(
                f"the state has {state.shape[-1]} numbers, robot {self.name!r} expects {self.state_dim}: {parts}"
            )
        state = np.array(state, dtype=np.float64)
        if self.joint_signs:
            state[..., : self.action_dim] *= self.joint_signs
        return self._on_gripper(state, [step.__call__ for step in self.gripper.state])

    def from_model_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Unnormalised model actions [..., H, >= A] -> the robot's, float32 [..., H, A]; NaN stays NaN.

        Args:
            state: [..., S] of the same observation, as the robot gave it; delta actions are added to it.
        """
        actions = np.array(actions[..., : self.action_dim], dtype=np.float64)
        actions += self._offset(state)
        if self.joint_signs:
            actions *= self.joint_signs
        return self._on_gripper(actions, [step.__call__ for step in self.gripper.actions]).astype(np.float32)

    def to_model_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The robot's actions [..., H, A] -> the model's, not yet normalised, float32: the inverse, for training."""
        if actions.shape[-1] != self.action_dim:
            raise FoveateError(
                f"the action has {actions.shape[-1]} numbers, robot {self.name!r} expects {self.action_dim}"
            )
        actions = self._on_gripper(
            np.array(actions, dtype=np.float64), [step.inverse for step in reversed(self.gripper.actions)]
        )
        if self.joint_signs:
            actions *= self.joint_signs
        moves: np.ndarray = actions - self._offset(state)
        return moves.astype(np.float32)

    def _offset(self, state: np.ndarray) -> np.ndarray:
        if not any(self.delta_mask):
            return np.zeros(self.action_dim)
        return np.where(self.delta_mask, self.to_model_state(state)[..., None, : self.action_dim], 0.0)

    def _on_gripper(self, values: np.ndarray, steps: Sequence[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
        dims = list(self.gripper.dims)
        for step in steps:
            values[..., dims] = step(values[..., dims])
        return values

    @classmethod
    def load(cls, robot: str | Path, model: Literal["pi0", "pi05"] = "pi05") -> RobotMapping:
        """Read a shipped mapping by name, or a YAML file by path.

        Args:
            model: picks the file's `overrides`, where the same robot was used differently by π0 and π0.5.
        """
        path = Path(robot)
        if path.suffix not in (".yaml", ".yml"):
            path = ROBOTS_DIR / f"{robot}.yaml"
            if not path.exists():
                raise unknown(
                    "robot", str(robot), [p.stem for p in ROBOTS_DIR.glob("*.yaml")] + ["a path ending in .yaml"]
                )
        if path.exists() and not path.is_file():
            raise FoveateError(f"robot mapping {path}: expected a YAML file, and this is no regular file")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise FoveateError(f"robot mapping {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise FoveateError(f"robot mapping {path}: not YAML ({error})") from None
        except RecursionError:
            raise FoveateError(f"robot mapping {path}: not YAML that can be read (nested too deeply)") from None
        if not isinstance(values, dict):
            raise FoveateError(f"robot mapping {path}: expected keys such as views, state, action_dim")
        try:
            overrides = of_type("overrides", values.pop("overrides", None) or {}, dict)
            values |= of_type(f"overrides of {model}", overrides.get(model) or {}, dict)
            return cls.from_dict({"name": path.stem, **values})
        except FoveateError as error:
            raise FoveateError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RobotMapping:
        """From the YAML's plain values; unknown and missing keys are named."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("key in the robot mapping", str(key), known)
        for key in ("views", "state", "action_dim"):
            if key not in values:
                raise FoveateError(f"the robot mapping lacks {key!r}; see foveate/robots/droid.yaml for an example")
        read: dict[str, Any] = {}
        faults = (TypeError, ValueError, AttributeError, KeyError)
        for key, value in values.items():
            try:
                read[key] = _READERS.get(key, lambda v: v)(value)
            except faults:
                raise FoveateError(
                    f"robot mapping: {key} has the wrong form, got {shown(value)}; compare foveate/robots/droid.yaml"
                ) from None
        try:
            return cls(**read)
        except faults as error:
            raise FoveateError(f"robot mapping: a value has the wrong form ({error!r:.200})") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the inverse of `from_dict`, fit for YAML."""
        gripper = {
            "dims": list(self.gripper.dims),
            "state": [_write_step(step) for step in self.gripper.state],
            "actions": [_write_step(step) for step in self.gripper.actions],
        }
        return {
            "name": self.name,
            "views": {view: list(names) for view, names in self.views.items()},
            "optional_views": list(self.optional_views),
            "state": [{"name": name, "dim": size} for name, size in self.state],
            "action_dim": self.action_dim,
            "joint_signs": list(self.joint_signs),
            "delta_mask": [1 if d else -1 for d in self.delta_mask],
            "gripper": gripper if self.gripper.dims else None,
            "asset_ids": list(self.asset_ids),
            "conventions": dict(self.conventions),
            "state_in_prompt": self.state_in_prompt,
            "default_prompt": self.default_prompt,
            "columns": {what: list(names) for what, names in self.columns.items()},
            "remote": dataclasses.asdict(self.remote),
        }

    def to_yaml(self) -> str:
        """The text of a file that `load` reads."""
        values = {key: value for key, value in self.to_dict().items() if value is not None}
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_views(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        of_type("a view", view, str): (names,)
        if isinstance(names, str)
        else _read_names(f"names of view {view!r}", names)
        for view, names in of_type("views", values, dict).items()
    }


def _read_names(what: str, names: Any) -> tuple[str, ...]:
    return tuple(of_type(what, name, str) for name in of_type(what, names or [], list, tuple))


def _read_mask(runs: list[int]) -> tuple[bool, ...]:
    """openpi's notation: 6 is six entries that are deltas, -1 one that is absolute."""
    for run in runs or ():
        whole("delta_mask: a run of entries", run, -MAX_DIM, MAX_DIM)
    return tuple(run > 0 for run in runs or () for _ in range(abs(run)))


def _read_step(values: Mapping[str, Any]) -> GripperStep:
    (kind, fields), *more = values.items()
    if more or kind not in ("range", "linkage", "sign"):
        raise FoveateError(f"a gripper step is one of range, linkage, sign; got {list(values)}")
    if kind == "range":
        return Range(tuple(fields["source"]), tuple(fields["target"]))
    return Linkage(**fields) if kind == "linkage" else Sign(**fields)


def _write_step(step: GripperStep) -> dict[str, Any]:
    if isinstance(step, Range):
        return {"range": {"source": list(step.source), "target": list(step.target)}}
    return {"linkage" if isinstance(step, Linkage) else "sign": dataclasses.asdict(step)}


def _read_gripper(values: Mapping[str, Any] | None) -> Gripper:
    values = values or {}
    steps = {key: tuple(_read_step(step) for step in values.get(key) or ()) for key in ("state", "actions")}
    return Gripper(dims=tuple(values.get("dims") or ()), **steps)


_READERS: dict[str, Callable[[Any], Any]] = {
    "name": lambda name: of_type("name", name, str),
    "views": _read_views,
    "state": lambda parts: tuple((of_type("name", part["name"], str), part["dim"]) for part in parts),
    "optional_views": lambda names: _read_names("optional_views", names),
    "joint_signs": tuple,
    "delta_mask": _read_mask,
    "gripper": _read_gripper,
    "asset_ids": lambda names: _read_names("asset_ids", names),
    "conventions": lambda values: of_type("conventions", values, dict),
    "state_in_prompt": lambda value: of_type("state_in_prompt", value, bool, type(None)),
    "default_prompt": lambda text: of_type("default_prompt", text, str, type(None)),
    "columns": lambda values: _read_views(values or {}),
    "remote": lambda values: Remote(**of_type("remote", values or {}, dict)),
}
