"""Every view at one level, always: the ends that a rule has to lie between."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.types import VisionLevel
from foveate.vision_value.looking.base import Memory, Now, Rule


@dataclass(frozen=True, kw_only=True)
class Full(Rule):
    """Look at every view at full resolution."""

    @property
    def has_history(self) -> bool:
        return False

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        return dict.fromkeys(now.pictures, "FULL"), {}


@dataclass(frozen=True, kw_only=True)
class Coarse(Rule):
    """Look at every view at half the resolution: a quarter of its tokens and of the tower's cost."""

    @property
    def has_history(self) -> bool:
        return False

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        return dict.fromkeys(now.pictures, "COARSE"), {}
