"""Several recordings' sources as one, one after another: the folders of single tasks become one data set."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from foveate.data.conversion.base import Recording, Source
from foveate.data.lerobot.info import Feature
from foveate.errors import FoveateError


class JoinedSource:
    """A `Source` of the episodes of all parts, in their order."""

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        """
        Raises:
            FoveateError: two parts differ in rate or features.
        """
        first = parts[0]
        for part in parts[1:]:
            for what in ("fps", "features"):
                expected, found = getattr(first, what), getattr(part, what)
                if found != expected:
                    raise FoveateError(
                        f"{name}: its parts differ in {what} and cannot be one data set, convert them one by one: "
                        f"{first.name} has {_told(expected)}, {part.name} {_told(found)}"
                    )
        self.name, self.fps, self.robot_type = name, first.fps, first.robot_type
        self.features: Mapping[str, Feature] = first.features
        self._parts, self._ends = parts, list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, number: int) -> Recording:
        part = bisect_right(self._ends, number)
        return self._parts[part].read(number - (self._ends[part - 1] if part else 0))


def _told(value: float | Mapping[str, Feature]) -> str:
    if not isinstance(value, Mapping):
        return f"{value:g}"
    return ", ".join(f"{feature.name} {tuple(feature.shape)}" for feature in value.values())
