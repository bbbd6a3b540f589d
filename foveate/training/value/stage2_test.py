"""What stage 2 writes down while it trains."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from foveate.training.log import MetricsFile
from foveate.training.value.stage2 import fit
from foveate.vision_value.config import HeadConfig, TrainingConfig
from foveate.vision_value.outcomes import Outcomes


def outcomes(count: int, seed: int) -> Outcomes:
    draws = np.random.default_rng(seed)
    correct = draws.integers(0, 2, (count, 3)).astype(float)
    return Outcomes(
        questions=tuple(f"question {n % 5}?" for n in range(count)),
        correct=correct,
        loss=2.0 - correct + draws.random((count, 3)),
        tokens=np.array([[0, 4, 16]] * count, float),
        answer_entropy=draws.random((count, 3)),
        answer_margin=draws.random((count, 3)),
        entropy=draws.random(count),
        margin=draws.random(count),
        hidden=draws.random((count, 4), np.float32),
    )


def test_the_log_of_stage_2_has_the_mean_loss_and_of_each_epoch_the_validation(tmp_path: Path) -> None:
    train, val, path = outcomes(100, 0), outcomes(40, 1), tmp_path / "out" / "metrics.jsonl"
    losses: list[float] = []

    def train_for(epochs: int) -> tuple[dict, list[dict]]:
        losses.clear()
        config = TrainingConfig(stage2_epochs=epochs, batch_size=4, learning_rate=0.01)
        with MetricsFile(path) as metrics:
            trained = fit(
                train, val, HeadConfig(), config,
                on_step=lambda step, steps, loss: losses.append(loss), on_metrics=metrics.write,
            )  # fmt: skip
        return trained.facts, [json.loads(line) for line in path.read_text().splitlines()]

    train_for(3)
    facts, lines = train_for(2)  # 25 steps each; the lines of the longer one are gone
    assert [(line["step"], line["epoch"], "val_loss" in line) for line in lines] == [
        (20, 1, False), (25, 1, True), (40, 2, False), (50, 2, True),
    ]  # fmt: skip
    for line, begin in zip(lines, (0, 20, 25, 40), strict=True):
        assert line["loss"] == pytest.approx(np.mean(losses[begin : line["step"]]))
        assert line["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi * (line["step"] - 1) / 50)) / 2)
    assert min(line["val_loss"] for line in lines if "val_loss" in line) == facts["val_loss"]
