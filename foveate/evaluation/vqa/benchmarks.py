"""What benchmarks want beside accuracy: MMBench's circular accuracy, and the answers that could not be read off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.evaluation.vqa.metrics import circular_accuracy
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.types import LEVELS


def circular_accuracies(
    datasets: Mapping[str, ScoredPasses], results: Sequence[RuleResult]
) -> dict[str, dict[str, float]]:
    """Data set -> row -> share of questions that are right under every order of their options; MMBench alone."""
    found: dict[str, dict[str, float]] = {}
    for item in results:
        scored = datasets[item.row["dataset"]]
        value = circular_accuracy(scored.samples, item.correct.tolist())
        if value is not None and np.isfinite(value):
            found.setdefault(scored.dataset, {})[item.row["row"]] = value
    return found


def unparsed_answers(datasets: Mapping[str, ScoredPasses]) -> list[dict[str, Any]]:
    """Every answer that could not be read off, with the level it was given at."""
    return [
        {
            "dataset": name,
            "id": scored.samples[i].id,
            "action": LEVELS[column],
            "answer": scored.answers[LEVELS[column]][i]["text"],
        }
        for name, scored in datasets.items()
        for i, column in np.argwhere(~scored.parsed)
    ]
