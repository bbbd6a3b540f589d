"""Circular accuracy per row, and the list of answers that could not be read off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from foveate.evaluation.vqa.benchmarks import circular_accuracies, unparsed_answers
from foveate.types import VQASample


def test_both_of_a_board() -> None:
    samples = tuple(
        VQASample(f"mmbench/dev/{n}", "mmbench", "?", ("A",), None, ("x", "y")) for n in (1, 1_000_001, 2, 1_000_002)
    )
    parsed = np.ones((4, 3), dtype=bool)
    parsed[3, 2] = False
    rows = tuple({"text": f"said {i}"} for i in range(4))
    scored: Any = SimpleNamespace(
        dataset="mmbench", samples=samples, parsed=parsed, answers={"NO": rows, "COARSE": rows, "FULL": rows}
    )
    row = {"dataset": "mmbench", "row": "always_full"}
    result: Any = SimpleNamespace(row=row, correct=np.array([1.0, 1.0, 1.0, 0.0]))
    scored = {"mmbench": scored}
    assert circular_accuracies(scored, [result]) == {"mmbench": {"always_full": 0.5}}
    assert unparsed_answers(scored) == [
        {"dataset": "mmbench", "id": "mmbench/dev/1000002", "action": "FULL", "answer": "said 3"}
    ]
