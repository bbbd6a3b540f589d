"""Look where a picture has changed since it was last looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.types import VisionLevel
from foveate.util.checks import number
from foveate.vision_value.looking.base import Memory, Now, Rule, rest_of


@dataclass(frozen=True, kw_only=True)
class Motion(Rule):
    """Look at the views whose picture has changed.

    What is compared is the picture of the last look, not the last picture: small changes add up and are noticed.
    """

    threshold: float = 0.035
    """Mean absolute difference of a picture to that of the view's last look, of 1, from which on it is looked at."""
    rest: Literal["NO", "COARSE"] = "NO"
    """What is done with the views that have changed less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("looking.threshold", self.threshold, 0)
        rest_of("motion", self.rest)

    @property
    def label(self) -> str:
        return f"{super().label}_{self.threshold:g}" + ("_coarse" if self.rest == "COARSE" else "")

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        change = {view: memory.change(view, picture) for view, picture in now.pictures.items()}
        return {view: "FULL" if moved >= self.threshold else self.rest for view, moved in change.items()}, change
