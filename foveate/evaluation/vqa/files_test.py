"""Error slices and categories of passes that were not made, by hand; what a later run removes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from foveate.evaluation.vqa.files import PLOTS, RUN_FILES, SCHEMA_VERSION, by_category, error_slices, remove_earlier
from foveate.evaluation.vqa.oracle import analyse
from foveate.evaluation.vqa.rows import rule_results
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.types import LEVELS, VQASample
from foveate.vision_value.baselines import Always
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.outcomes import Outcomes

RIGHT = [[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]]
"""Question x NO, COARSE, FULL."""
CATEGORIES = ("easy", "look", "hard", "blind")


def scored(*made: str, categories: tuple[str, ...] = CATEGORIES) -> ScoredPasses:
    """Four questions of which these passes are known."""
    lacking = [level not in made for level in LEVELS]
    right = np.where(lacking, np.nan, np.array(RIGHT, dtype=float))
    known = np.zeros((4, 3))
    outcomes = Outcomes(
        tuple("abcd"),
        right,
        known,
        known + np.array([0, 4, 16]),
        known,
        known,
        known[:, 0],
        known[:, 0],
        np.zeros((4, 0)),
    )
    samples = tuple(VQASample(str(i), "set", "?", ("yes",), None, category=c) for i, c in enumerate(categories))
    return ScoredPasses("set", samples, outcomes, known == 0, {level: ({"text": "so"},) * 4 for level in made})


def slices_of(level: Any, *made: str) -> dict[str, tuple[int | None, ...]]:
    """Category -> wrong, looked too little, at every action; right but looked too much."""
    found = scored(*made)
    (item,) = rule_results(found, [Always(level)], HeadConfig(), resamples=10)
    keys = ("wrong", "wrong_looked_too_little", "wrong_at_every_action", "right_but_looked_too_much")
    rows, examples = error_slices(found, item)
    assert all(e["unknown_at"] == [name for name in LEVELS if name not in made] for e in examples)
    return {r["category"]: tuple(r[k] for k in keys) for r in rows if r["action"] == "all"}


@pytest.mark.parametrize(
    ("level", "made", "expected"),
    [
        ("NO", LEVELS, (2, 1, 1, 0)),
        ("NO", ("NO",), (2, None, None, 0)),
        ("FULL", LEVELS, (2, 0, 1, 2)),
        ("FULL", ("FULL",), (2, 0, None, None)),
        ("FULL", ("NO", "FULL"), (2, 0, None, None)),
        ("COARSE", ("COARSE", "FULL"), (2, 0, None, None)),
    ],
)
def test_counts_that_hang_on_a_pass_that_was_not_made_are_empty(level, made, expected):
    assert slices_of(level, *made)["all"] == expected


def test_what_a_made_pass_settles_is_counted():
    found = slices_of("FULL", "NO", "FULL")
    assert found["easy"] == (0, 0, 0, 1), "right without looking: COARSE does not matter"
    assert found["blind"] == (1, 0, 0, 0) and found["hard"] == (1, 0, None, 0)


def test_blind_answerable_is_empty_without_the_no_pass():
    keys = ("blind_answerable", "accuracy_where_blind_answerable", "accuracy_elsewhere")
    for made, expected in ((LEVELS, (0.5, 0.5, 0.5)), (("FULL",), (None, None, None))):
        found = scored(*made)
        row = by_category(found, rule_results(found, [Always("FULL")], HeadConfig(), resamples=10))[0]
        assert row["accuracy"] == 0.5 and tuple(row[k] for k in keys) == expected


def test_a_set_without_categories_has_none_in_the_oracle_analysis():
    assert analyse(scored(*LEVELS, categories=("",) * 4), HeadConfig())["by_category"] == {}
    assert list(analyse(scored(*LEVELS, categories=("", "a", "b", "a")), HeadConfig())["by_category"]) == ["a", "b"]


def test_a_later_run_removes_what_the_earlier_one_wrote_and_nothing_else(tmp_path):
    ours = (
        "comparison.csv", "pareto_threshold.csv", "pareto_old.png", "submission_old_no_vision.jsonl",
        "eval_matrix.json",
    )  # fmt: skip
    others = ("checkpoint-000030.pt", "pareto_other.png", "notes.csv", "main_table.csv", "results.csv")
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    (tmp_path / "categories.csv").mkdir()
    remove_earlier(tmp_path, RUN_FILES)
    assert all((tmp_path / name).exists() for name in ours), "without a summary nothing is known to be ours"
    outside = tmp_path.parent / "outside.png"
    outside.write_text("")
    (tmp_path / "pareto_").mkdir()
    rows = [{"dataset": "old", "row": "no_vision"}, {"dataset": "/../../outside", "row": ""}]
    (tmp_path / "summary.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "rows": rows}))
    remove_earlier(tmp_path, PLOTS)
    assert not (tmp_path / "pareto_old.png").exists() and (tmp_path / "comparison.csv").exists()
    remove_earlier(tmp_path, RUN_FILES)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "summary.json", "categories.csv", "pareto_"} and outside.exists()
