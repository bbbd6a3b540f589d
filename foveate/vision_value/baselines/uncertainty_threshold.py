"""Look where the text-first pass is unsure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.vision_value.config import Look, Uncertainty
from foveate.vision_value.outcomes import COARSE, FULL, NO, Decisions, Outcomes


def unsure(entropy: np.ndarray, margin: np.ndarray, uncertainty: Uncertainty, threshold: float) -> np.ndarray:
    """bool: entropy above the threshold (nats), or margin below it."""
    return entropy > threshold if uncertainty == "entropy" else margin < threshold


@dataclass(frozen=True)
class UncertaintyThreshold:
    """Entropy or margin of the next token after the text-first pass."""

    threshold: float
    uncertainty: Uncertainty = "entropy"
    vision: Look = "full"
    name: str = "uncertainty_threshold"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "NO", self.vision.upper()})

    def facts(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "uncertainty": self.uncertainty, "vision": self.vision}

    def decide(self, outcomes: Outcomes) -> Decisions:
        look = unsure(outcomes.entropy, outcomes.margin, self.uncertainty, self.threshold)
        return Decisions.of(np.where(look, FULL if self.vision == "full" else COARSE, NO))
