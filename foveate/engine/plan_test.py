"""The choice of buckets against all choices there are, and the files it is kept in."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from foveate.engine.plan import plan, pruning_of, read_plans, write_plan
from foveate.errors import FoveateError
from foveate.util.shipped import find_policy


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
    assert read_plans(tmp_path) == {}
    write_plan(tmp_path, "random_0.25", (10, 20))
    write_plan(tmp_path, "lightvla", (30,))
    write_plan(tmp_path, "random_0.25", (15, 20))
    assert read_plans(tmp_path) == {"lightvla": (30,), "random_0.25": (15, 20)}
    (tmp_path / "engine.json").write_text('{"buckets": [10, 20]}')
    assert read_plans(tmp_path) == {"any": (10, 20)}
    for content, told in (
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"buckets": 3}', "expected an object"),
        ('{"buckets": {"lightvla": 3}}', "expected a list"),
        (json.dumps({"buckets": [20, 10]}), "must ascend"),
        (json.dumps({"buckets": []}), "empty"),
    ):
        (tmp_path / "engine.json").write_text(content)
        with pytest.raises(FoveateError, match=told):
            read_plans(tmp_path)


def test_a_run_tells_how_it_pruned(tmp_path: Path) -> None:
    shipped = find_policy("metaworld_tiny_lightvla")
    for said, expected in (
        ("null", "lightvla"),
        ("{name: lightvla, keep_tokens: 8}", "lightvla_8"),
        ("{name: random, keep_ratio: 0.25, seed: 0}", "random_0.25"),
        ("{name: none}", "none"),
    ):
        (tmp_path / "config.yaml").write_text(f"pruner: {said}\n")
        assert pruning_of(tmp_path, shipped) == expected
    assert pruning_of(tmp_path, find_policy("metaworld_tiny")) == "none"
    (tmp_path / "config.yaml").write_text("policy: there\n")
    with pytest.raises(FoveateError, match="does not tell how it pruned"):
        pruning_of(tmp_path, shipped)
