"""The same action for every question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.types import LEVELS
from foveate.vision_value.config import Action
from foveate.vision_value.outcomes import Decisions, Outcomes

NAMES: dict[Action, str] = {"NO": "no_vision", "COARSE": "always_coarse", "FULL": "always_full"}


@dataclass(frozen=True)
class Always:
    """`no_vision`, `always_coarse` and `always_full`."""

    level: Action

    @property
    def name(self) -> str:
        return NAMES[self.level]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.level})

    def facts(self) -> dict[str, Any]:
        return {}

    def decide(self, outcomes: Outcomes) -> Decisions:
        return Decisions.of(np.full(len(outcomes), LEVELS.index(self.level)))
