"""What every format is turned into on the way to another: recordings of one source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from foveate.data.lerobot.info import Feature

STATE, ACTION = "observation.state", "action"
IMAGES = "observation.images."
NEW_PICTURE = "picture_is_new"
"""Column, 1 or 0: whether a row has a picture of its own; where a format keeps pictures at every n-th step alone, the
rows between show the last one again."""


@dataclass(frozen=True)
class Recording:
    """One episode."""

    columns: Mapping[str, np.ndarray]
    """Feature -> [T, D]: `observation.state`, `action`, and what else the source has."""
    pictures: Mapping[str, Iterable[np.ndarray]]
    """Camera (`observation.images.front`) -> T pictures, uint8 [H, W, 3], RGB and upright."""
    tasks: tuple[str, ...]
    """The instruction of each row."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else is known: `env_task`, `seed`, `success_step`, `outcome`."""

    def __len__(self) -> int:
        return len(self.tasks)


class Source(Protocol):
    """Recordings of one format."""

    name: str
    """Format and place: a conversion that was interrupted goes on from the same source alone."""
    fps: float

    @property
    def robot_type(self) -> str | None: ...

    @property
    def features(self) -> Mapping[str, Feature]:
        """Of every recording; cameras have the dtype `video`."""
        ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> Recording:
        """The recording of this number, 0 to len - 1; its pictures are decoded as they are taken."""
        ...


def camera(name: str, picture: np.ndarray) -> Feature:
    """The feature of a camera that gives such pictures."""
    return Feature(f"{IMAGES}{name}", "video", tuple(picture.shape))


def vector(name: str, size: int, names: tuple[str, ...] = ()) -> Feature:
    """A float32 feature of `size` numbers."""
    return Feature(name, "float32", (size,), names)
