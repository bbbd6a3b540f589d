"""One view per control step, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.types import VisionLevel
from foveate.vision_value.looking.base import Memory, Now, Rule, rest_of


@dataclass(frozen=True, kw_only=True)
class Alternate(Rule):
    """Look at one view at full resolution, each in turn."""

    rest: Literal["NO", "COARSE"] = "NO"
    """What is done with the views whose turn it is not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rest_of("alternate", self.rest)

    @property
    def label(self) -> str:
        return super().label + ("_coarse" if self.rest == "COARSE" else "")

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        turn = memory.query % max(len(now.pictures), 1)
        return {view: "FULL" if i == turn else self.rest for i, view in enumerate(now.pictures)}, {}
