"""The cheapest action that is right: what no rule can beat. It knows the answers; for analysis alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.vision_value.baselines.base import EVERY_ANSWER
from foveate.vision_value.outcomes import Decisions, Outcomes


@dataclass(frozen=True)
class Oracle:
    """The cheapest action of the best score; where none is right, NO."""

    name: str = "oracle"
    needs: frozenset[str] = EVERY_ANSWER

    def facts(self) -> dict[str, Any]:
        return {}

    def decide(self, outcomes: Outcomes) -> Decisions:
        best = outcomes.correct.max(-1, keepdims=True)
        # Actions stand in the order of their cost: the first of the best is the cheapest.
        return Decisions.of(np.argmax(outcomes.correct >= best, axis=-1))
