"""NO, COARSE or FULL for each view of a robot at each control step: what a rule sees, and what a session remembers.

    decision = rule.decide(Now(pictures, state), memory)       # VisionDecision

A rule itself has no state, and serves all sessions; `sight` keeps their memories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from foveate.errors import FoveateError, unknown
from foveate.types import VisionDecision, VisionLevel
from foveate.util.choices import name_of
from foveate.util.pictures import difference

NoMeans = Literal["reuse", "leave_out"]


@dataclass(frozen=True)
class Look:
    """The last look at a view."""

    picture: np.ndarray
    """uint8 [h, w, 3]: what the camera showed then."""
    level: VisionLevel
    """COARSE or FULL."""
    query: int
    """The session's inference that looked, from 0 on."""
    tokens: Tensor
    """[P, D], before pruning."""
    mask: np.ndarray
    """bool [P]: slots that hold a token."""


@dataclass
class Memory:
    """What is remembered of one session."""

    query: int = 0
    """Inferences so far."""
    looks: dict[str, Look] = field(default_factory=dict)
    """View -> the last look at it."""
    state: np.ndarray | None = None
    """float32 [S]: the robot's state at the last inference."""

    def change(self, view: str, picture: np.ndarray) -> float:
        """How much a picture differs from what was seen at the last look: mean absolute difference, of 1."""
        return difference(self.looks[view].picture, picture) if view in self.looks else float("inf")


@dataclass(frozen=True)
class Now:
    """What is there to decide by, before anything is looked at closely."""

    pictures: Mapping[str, np.ndarray]
    """View -> uint8 [h, w, 3], of the cameras that are there, in the order of the views."""
    state: np.ndarray
    """float32 [S], in the robot's units."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """How a control step chooses; a config and the rule itself."""

    no: NoMeans = "reuse"
    """What NO means: `reuse` the tokens of the view's last look, or `leave_out` the view."""

    def __post_init__(self) -> None:
        if self.no not in ("reuse", "leave_out"):
            raise unknown("looking.no", str(self.no), ("reuse", "leave_out"))

    @property
    def has_history(self) -> bool:
        """Whether the rule goes by what was seen before, or has it reused."""
        return True

    @property
    def label(self) -> str:
        """Of runs and rows."""
        return name_of(type(self)) + ("_leave_out" if self.no == "leave_out" else "")

    def check(self, views: tuple[str, ...]) -> None:
        """Raises FoveateError where the rule does not fit a policy with these views."""
        return

    @abstractmethod
    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        """View -> level, and view -> the number that it was chosen by, if any."""

    def decide(self, now: Now, memory: Memory) -> VisionDecision:
        """What to do with each view; one that was never looked at cannot be reused, and is looked at."""
        levels, scores = self.levels(now, memory)
        if self.no == "reuse":
            levels = {v: "FULL" if level == "NO" and v not in memory.looks else level for v, level in levels.items()}
        return VisionDecision(levels, {view: score for view, score in scores.items() if np.isfinite(score)})


def rest_of(name: str, rest: str) -> None:
    """Raises FoveateError where what is done with the other views is neither NO nor COARSE."""
    if rest not in ("NO", "COARSE"):
        raise FoveateError(f"looking.rest of {name}: expected NO or COARSE, got {rest!r}")
