import itertools
import math

import numpy as np
import pytest
from scipy import stats

from foveate.util.stats import (
    bootstrap_mean,
    holm,
    paired_difference,
    permutation_test,
    sign_test,
    signed_rank,
    spearman,
    wilson,
)


def test_permutation_test_counts_all_divisions():
    # Of the 20 ways to choose 3 of {1, 2, 3, 11, 12, 13} only the observed one and its mirror are as far apart.
    assert permutation_test([1, 2, 3], [11, 12, 13]) == pytest.approx(2 / 20)
    assert permutation_test([1, 4], [2, 3]) == 1.0  # equal means
    assert permutation_test([1, math.nan, 2, 3], [11, 12, 13]) == pytest.approx(2 / 20)
    assert math.isnan(permutation_test([], [1.0]))
    # One value on a side: of {1, 2, 3, 9} alone, 9 is farthest from the mean of the others, 3 nearest.
    assert permutation_test([9], [1, 2, 3]) == permutation_test([1, 2, 3], [9]) == 1 / 4
    assert permutation_test([3], [1, 2, 9]) == 1.0 and permutation_test([1], [2]) == 1.0


def test_random_permutations_agree_with_all_of_them():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.9, 1, 7), rng.normal(0, 1, 6)
    exact = permutation_test(a, b, resamples=2000)  # 1716 divisions
    pooled, observed = np.concatenate([a, b]), abs(a.mean() - b.mean())
    by_hand = [
        abs(pooled[list(c)].mean() - np.delete(pooled, list(c)).mean()) >= observed - 1e-12
        for c in itertools.combinations(range(13), 7)
    ]
    assert exact == pytest.approx(np.mean(by_hand))
    assert permutation_test(a, b, resamples=1000) == pytest.approx(exact, abs=0.04)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, times 3, 2, 1, made monotone: 0.03, 0.04, 0.04.
    assert holm([0.02, math.nan, 0.01, 0.03])[0] == pytest.approx(0.04)
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_bootstrap_resamples_groups():
    values = np.random.default_rng(0).normal(5, 1, 400)
    low, high = bootstrap_mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    # Every value four times is no more knowledge, when the copies belong together.
    copies, groups = np.repeat(values, 4), np.repeat(np.arange(400), 4)
    np.testing.assert_allclose(bootstrap_mean(copies, groups.tolist()), (low, high), rtol=0.01)
    assert np.isnan(bootstrap_mean(values[:3], ["a", "a", "a"])).all()


def test_bootstrap_of_columns_leaves_nan_out():
    low, high = bootstrap_mean(np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]]))
    assert (low[0], high[0]) == (1.0, 3.0)
    assert low[1] == high[1] == 2.0
    assert np.isnan(low[2]) and np.isnan(high[2])


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 50), (1, 3), (43, 50), (50, 50), (100, 100), (7, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(successes, trials, confidence):
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(successes, trials, confidence), expected, atol=1e-12)


def test_wilson_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match="11 of 10"):
        wilson(11, 10)


def test_bootstrap_agrees_with_the_normal_interval():
    data = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_mean(data)
    half = 1.96 * data.std(ddof=1) / np.sqrt(400)
    assert low == pytest.approx(data.mean() - half, abs=0.03) and high == pytest.approx(data.mean() + half, abs=0.03)
    assert bootstrap_mean(data) == (low, high)
    assert bootstrap_mean([3.0] * 5) == (3.0, 3.0)
    assert all(np.isnan(bootstrap_mean([])))


def test_bootstrap_columns_cover_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, (400, 1))
    low, high = bootstrap_mean(values, resamples=2000)
    half = 1.96 * values.std() / 20
    assert low[0] == pytest.approx(values.mean() - half, abs=0.04)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.04)


def test_paired_difference_is_newcombes():
    # Table of R. G. Newcombe, Statistics in Medicine 17 (1998), method 10: 36 both, 12 and 2 one alone, of 50.
    a, b = [1] * 48 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2
    low, high = paired_difference(a, b)
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)
    other = paired_difference(b, a)
    assert (round(-other[1], 4), round(-other[0], 4)) == (0.0569, 0.3404)
    low, high = paired_difference([1, 1, 1], [0, 0, 0])
    assert 0 < low < high == 1.0
    assert paired_difference([], []) == (-1.0, 1.0)


def test_sign_test_counts_the_trials_that_differ():
    rng = np.random.default_rng(0)
    for n in (0, 1, 5, 40):
        a, b = rng.random(n) < 0.7, rng.random(n) < 0.4
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert sign_test(a.tolist(), b.tolist()) == pytest.approx(expected)
    assert sign_test([True] * 6, [False] * 6) == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match="expected pairs"):
        sign_test([True], [])


def test_spearman_is_scipys_and_resamples_groups():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
    x[:10] += y[:10] * 3
    rho, low, high = spearman(x, y)
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic) and low < rho < high
    _, grouped_low, grouped_high = spearman(x, y, np.repeat(np.arange(3), 10))
    assert (grouped_low, grouped_high) != (low, high), "whole groups are drawn"
    y[0] = np.nan
    assert spearman(x, y)[0] == pytest.approx(stats.spearmanr(x[1:], y[1:]).statistic)
    assert spearman([1, 2, 3], [3, 2, 1])[0] == pytest.approx(-1)
    assert np.isnan(spearman([1, 1, 1, 1], [1, 2, 3, 4])).all() and np.isnan(spearman([1, 2], [1, 2])).all()


def test_signed_rank_by_hand():
    assert signed_rank([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    # Ranks 1 + 3 + 5 against 2 + 4: of 32 signs, 13 give a smaller sum of at most 6 on one of the sides.
    assert signed_rank([1, -2, 3, -4, 5]) == pytest.approx(2 * 13 / 32)
    assert signed_rank([0, 0]) == 1 and np.isnan(signed_rank([])) and np.isnan(signed_rank([np.nan]))
