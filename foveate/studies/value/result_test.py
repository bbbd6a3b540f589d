"""Which rows of a long table are shown."""

from __future__ import annotations

from typing import Any

from foveate.studies.value.result import main_rows


def row(name: str, cost: float, **more: Any) -> dict[str, Any]:
    return {"dataset": "set", "baseline_name": name, "avg_cost": cost, **more}


def test_about_ten_rows_stand_for_a_matrix() -> None:
    rows = [row("always_full", 1.0), row("always_coarse", 0.2), row("no_vision", 0.0)]
    rows += [row("", cost / 10) for cost in range(9, 0, -1)]
    rows.append(row("", 0.48, chosen="on validation"))
    for name in ("random_policy_matched", "string_lookup", "uncertainty_threshold", "cascade"):
        rows += [row(name, cost / 20) for cost in range(20)]
    rows += [row("oracle", 0.2), row("vision_token_pruning_proxy", 0.55), row("vision_token_pruning_proxy", 0.3)]
    shown = main_rows(rows)
    assert [(r["baseline_name"], r["avg_cost"]) for r in shown] == [
        ("always_full", 1.0), ("always_coarse", 0.2), ("no_vision", 0.0), ("", 0.5), ("", 0.48),
        ("random_policy_matched", 0.5), ("string_lookup", 0.5), ("uncertainty_threshold", 0.5), ("cascade", 0.5),
        ("oracle", 0.2), ("vision_token_pruning_proxy", 0.55),
    ]  # fmt: skip
    assert main_rows(rows[:12]) == rows[:12], "few rows are all shown"
    assert len(main_rows([*rows, *(dict(r, dataset="other") for r in rows)])) == 2 * len(shown)


def test_a_long_sweep_of_one_rule_is_thinned_out_evenly() -> None:
    rows = [row("uncertainty_threshold", cost) for cost in range(40)] + [row("always_full", 1.0)]
    shown = [r["avg_cost"] for r in main_rows(rows)]
    assert len(shown) == 12 and (shown[0], shown[-2]) == (0, 39)
