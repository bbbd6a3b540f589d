"""Rows of several seeds, matched by what they are and averaged; the numbers are worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from foveate.studies.value.seeds import average


def row(name: str, accuracy: float, cost: float, **more: Any) -> dict[str, Any]:
    rates = {f"action_rate_{level}": share for level, share in (("no", 0.5), ("coarse", 0.25), ("full", 0.25))}
    bounds = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.03, "cost_low": cost, "cost_high": cost}
    own = {"dataset": "set", "baseline_name": name, "row": name, "accuracy": accuracy, "avg_cost": cost}
    return own | rates | bounds | more


def test_rows_are_matched_by_what_they_are_and_not_by_their_place() -> None:
    """At each lambda all seeds agree; one of them has a further row in between, which once moved all that follow."""
    curve = {0.05: 0.55, 0.1: 0.48, 0.5: 0.33}
    runs = [[row("", 0.9, cost, lambda_cost=lam) for lam, cost in curve.items()] for _ in range(3)]
    runs[1].insert(1, row("", 0.9, 0.51, lambda_cost=0.07))
    found, warnings = average(runs, (0, 1, 2))
    assert {r["lambda_cost"]: (r["avg_cost"], r["avg_cost_std"]) for r in found} == {
        lam: pytest.approx((cost, 0.0), abs=1e-12) for lam, cost in curve.items()
    }
    assert len(warnings) == 1 and "not every seed has" in warnings[0]


def test_a_chosen_lambda_that_differs_is_labelled_and_stays_apart() -> None:
    runs = []
    for chosen, cost in ((0.1, 0.50), (0.1, 0.48), (0.2, 0.40)):
        rows = [row("", 0.92, 0.60, lambda_cost=0.05)]
        rows.append(row("", 0.90, cost, lambda_cost=chosen, chosen="on validation"))
        for lam, price in ((0.05, 0.60), (chosen, cost)):
            rows.append(row("random_policy_matched", 0.8, price, lambda_cost=lam, matched="global"))
        runs.append(rows)
    found, warnings = average(runs, (0, 1, 2))
    asked, chosen_row, twin, chosen_twin = found
    assert warnings == [] and asked["lambda_cost"] == 0.05 and asked["avg_cost"] == pytest.approx(0.60)
    assert chosen_row["lambda_cost"] is None and chosen_row["chosen"] == "on validation: 0.1 0.1 0.2"
    assert chosen_row["row"] == "learned (chosen) λ=0.1/0.1/0.2" == chosen_row["row"]
    assert chosen_row["avg_cost"] == pytest.approx(0.46) == chosen_twin["avg_cost"]
    assert twin["avg_cost"] == pytest.approx(0.60) and chosen_twin["row"] == "random matched λ=0.1/0.1/0.2"
    same = [[dict(r, lambda_cost=0.1) for r in rows[1:2]] for rows in runs]
    assert average(same, (0, 1, 2))[0][0]["lambda_cost"] == 0.1, "one lambda is a number like any other"


def test_deviation_and_interval_are_two_things() -> None:
    fixed = [[row("always_full", 0.94, 1.0)] for _ in range(3)]
    ((full,), _) = average(fixed, (0, 1, 2))
    assert full["accuracy_std"] == 0, "no seed changes it"
    assert (full["accuracy_low"], full["accuracy_high"]) == pytest.approx((0.92, 0.97)), "and the questions still do"
    learned = [[row("", accuracy, 0.5, lambda_cost=0.1)] for accuracy in (0.90, 0.92, 0.94)]
    ((mean,), _) = average(learned, (0, 1, 2))
    assert mean["accuracy"] == pytest.approx(0.92) and mean["accuracy_std"] == pytest.approx(0.02)
    seeds = 4.302653 * 0.02 / math.sqrt(3)  # Student's t at two degrees of freedom
    assert mean["accuracy_low"] == pytest.approx(0.92 - math.hypot(0.02, seeds), abs=1e-6)
    assert mean["accuracy_high"] == pytest.approx(0.92 + math.hypot(0.03, seeds), abs=1e-6)
