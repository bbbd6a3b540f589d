"""A robot's observation as a message, under the keys that openpi's clients use for it: written, and read with care.

    message = remote.write(observation, robot)                    # a client's side
    observation = remote.read(message, robot, default_prompt)     # a server's side; arrays may be `Packed`

Whatever is read is checked by its type and shape before an array is made of it. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.errors import FoveateError
from foveate.types import Observation
from foveate.util.checks import one_of, shown

if TYPE_CHECKING:
    from foveate.models.common.robots import RobotMapping

MAX_SIDE = 4096
"""Pixels of a picture's side, at most."""
MAX_PROMPT = 4096
"""Characters of a prompt, at most."""


@dataclass(frozen=True)
class Remote:
    """Which keys a robot's client uses. A key with a slash may come as maps within maps as well."""

    image: str = "observation/{view}"
    """Of a picture; `{view}` stands for any of the view's names."""
    state: str = "observation/state"
    """Of the state; with `{part}` each of its parts has a key of its own."""
    layout: Literal["HWC", "CHW"] = "HWC"
    """Axes of the pictures that are sent; either is read."""

    def __post_init__(self) -> None:
        one_of("remote: layout", self.layout, ("HWC", "CHW"))
        if not isinstance(self.image, str) or "{view}" not in self.image:
            raise FoveateError(
                f"remote: image is a key with {{view}} in it, as observation/{{view}}; got {self.image!r}"
            )
        if not isinstance(self.state, str):
            raise FoveateError(f"remote: state is a key, as observation/state; got {self.state!r}")

    def keys(self, robot: RobotMapping) -> list[str]:
        """The keys that a message has to have, the prompt's aside."""
        return [*(self.image.format(view=view) for view in robot.required_views), *self._state_keys(robot)]

    def _state_keys(self, robot: RobotMapping) -> dict[str, int]:
        """Key -> how many numbers it holds."""
        if "{part}" in self.state:
            return {self.state.format(part=name): size for name, size in robot.state}
        return {self.state: robot.state_dim}

    def write(self, observation: Observation, robot: RobotMapping) -> dict[str, Any]:
        """The message that openpi's clients send of this robot.

        Raises:
            FoveateError: a view that the policy needs is not there.
        """
        message: dict[str, Any] = {}
        for view, picture in robot.select_views(observation.images).items():
            if picture is not None:
                key = self.image.format(view=robot.views[view][0])
                _put(message, key, picture if self.layout == "HWC" else picture.transpose(2, 0, 1))
        start = 0
        for key, size in self._state_keys(robot).items():
            _put(message, key, observation.state[start : start + size])
            start += size
        return {**message, "prompt": observation.prompt}

    def read(self, message: Mapping[Any, Any], robot: RobotMapping, default_prompt: str | None = None) -> Observation:
        """What a client of this robot sent; keys that are not the robot's are passed over, as openpi does.

        Args:
            message: arrays of any kind that has `dtype`, `shape` and `array()`, NumPy's own among them.
            default_prompt: used where the message has no prompt; None: the robot's own, if it has one.
        Raises:
            FoveateError: naming the key, what was expected and what came.
        """
        found = dict(_flat(message))
        aliases = {self.image.format(view=name): name for names in robot.views.values() for name in names}
        images = {name: _picture(key, found[key]) for key, name in aliases.items() if key in found}
        missing = [
            self.image.format(view=names[0])
            for view, names in robot.views.items()
            if names and view not in robot.optional_views and images.keys().isdisjoint(names)
        ]
        missing += [key for key in self._state_keys(robot) if key not in found]
        if missing:
            raise FoveateError(
                f"the observation lacks {', '.join(map(repr, missing))}: robot {robot.name!r} sends "
                f"{', '.join(self.keys(robot))}, prompt; got {_names(found)}. Is this another robot's client?"
            )
        state = np.concatenate([_numbers(key, found[key], size) for key, size in self._state_keys(robot).items()])
        prompt = found.get("prompt", robot.default_prompt if default_prompt is None else default_prompt)
        return Observation(images, state, _prompt(prompt))


