"""Look where the text-first pass is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.types import COARSE, FULL, NO
from foveate.vision_value.config import Look, Uncertainty
from foveate.vision_value.outcomes import Decisions, Outcomes


def unsure(entropy: np.ndarray, margin: np.ndarray, uncertainty: Uncertainty, threshold: float) -> np.ndarray:
    """bool: entropy above the threshold (nats), or margin below it."""
    return entropy > threshold if uncertainty == "entropy" else margin < threshold


def between(values: np.ndarray, shares: Sequence[float]) -> list[float]:
    """A threshold near each of these quantiles of a set's uncertainties, halfway between two values and never on one.

    On a value the answer to `above it?` hangs on the last bit; the last one is above all values.
    """
    known = np.unique(values[np.isfinite(values)])
    if not len(known):
        return []
    beyond = known[-1] + (known[-1] - known[0] or 1.0)
    halfway = (known + np.append(known[1:], beyond)) / 2
    places = np.searchsorted(known, np.quantile(values[np.isfinite(values)], shares), side="right") - 1
    return halfway[places].tolist()


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
