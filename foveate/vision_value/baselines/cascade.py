"""Answer without looking; while the answer is unsure, look closer. Every pass on the way is paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.types import COARSE, FULL, NO
from foveate.vision_value.baselines.base import EVERY_ANSWER
from foveate.vision_value.baselines.uncertainty_threshold import unsure
from foveate.vision_value.config import Uncertainty
from foveate.vision_value.outcomes import Decisions, Outcomes


@dataclass(frozen=True)
class Cascade:
    """NO, then COARSE, then FULL, each by the uncertainty of the answer before it."""

    threshold: float
    """Of the answer without looking."""
    coarse_threshold: float | None = None
    """Of the coarse answer; None: the same."""
    uncertainty: Uncertainty = "entropy"
    name: str = "cascade"
    needs: frozenset[str] = EVERY_ANSWER

    def facts(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "coarse_threshold": self.threshold if self.coarse_threshold is None else self.coarse_threshold,
            "uncertainty": self.uncertainty,
        }

    def decide(self, outcomes: Outcomes) -> Decisions:
        second = self.threshold if self.coarse_threshold is None else self.coarse_threshold
        entropy, margin = outcomes.answer_entropy, outcomes.answer_margin
        look = unsure(entropy[:, NO], margin[:, NO], self.uncertainty, self.threshold)
        closer = look & unsure(entropy[:, COARSE], margin[:, COARSE], self.uncertainty, second)
        action = np.where(closer, FULL, np.where(look, COARSE, NO))
        paid = np.stack([np.ones_like(look), look, closer], axis=1)
        return Decisions(action, paid, np.zeros_like(look))
