"""The camera at the hand always, the others less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.errors import FoveateError, unknown
from foveate.types import VisionLevel
from foveate.vision_value.looking.base import Memory, Now, Rule, rest_of

WORDS = ("wrist", "gripper", "hand")
"""In the name of a view that is at the hand."""


@dataclass(frozen=True, kw_only=True)
class Wrist(Rule):
    """Look at the camera at the hand at full resolution, always."""

    views: tuple[str, ...] = ()
    """Views that are always looked at; left out: those with wrist, gripper or hand in their names."""
    rest: Literal["NO", "COARSE"] = "COARSE"
    """What is done with the others; at NO they are looked at once, at the episode's beginning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rest_of("wrist", self.rest)

    @property
    def has_history(self) -> bool:
        return self.rest == "NO" and self.no == "reuse"

    @property
    def label(self) -> str:
        return super().label + ("_no" if self.rest == "NO" else "")

    def check(self, views: tuple[str, ...]) -> None:
        for view in self.views:
            if view not in views:
                raise unknown("view in looking.views", view, views)
        if not any(map(self._always, views)):
            raise FoveateError(
                f"looking wrist: none of the views {', '.join(views)} has {', '.join(WORDS[:-1])} or {WORDS[-1]} in "
                "its name; say which are at the hand with looking.views"
            )

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        return {view: "FULL" if self._always(view) else self.rest for view in now.pictures}, {}

    def _always(self, view: str) -> bool:
        return view in self.views if self.views else any(word in view.lower() for word in WORDS)
