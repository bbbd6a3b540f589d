from __future__ import annotations

import numpy as np
import pytest

from foveate.evaluation.vqa.compare import compare, envelope
from foveate.evaluation.vqa.rows import RuleResult
from foveate.vision_value.outcomes import Decisions


def test_the_envelope_mixes_two_points():
    costs, accuracies = np.array([[0.0, 0.5, 1.0]] * 3), np.array([[0.4, 0.5, 1.0]] * 3)
    # Half of NO and half of FULL beat the middle point.
    assert envelope(np.array([0.5, 0.0, 2.0]), costs, accuracies).tolist() == pytest.approx([0.7, 0.4, 1.0])


def result(name: str, correct: np.ndarray, cost: float) -> RuleResult:
    n = len(correct)
    row = {"dataset": "set", "baseline_name": name, "row": name or "learned", "accuracy": correct.mean()}
    return RuleResult(row, None, Decisions.of(np.zeros(n)), correct, np.full(n, cost))


def test_margins_are_taken_at_the_same_cost():
    n = 400
    right = (np.arange(n) < 320).astype(float)
    rows = [
        result("always_full", np.ones(n), 1.0),
        result("no_vision", np.zeros(n), 0.0),
        result("cascade", np.zeros(n), 0.4),
        result("", right, 0.5),
    ]
    found = {row["rival"]: row for row in compare(rows, 300)}
    assert found["always_full"]["margin"] == pytest.approx(-0.2)
    assert found["cascade"]["margin"] == pytest.approx(0.3)  # 80 % against half of FULL
    half = 1.96 * np.sqrt(0.8 * 0.2 / n)
    assert found["cascade"]["margin_low"] == pytest.approx(0.3 - half, abs=0.015)
    assert "string_lookup" not in found and compare(rows[:3]) == []
