"""For small samples: Wilson's interval, bootstrap over groups, permutation and rank tests, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (E. B. Wilson, JASA 22, 1927); (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    # At 0 and at `trials` successes the bound is exactly 0 or 1; rounding must not say otherwise.
    return 0.0 if successes == 0 else float(interval.low), 1.0 if successes == trials else float(interval.high)


def paired_difference(a: Sequence[bool], b: Sequence[bool], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two success rates over the same trials: rate of `a` less rate of `b`.

    R. G. Newcombe's method 10 (Statistics in Medicine 17, 1998): Wilson's intervals of both, joined with their
    correlation. Unlike a bootstrap it has a width where all pairs agree; (-1, 1) without trials.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected pairs, got {first.shape} and {second.shape}")
    n = len(first)
    if n == 0:
        return -1.0, 1.0
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    ones, twos = int(first.sum()), int(second.sum())
    spread = ones * (n - ones) * twos * (n - twos)
    # Newcombe's continuity correction applies to positive correlations alone.
    excess = both * neither - (ones - both) * (twos - both)
    phi = (max(excess - n / 2, 0.0) if excess > 0 else excess) / math.sqrt(spread) if spread else 0.0
    (p, p_low, p_high), (q, q_low, q_high) = ((k / n, *wilson(k, n, confidence)) for k in (ones, twos))

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    return max(-1.0, p - q - reach(p - p_low, q_high - q)), min(1.0, p - q + reach(p_high - p, q - q_low))


def bootstrap_mean(
    values: np.ndarray | Sequence[float],
    groups: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over the first axis; NaN are left out.

    The same resamples serve every column, so that intervals of differences are those of paired samples.

    Args:
        values: [N, ...].
        groups: the group of each value, e.g. its episode. Whole groups are resampled, since the frames of one episode
            are no independent samples; None: every value is a group.
    Returns:
        low and high, float64 [...]; NaN where there are fewer than two groups.
    """
    values = np.asarray(values, np.float64)
    shape = values.shape[1:]
    flat = values.reshape(len(values), math.prod(shape))
    finite = np.isfinite(flat)
    sums, counts = np.where(finite, flat, 0.0), finite.astype(np.float64)
    if groups is not None:
        place = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        member = np.array([place[group] for group in groups], np.int64)
        sums, counts = (_summed(each, member, len(place)) for each in (sums, counts))
    if len(sums) < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [(drawn @ sums) / (drawn @ counts) for drawn in resample_counts(len(sums), resamples, seed)]
    empty = ~finite.any(0)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.where(empty, 0.0, np.concatenate(means)), [tail, 1 - tail], axis=0)
    return np.where(empty, np.nan, low).reshape(shape), np.where(empty, np.nan, high).reshape(shape)


def resample_counts(n: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of n is drawn in each resample: int64 [part of the resamples, n], in parts that memory holds."""
    rng = np.random.default_rng(seed)
    for part in np.array_split(np.arange(resamples), max(1, resamples * n // 4_000_000)):
        yield rng.multinomial(n, np.full(n, 1 / n), size=len(part))


def permutation_test(a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a difference of means when labels are exchanged.

    Every division of the pooled values is counted where there are at most `resamples` of them; else that many random
    ones, with the observed one among them (so that p is never 0; Phipson and Smyth, 2010).

    Returns:
        p in (0, 1]; NaN where a side has no value.
    """
    sides = [np.asarray(x, np.float64)[np.isfinite(x)] for x in (a, b)]
    if not all(len(side) for side in sides):
        return math.nan
    if min(len(side) for side in sides) == 1:  # scipy wants two values on each side
        pooled = np.concatenate(sides)
        apart = np.abs(pooled - (pooled.sum() - pooled) / (len(pooled) - 1))
        observed = apart[0] if len(sides[0]) == 1 else apart[-1]
        return float((apart >= observed * (1 - 1e-9)).mean())
    from scipy import stats

    found = stats.permutation_test(
        sides,
        lambda x, y, axis: np.abs(x.mean(axis) - y.mean(axis)),
        n_resamples=resamples,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def sign_test(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value that two success rates over the same trials are equal (McNemar 1947, binomial form): only
    the trials in which the two differ count. 1 where none does.
    """
    if len(a) != len(b):
        raise ValueError(f"expected pairs, got {len(a)} and {len(b)}")
    first = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    second = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    tail = sum(math.comb(first + second, k) for k in range(min(first, second) + 1))
    return float(min(1.0, 2 * tail / 2 ** (first + second)))


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value that paired differences lie around 0 (F. Wilcoxon, 1945); exact for small samples without ties.

    Returns:
        p in (0, 1]; 1 where all are 0, NaN where there is none.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan
    if not values.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(values).pvalue)


def spearman(
    x: Sequence[float],
    y: Sequence[float],
    groups: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Rank correlation (C. Spearman, 1904; ties share their mean rank) and its percentile bootstrap interval.

    Args:
        groups: the group of each pair; whole groups are resampled. None: every pair is one.
    Returns:
        rho, low, high; NaN where fewer than three pairs are finite or a side is constant.
    """
    pairs = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    finite = np.asarray(np.isfinite(pairs).all(axis=0))
    names = np.arange(finite.size) if groups is None else np.unique(list(map(str, groups)), return_inverse=True)[1]
    pairs, names = pairs[:, finite], np.unique(names[finite], return_inverse=True)[1]
    if pairs.shape[1] < 3:
        return math.nan, math.nan, math.nan
    rho = float(_rank_correlation(pairs, np.ones((1, pairs.shape[1])))[0])
    drawn = [_rank_correlation(pairs, counts[:, names]) for counts in resample_counts(names.max() + 1, resamples, seed)]
    rhos = np.concatenate(drawn)
    known: np.ndarray = rhos[np.isfinite(rhos)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if known.size and names.any() else (math.nan, math.nan)
    return rho, float(low), float(high)


def _rank_correlation(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho of pairs [2, n] that occur so often: counts [R, n] -> [R]; NaN where a side is constant."""
    centred = []
    for values in pairs:
        _, place = np.unique(values, return_inverse=True)
        ties = np.zeros((len(counts), place.max() + 1))
        np.add.at(ties.T, place, counts.T)
        ranks = (ties.cumsum(1) - ties + (ties + 1) / 2)[:, place]  # those that tie share their mean rank
        centred.append(ranks - (counts * ranks).sum(1, keepdims=True) / counts.sum(1, keepdims=True))
    a, b = centred
    scale = np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-9, (counts * a * b).sum(1) / scale, np.nan)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (S. Holm, 1979) of one family of tests; NaN stays NaN and counts for nothing."""
    real = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(real):
        largest = max(largest, min(1.0, p * (len(real) - rank)))
        corrected[i] = largest
    return corrected


def _summed(values: np.ndarray, member: np.ndarray, groups: int) -> np.ndarray:
    """[N, K] -> [groups, K]."""
    total = np.zeros((groups, values.shape[1]))
    np.add.at(total, member, values)
    return total
