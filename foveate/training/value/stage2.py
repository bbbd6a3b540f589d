"""Stage 2: fit the head to cached passes. The model does not run: an epoch over thousands of questions takes a second.

    trained = fit(train, val, config, training, model=fingerprint)

The epoch, the wording table and the thresholds of the rivals are chosen on validation questions, whose pictures the
training questions do not show.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.types import COARSE
from foveate.util.words import plural
from foveate.vision_value.baselines import Cascade, Rule, UncertaintyThreshold
from foveate.vision_value.baselines.string_lookup import fit_lookup
from foveate.vision_value.baselines.uncertainty_threshold import between
from foveate.vision_value.checkpoint import TrainedHead
from foveate.vision_value.choose import best_action, lambda_grid
from foveate.vision_value.config import HeadConfig, TrainingConfig
from foveate.vision_value.cost import action_costs
from foveate.vision_value.head import HeadShape, ValueHead, features
from foveate.vision_value.losses import gain_ranking, gain_regression, soft_mixture, straight_through
from foveate.vision_value.outcomes import Outcomes

GRID = 15
"""Quantiles of an uncertainty that are tried as thresholds on validation."""
FRONT = 12
"""Operating points of a rival that are kept."""
LOG_EVERY = 20
"""Steps between two lines of the log; the end of an epoch has one of its own."""


@dataclass(frozen=True)
class Batch:
    """Tensors of some questions."""

    features: Tensor
    """float32 [B, F]."""
    loss: Tensor
    """float32 [B, 3], nats per answer token."""
    cost: Tensor
    """float32 [B, 3], with `cost_scale` in it."""


def fit(
    train: Outcomes,
    val: Outcomes,
    config: HeadConfig,
    training: TrainingConfig,
    *,
    model: str = "",
    trained_on: str | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_checkpoint: Callable[[int, TrainedHead], object] | None = None,
    on_metrics: Callable[[dict[str, float]], object] | None = None,
) -> TrainedHead:
    """Train a head; the weights are those of the epoch with the least validation loss.

    Args:
        model: fingerprint of the model whose passes these are.
        trained_on: the file or data set of the questions, for the facts.
        on_step: called with (step, steps, loss).
        on_checkpoint: called every `training.save_every` steps with the head as it stands.
        on_metrics: called every `LOG_EVERY` steps and at the end of each epoch with a line of `metrics.jsonl`: `step`,
            `epoch`, `loss` (mean since the last line), `lr`, and there `val_loss`.
    Raises:
        FoveateError: no question has a public answer, or the loss is not a number.
    """
    known, checked = _known(train, "training"), _known(val, "validation")
    shape = HeadShape.of(config, train.hidden.shape[1])
    torch.manual_seed(training.seed)
    head = ValueHead(shape, training.dropout)
    data, held = _batch(known, config, shape), _batch(checked, config, shape)
    head.standardise(data.features)
    facts = {
        "model": model,
        "trained_on": trained_on,
        "seed": training.seed,
        "lambda_cost": config.lambda_cost,
        "objective": config.objective,
        "mean_gains": dict(zip(("coarse", "full"), known.gains[:, 1:].mean(0).tolist(), strict=True)),
        "questions": {"train": len(known), "val": len(checked)},
    }
    lookup = fit_lookup(known)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, foreach=True
    )
    size = len(known)
    per_epoch = math.ceil(size / training.batch_size)
    steps = per_epoch * training.stage2_epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draws = torch.Generator().manual_seed(training.seed)
    best, least, step = copy.deepcopy(head.state_dict()), math.inf, 0
    losses: list[float] = []

    def log(epoch: int, rate: float, **more: float) -> None:
        if on_metrics:
            mean = sum(losses) / len(losses)
            on_metrics({"step": step, "epoch": epoch, "loss": mean, "lr": rate, **more})
        losses.clear()

    for epoch in range(1, training.stage2_epochs + 1):
        head.train()
        for index in torch.randperm(size, generator=draws).split(training.batch_size):
            part = Batch(data.features[index], data.loss[index], data.cost[index])
            loss = objective(head, part, config, draws)
            if not torch.isfinite(loss):
                raise FoveateError(
                    f"stage 2: the loss is {float(loss.detach())} at step {step}; lower training.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rate = optimizer.param_groups[0]["lr"]
            schedule.step()
            step += 1
            losses.append(float(loss.detach()))
            if on_step:
                on_step(step, steps, losses[-1])
            if step % LOG_EVERY == 0 and step % per_epoch:
                log(epoch, rate)
            if on_checkpoint and step % training.save_every == 0 and step < steps:
                on_checkpoint(step, TrainedHead(head, "", lookup, facts))
        value = validate(head, held, config)
        log(epoch, rate, val_loss=value)
        if value < least:
            best, least = copy.deepcopy(head.state_dict()), value
    head.load_state_dict(best)
    facts |= {"val_loss": least, "steps": steps, **rivals(checked, config)}
    if shape.learns == "gains":
        facts |= {**choose_lambda(head, checked, config, training.lambda_tolerance), "chosen_under": config.prices}
    return TrainedHead(head.eval(), "", lookup, facts)


def objective(head: ValueHead, batch: Batch, config: HeadConfig, draws: torch.Generator) -> Tensor:
    """The loss that `policy.use_straight_through` and `policy.gain_loss` name."""
    scores = head(batch.features)
    if config.use_straight_through is None:
        actions = torch.tensor([True, config.action_space == "ternary", True])
        loss = gain_regression if config.gain_loss == "regress" else gain_ranking
        return loss(scores, batch.loss, actions)
    if config.use_straight_through:
        return straight_through(scores, batch.loss, batch.cost, config.lambda_cost, config.gumbel_temperature, draws)
    return soft_mixture(scores, batch.loss, batch.cost, config.lambda_cost)


@torch.no_grad()
def validate(head: ValueHead, held: Batch, config: HeadConfig) -> float:
    """Validation loss: gains as in training; where actions are learned, task + lambda * cost of those it would take."""
    head.eval()
    if config.use_straight_through is None:
        return float(objective(head, held, config, torch.Generator()))
    action = head(held.features).argmax(-1, keepdim=True)
    return float((held.loss + config.lambda_cost * held.cost).gather(1, action).mean())


def choose_lambda(head: ValueHead, val: Outcomes, config: HeadConfig, tolerance: float) -> dict[str, float]:
    """The lambda of the least cost whose accuracy on validation is within the tolerance of always FULL (or the best).

    The tolerance is at least one question. New wordings and pictures lose more than validation says: measured, about
    twice as much (docs/value-of-vision.md).

    Returns:
        `chosen_lambda`; `chosen_loss`, of accuracy against always FULL on validation, and `chosen_loss_error`, its
        standard error (paired, question by question); `chosen_within`, the tolerance that counted.
    """
    scores, costs = head.scores(val), action_costs(val.tokens, config)
    index = np.arange(len(val))
    points = []
    for lam in lambda_grid(val.tokens, config):
        action = best_action(scores, val.tokens, lam, config)
        lost = val.correct[:, 2] - val.correct[index, action]
        error = float(lost.std(ddof=1) / math.sqrt(len(lost))) if len(lost) > 1 else math.nan
        points.append((float(costs[index, action].mean()), lam, float(lost.mean()), error))
    within = max(tolerance, 1 / len(val))
    least = max(0.0, min(lost for _, _, lost, _ in points))
    _, lam, lost, error = min(p for p in points if p[2] <= least + within + 1e-12)
    return {"chosen_lambda": lam, "chosen_loss": lost, "chosen_loss_error": error, "chosen_within": within}


def rivals(val: Outcomes, config: HeadConfig) -> dict[str, Any]:
    """Thresholds of the uncertainty rule and of the cascade that lie on their accuracy-cost front on validation."""
    entropies = _quantiles(val.entropy)
    first, second = _quantiles(val.answer_entropy[:, 0]), _quantiles(val.answer_entropy[:, 1])
    single = [UncertaintyThreshold(t) for t in entropies]
    pairs = [Cascade(a, b) for a in first for b in second]
    return {
        "thresholds": [single[i].threshold for i in front(val, single, config)],
        "cascades": [(pairs[i].threshold, pairs[i].coarse_threshold) for i in front(val, pairs, config)],
    }


def front(outcomes: Outcomes, rules: Sequence[Rule], config: HeadConfig) -> list[int]:
    """Rules that no other one beats in both accuracy and cost, by cost; at most `FRONT`, evenly over it."""
    costs = action_costs(outcomes.tokens, config)
    points = []
    for i, rule in enumerate(rules):
        decisions = rule.decide(outcomes)
        cost = np.where(decisions.paid, costs, 0.0).sum(-1).mean()
        points.append((float(cost), -float(outcomes.correct[np.arange(len(outcomes)), decisions.action].mean()), i))
    best, kept = math.inf, []
    for _, miss, i in sorted(points):
        if miss < best:
            best = miss
            kept.append(i)
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(FRONT, len(kept))).round().astype(int))
    return [kept[i] for i in chosen]


def split_by_image(images: Sequence[bytes], val_fraction: float) -> np.ndarray:
    """bool [n]: True for validation. Questions about one picture stay together; the same picture always falls alike."""
    digests = [int.from_bytes(hashlib.sha256(image).digest()[:4], "big") / 2**32 for image in images]
    held = np.array([d < val_fraction for d in digests], dtype=bool)
    if held.all() or not held.any():
        raise FoveateError(
            f"{plural(len(images), 'training question')} with {plural(len(set(digests)), 'picture')} cannot be split "
            f"into training and validation at training.val_fraction {val_fraction}; give more questions"
        )
    return held


def _known(outcomes: Outcomes, what: str) -> Outcomes:
    known = outcomes.take(np.isfinite(outcomes.loss).all(-1))
    if not len(known):
        raise FoveateError(f"no {what} question of {len(outcomes)} has a public answer: nothing can be learned")
    return known


def _batch(outcomes: Outcomes, config: HeadConfig, shape: HeadShape) -> Batch:
    cost = config.cost_scale * action_costs(outcomes.tokens, config)
    inputs = features(outcomes, shape.feature_mode)
    loss = torch.from_numpy(outcomes.loss).float()
    if config.action_space == "binary":
        # What is never chosen must not make 0 * inf.
        loss[:, COARSE] = 0
    return Batch(torch.from_numpy(inputs), loss, torch.from_numpy(cost).float())


def _quantiles(values: np.ndarray) -> list[float]:
    """Ascending thresholds: from `always` to `never`."""
    return [-1.0, *dict.fromkeys(between(values, np.linspace(0, 1, GRID).tolist()))]
