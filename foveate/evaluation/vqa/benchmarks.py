"""What benchmarks want beside accuracy: MMBench's circular accuracy, and the answers that could not be read off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.evaluation.vqa.board import Board
from foveate.evaluation.vqa.metrics import circular_accuracy
from foveate.evaluation.vqa.rows import Looked
from foveate.vision_value.config import LEVELS


def circular_accuracies(boards: Mapping[str, Board], looked: Sequence[Looked]) -> dict[str, dict[str, float]]:
    """Data set -> row -> share of questions that are right under every order of their options; MMBench alone."""
    found: dict[str, dict[str, float]] = {}
    for item in looked:
        board = boards[item.row["dataset"]]
        value = circular_accuracy(board.samples, item.correct.tolist())
        if value is not None and np.isfinite(value):
            found.setdefault(board.dataset, {})[item.row["row"]] = value
    return found


def unparsed_answers(boards: Mapping[str, Board]) -> list[dict[str, Any]]:
    """Every answer that could not be read off, with the level it was given at."""
    return [
        {
            "dataset": name,
            "id": board.samples[i].id,
            "action": LEVELS[column],
            "answer": board.answers[LEVELS[column]][i]["text"],
        }
        for name, board in boards.items()
        for i, column in np.argwhere(~board.parsed)
    ]
