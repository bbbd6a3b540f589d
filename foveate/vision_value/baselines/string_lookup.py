"""The wording alone: mean gains of the training questions that read the same.

What a learned head gains over this is what it reads beyond the question string.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveate.vision_value.baselines.base import EVERY_ANSWER
from foveate.vision_value.choose import best_action
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.outcomes import Decisions, Outcomes

ANY = ""
"""Key of the mean over all training questions: what an unknown wording gets."""


@functools.lru_cache(maxsize=1 << 16)  # a grid of lambdas asks for the same questions again
def wording(question: str) -> str:
    """Lower case, one space between words, no punctuation."""
    return " ".join(re.sub(r"[^\w\s]", " ", question.lower()).split())


def fit_lookup(train: Outcomes) -> dict[str, tuple[float, float, float]]:
    """Wording -> mean gains of NO (0), COARSE and FULL, in nats per answer token."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for question, gains in zip(train.questions, train.gains, strict=True):
        if np.isfinite(gains).all():
            found[wording(question)].append(gains)
            found[ANY].append(gains)
    return {key: tuple(np.mean(rows, axis=0).tolist()) for key, rows in found.items()}


@dataclass(frozen=True)
class StringLookup:
    """argmax(mean gain - lambda * cost)."""

    table: Mapping[str, tuple[float, float, float]]
    lambda_cost: float
    config: HeadConfig = field(default_factory=HeadConfig)
    name: str = "string_lookup"
    needs: frozenset[str] = EVERY_ANSWER

    def facts(self) -> dict[str, Any]:
        return {"lambda_cost": self.lambda_cost}

    def decide(self, outcomes: Outcomes) -> Decisions:
        unknown = self.table.get(ANY, (0.0, 0.0, 0.0))
        gains = np.array([self.table.get(wording(q), unknown) for q in outcomes.questions]).reshape(-1, 3)
        return Decisions.of(best_action(gains, outcomes.tokens, self.lambda_cost, self.config))