def _put(message: dict[str, Any], key: str, value: Any) -> None:
    """ALOHA's pictures lie in a map of their own; openpi's other robots have slashes in their keys."""
    first, slash, rest = key.partition("/")
    if slash and first == "images":
        message.setdefault(first, {})[rest] = value
    else:
        message[key] = value


def _flat(message: Mapping[Any, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    for name, value in message.items():
        key = f"{prefix}{name.decode(errors='replace') if isinstance(name, bytes) else name}"
        if isinstance(value, dict) and depth:
            yield from _flat(value, f"{key}/", depth - 1)
        else:
            yield key, value


def _names(found: Mapping[str, Any], most: int = 12) -> str:
    names = [name[:60] for name in list(found)[:most]]
    return ", ".join(names + (["..."] if len(found) > most else [])) or "nothing"


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _array(value: Any) -> np.ndarray:
    made: np.ndarray = value if isinstance(value, np.ndarray) else value.array()
    return made


def _picture(key: str, value: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a picture that may be uint8 or float 0..1, HWC or CHW, as openpi takes them."""
    expected = f"{key}: expected a picture, uint8 [height, width, 3]"
    if not _is_array(value):
        raise FoveateError(f"{expected}, got {shown(value)} ({type(value).__name__})")
    shape, kind = tuple(value.shape), np.dtype(value.dtype)
    chw = len(shape) == 3 and shape[2] != 3 and shape[0] == 3
    if len(shape) != 3 or (shape[2] != 3 and not chw) or 0 in shape:
        raise FoveateError(f"{expected}, got shape {list(shape)}")
    if max(shape) > MAX_SIDE:
        raise FoveateError(f"{expected} of at most {MAX_SIDE} pixels a side, got shape {list(shape)}")
    if kind != np.uint8 and kind.kind != "f":
        raise FoveateError(f"{expected} (or floats in 0..1), got {kind}")
    picture = _array(value)
    if kind != np.uint8:
        # `not`: NaN is within no bounds.
        if not (picture.min() >= 0 and picture.max() <= 1):
            raise FoveateError(f"{key}: a picture of floats has to lie in 0..1; send uint8, or divide by 255")
        picture = (255 * picture).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0)) if chw else picture


def _numbers(key: str, value: Any, size: int) -> np.ndarray:
    """float32 [size] of an array, a list, or, where one number is expected, of that."""
    expected = f"{key}: expected {size} finite number{'s'[: size != 1]}"
    if _is_array(value):
        shape, kind = tuple(value.shape), np.dtype(value.dtype)
        if kind.kind not in "biuf":
            raise FoveateError(f"{expected}, got an array of {kind}")
        if shape != (size,) and not (size == 1 and shape == ()):
            raise FoveateError(f"{expected}, got shape {list(shape)}")
        numbers = _array(value).reshape(size).astype(np.float64)
    else:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, bool | int | float) for v in values):
            raise FoveateError(f"{expected}, got {shown(value)}")
        if len(values) != size:
            raise FoveateError(f"{expected}, got {len(values)}")
        numbers = np.array([float(v) if abs(v) < 1e300 else np.inf for v in values])
    if not (np.abs(numbers) < np.finfo(np.float32).max).all():
        raise FoveateError(f"{expected}, got {shown(numbers.tolist())}")
    return numbers.astype(np.float32)


def _prompt(value: Any) -> str:
    if isinstance(value, bytes) or (_is_array(value) and np.dtype(value.dtype).kind in "SU" and value.shape == ()):
        value = value.decode(errors="replace") if isinstance(value, bytes) else str(_array(value))
    if value is None:
        raise FoveateError("prompt: expected an instruction, got none; send one, or serve with --default_prompt")
    if not isinstance(value, str):
        raise FoveateError(f"prompt: expected text, got {shown(value)} ({type(value).__name__})")
    if len(value) > MAX_PROMPT:
        raise FoveateError(f"prompt: expected at most {MAX_PROMPT:,} characters, got {len(value):,}")
    return value
