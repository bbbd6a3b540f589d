"""Intervals and tests for small samples: cluster bootstrap, permutation test, Holm's correction. NumPy alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def bootstrap_mean(
    values: np.ndarray, groups: Sequence[object] | None = None, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over the first axis; NaN are left out.

    Args:
        values: [N, ...].
        groups: the group of each value, e.g. its episode. Whole groups are resampled, since the frames of one episode
            are no independent samples; None: every value is a group.
    Returns:
        low and high, float64 [...]; NaN where there are fewer than two groups.
    """
    values = np.asarray(values, np.float64)
    flat = values.reshape(len(values), -1)
    names = list(range(len(flat))) if groups is None else list(groups)
    units = list(dict.fromkeys(names))
    if len(units) < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    member = np.array([[name == unit for name in names] for unit in units], np.float64)
    finite = np.isfinite(flat)
    sums, counts = member @ np.where(finite, flat, 0.0), member @ finite
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weight @ sums) / (weight @ counts)
    tail = (1 - confidence) / 2
    empty = ~finite.any(0)
    low, high = np.nanquantile(np.where(empty, 0.0, means), [tail, 1 - tail], axis=0)
    shape = values.shape[1:]
    return np.where(empty, np.nan, low).reshape(shape), np.where(empty, np.nan, high).reshape(shape)


def permutation_test(a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a difference of means when labels are exchanged.

    Every division of the pooled values is counted where there are at most `resamples` of them; else that many random
    ones, with the observed one among them (so that p is never 0; Phipson and Smyth, 2010).

    Returns:
        p in (0, 1]; NaN where a side has no value.
    """
    first, second = (np.asarray(x, np.float64)[np.isfinite(x)] for x in (a, b))
    if not len(first) or not len(second):
        return math.nan
    pooled, n = np.concatenate([first, second]), len(first)
    total, size = pooled.sum(), len(pooled)

    def distance(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums / n - (total - sums) / (size - n))

    # Rounding must not make a division that is as far apart count as nearer.
    observed = distance(first.sum()) * (1 - 1e-9) - 1e-15
    if math.comb(size, n) <= resamples:
        sums = np.array([pooled[list(chosen)].sum() for chosen in itertools.combinations(range(size), n)])
        return float((distance(sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    order = rng.random((resamples, size)).argsort(1)[:, :n]
    return float((1 + (distance(pooled[order].sum(1)) >= observed).sum()) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (S. Holm, 1979) of one family of tests; NaN stays NaN and counts for nothing."""
    real = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(real):
        largest = max(largest, min(1.0, p * (len(real) - rank)))
        corrected[i] = largest
    return corrected
