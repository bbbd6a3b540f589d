"""The choice of buckets against all choices there are, and the files it is kept in."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from foveate.engine.plan import plan, read_buckets, write_buckets
from foveate.errors import FoveateError


def padding_of(lengths: list[int], buckets: tuple[int, ...]) -> float:
    return sum(min(b for b in buckets if b >= n) for n in lengths) / sum(lengths) - 1


@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_pads_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 60, 40).tolist()
    for most in (1, 2, 3):
        made = plan(lengths, most, waste=0.0)
        tops = sorted(set(lengths))
        best = min(
            padding_of(lengths, (*chosen, tops[-1]))
            for k in range(most)
            for chosen in itertools.combinations(tops[:-1], k)
        )
        assert made.padding == pytest.approx(best) == pytest.approx(padding_of(lengths, made.buckets))
        assert len(made.buckets) <= most and sum(made.queries) == 40


def test_the_fewest_that_keep_to_the_waste() -> None:
    lengths = [100] * 5 + [110] * 5 + [200] * 5
    assert plan(lengths).buckets == (110, 200)
    assert plan(lengths).padding < 0.15 and plan(lengths).queries == (10, 5)
    assert plan(lengths).bucket_padding == pytest.approx((1100 / 1050 - 1, 0.0))
    assert plan(lengths, waste=0.6).buckets == (200,)
    assert plan(lengths, align=64).buckets == (128, 256) or plan(lengths, align=64).padding > 0.15
    assert plan([7]).buckets == (7,)
    with pytest.raises(FoveateError, match="no prefix lengths"):
        plan([])


def test_a_policy_keeps_its_buckets(tmp_path: Path) -> None:
    assert read_buckets(tmp_path) is None
    write_buckets(tmp_path, (10, 20))
    assert read_buckets(tmp_path) == (10, 20)
    for content, told in (
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"buckets": 3}', "expected a list"),
        (json.dumps({"buckets": [20, 10]}), "must ascend"),
        (json.dumps({"buckets": []}), "empty"),
    ):
        (tmp_path / "engine.json").write_text(content)
        with pytest.raises(FoveateError, match=told):
            read_buckets(tmp_path)
