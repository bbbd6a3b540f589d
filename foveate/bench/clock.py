"""Times that can be trusted: warmed up, in turn, until the noise has settled.

    taken = sample({"eager": run_eager, "compiled": run_compiled}, least=10, most=100)

All variants run once a round, forwards and then backwards (A B C, C B A), so that a machine that slows down or warms up
favours none of them; and rounds go on until the median of each is known well enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Rounds:
    """When to stop."""

    least: int = 15
    """Rounds at least."""
    most: int = 150
    """Rounds at most."""
    share: float = 0.02
    """The noise has settled where the 95 % interval of each median reaches no further than this share of it."""
    warmup: int = 2
    """Rounds before, which do not count."""


def sample(
    runs: Mapping[str, Callable[[], T]],
    time_of: Callable[[T], float],
    rounds: Rounds,
    on_round: Callable[[int, float], None] = lambda done, widest: None,
) -> dict[str, list[T]]:
    """Run all variants in turn; what each returned, round by round.

    Args:
        time_of: the time in what a run returns, by which the noise is judged.
        on_round: receives the rounds done and the widest interval as a share of its median.
    """
    taken: dict[str, list[T]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(-rounds.warmup, rounds.most):
        for name in names if turn % 2 == 0 else reversed(names):
            result = runs[name]()
            if turn >= 0:
                taken[name].append(result)
        widest = max(uncertainty([time_of(r) for r in results]) for results in taken.values())
        on_round(max(0, turn + 1), widest)
        if turn + 1 >= rounds.least and widest <= rounds.share:
            break
    return taken


def uncertainty(values: Sequence[float]) -> float:
    """How far the 95 % interval of the median reaches to either side, as a share of the median.

    The interval is that of order statistics, which assumes no distribution; infinite below six values.
    """
    n = len(values)
    if n < 6:
        return math.inf
    from scipy.stats import binom

    low = int(binom.ppf(0.025, n, 0.5))
    ordered, middle = np.sort(values), float(np.median(values))
    return float(max(middle - ordered[low - 1], ordered[n - low] - middle) / middle)


def spread(values: Sequence[float]) -> dict[str, float]:
    """`p50, p95, p99, min, mean`; with fewer than a hundred values the p99 is little more than the largest one."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "min": min(values), "mean": float(np.mean(values))}


def drift(values: Sequence[float]) -> float:
    """The median of the second half over that of the first: 1 where the machine stayed as fast as it was."""
    half = len(values) // 2
    return float(np.median(values[-half:]) / np.median(values[:half])) if half else 1.0
