import itertools
import math

import pytest

from foveate.bench.clock import Rounds, drift, sample, spread, uncertainty


def test_variants_run_in_turn_forwards_and_backwards():
    order = []
    runs = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    taken = sample(runs, lambda x: x, Rounds(least=6, most=20, warmup=2))
    assert "".join(order) == "abccba" + "abccba" * 3  # two rounds of warm-up, then six: no noise at all
    assert {name: len(values) for name, values in taken.items()} == {"a": 6, "b": 6, "c": 6}


def test_noise_that_settles_ends_the_run_and_noise_that_does_not_goes_to_the_end():
    quiet = itertools.cycle([1.0, 1.01])
    loud = itertools.cycle(range(1, 20))
    assert len(sample({"a": lambda: next(quiet)}, float, Rounds(6, 50))["a"]) == 6
    assert len(sample({"a": lambda: 1.0, "b": lambda: next(loud)}, float, Rounds(6, 50))["a"]) == 50


def test_the_interval_of_a_median_by_hand():
    """Ten values: with ranks 2 and 9 the interval holds the median in 97.9 % of cases, with 3 and 8 in 89 %."""
    assert uncertainty(list(range(11, 21))) == pytest.approx((15.5 - 12) / 15.5)
    assert uncertainty([1.0] * 5) == math.inf and uncertainty([2.0] * 6) == 0
    assert uncertainty([1, 1, 1, 1, 1, 4]) == 3.0  # of six the whole range


def test_percentiles_and_drift():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == pytest.approx(
        {"p50": 3.0, "p95": 4.8, "p99": 4.96, "min": 1.0, "mean": 3.0}
    )
    assert drift([1.0, 1.0, 9.0, 2.0, 2.0]) == 2.0 and drift([3.0]) == 1.0
