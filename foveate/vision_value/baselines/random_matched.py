"""Random actions in given shares: what a rule of these costs gets for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foveate.vision_value.baselines.base import EVERY_ANSWER, EVERY_PASS
from foveate.vision_value.baselines.uncertainty_threshold import between
from foveate.vision_value.config import Ratios
from foveate.vision_value.outcomes import Decisions, Outcomes


@dataclass(frozen=True)
class RandomMatched:
    """Shares over the whole set, or one triple per entropy bucket (low to high).

    Shares are hit exactly, to one question: each bucket's actions are counted out and shuffled, not drawn one by one.
    """

    ratios: Ratios | None = None
    bucket_ratios: tuple[Ratios, ...] | None = None
    bucket_thresholds: tuple[float, ...] | None = None
    """Entropies between the buckets, in nats; None: equal shares of the set."""
    seed: int = 42
    lambda_cost: float | None = None
    """Of the learned row whose shares these are; None: they were given."""
    checkpoint: str | None = None
    """Of that row."""
    draws: int = 1
    """How many draws its row is the mean of; `decide` is the first of them."""
    name: str = "random_policy_matched"

    @property
    def needs(self) -> frozenset[str]:
        return EVERY_ANSWER if self.bucket_ratios is None else EVERY_PASS

    def every_draw(self) -> list[RandomMatched]:
        """One rule per draw."""
        return [replace(self, seed=self.seed + k, draws=1) for k in range(self.draws)]

    def facts(self) -> dict[str, Any]:
        matched = "global" if self.bucket_ratios is None else "entropy_buckets"
        return {"matched": matched, "lambda_cost": self.lambda_cost, "checkpoint": self.checkpoint}

    def decide(self, outcomes: Outcomes) -> Decisions:
        rng = np.random.default_rng(self.seed)
        action = np.zeros(len(outcomes), dtype=np.int64)
        if self.bucket_ratios is None:
            groups, ratios = np.zeros(len(outcomes), dtype=np.int64), [self.ratios or (0.0, 0.0, 1.0)]
        else:
            thresholds = self.bucket_thresholds or quantile_thresholds(outcomes.entropy, len(self.bucket_ratios))
            groups, ratios = bucket_of(outcomes.entropy, thresholds), list(self.bucket_ratios)
        for group, shares in enumerate(ratios):
            members = np.flatnonzero(groups == group)
            action[rng.permutation(members)] = np.repeat(np.arange(3), apportion(len(members), shares))
        return Decisions.of(action)


def apportion(total: int, shares: Sequence[float]) -> np.ndarray:
    """int64: whole numbers that sum to `total`, each within 1 of its share (largest remainders)."""
    exact = np.asarray(shares, dtype=np.float64) / np.sum(shares) * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def quantile_thresholds(entropy: np.ndarray, buckets: int = 3) -> tuple[float, ...]:
    """Entropies that cut a set into buckets of equal size."""
    return tuple(between(entropy, (np.arange(1, buckets) / buckets).tolist())) or (0.0,) * (buckets - 1)


def bucket_of(entropy: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """int64 [n]: how many thresholds each entropy exceeds."""
    return (entropy[:, None] > np.asarray(thresholds)).sum(-1)


def bucket_ratios(entropy: np.ndarray, action: np.ndarray, thresholds: Sequence[float]) -> list[list[float]]:
    """Shares of NO, COARSE and FULL per bucket of a run; an empty bucket gets those of the whole run."""
    groups, whole = bucket_of(entropy, thresholds), np.bincount(action, minlength=3) / max(len(action), 1)
    members = [action[groups == group] for group in range(len(thresholds) + 1)]
    return [(np.bincount(m, minlength=3) / len(m) if len(m) else whole).tolist() for m in members]
