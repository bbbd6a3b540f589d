"""What stage 2 writes down while it trains."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from foveate.training.log import MetricsFile
from foveate.training.value.stage2 import choose_lambda, fit
from foveate.vision_value.choose import LAMBDAS, lambda_grid
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


class Gains:
    """A head that knows what every question gains."""

    def scores(self, seen: Outcomes) -> np.ndarray:
        return seen.gains


def known(count: int) -> Outcomes:
    """FULL is always right; NO is, too, but at the last question, which gains least of those that need a look."""
    gain = np.linspace(0.02, 1.0, count)[::-1]
    correct = np.ones((count, 3))
    correct[-1, :2] = 0
    loss = np.stack([1 + gain, 1 + gain, np.ones(count)], axis=1)
    seen = outcomes(count, 0)
    return dataclasses.replace(seen, correct=correct, loss=loss)


@pytest.mark.parametrize(
    ("count", "tolerance", "within"), [(40, 0.0025, 1 / 40), (40, 0.1, 0.1), (1000, 0.0025, 0.0025)]
)
def test_the_chosen_lambda_may_lose_the_tolerance_and_at_least_one_question(count, tolerance, within) -> None:
    found = choose_lambda(Gains(), known(count), HeadConfig(), tolerance)  # type: ignore[arg-type]
    assert found["chosen_within"] == pytest.approx(within)
    assert found["chosen_lambda"] > 1, "one wrong answer is within it, and never looking is the cheapest"
    assert found["chosen_loss"] == pytest.approx(1 / count)
    assert found["chosen_loss_error"] == pytest.approx(np.sqrt(1 / count * (1 - 1 / count) / (count - 1)))


def test_without_room_for_a_wrong_answer_the_question_is_looked_at() -> None:
    wrong = known(1000)
    wrong.correct[-4:, :2] = 0  # four of a thousand
    found = choose_lambda(Gains(), wrong, HeadConfig(), 0.0025)  # type: ignore[arg-type]
    assert found["chosen_loss"] <= 0.0025 and found["chosen_lambda"] < 0.03


def test_lambdas_of_other_units_buy_the_same() -> None:
    tokens = np.tile([0.0, 4, 16], (3, 1))
    assert lambda_grid(tokens, HeadConfig()) == list(LAMBDAS)
    raw = lambda_grid(tokens, HeadConfig(cost_unit="tokens", cost_scale=0.5))
    assert raw == pytest.approx([lam / 8 for lam in LAMBDAS]), "a FULL look of 16 tokens costs 8"
    assert lambda_grid(np.zeros((2, 3)), HeadConfig()) == list(LAMBDAS), "no picture, no price"
