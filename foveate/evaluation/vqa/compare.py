"""Does the learned head lie above its rivals' curves? Accuracy at the same cost, with paired bootstrap intervals.

A rival is given every help: the concave envelope over all its operating points and the three fixed rules, since anybody
may toss a coin between two of them. Points are chosen on the very questions that are scored, which flatters it further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.evaluation.vqa.rows import RuleResult
from foveate.util.stats import resample_counts

FIXED = ("always_full", "always_coarse", "no_vision")
RIVALS = ("random_policy_matched", "string_lookup", "uncertainty_threshold", "cascade")
COLUMNS = (
    "dataset", "row", "rival", "avg_cost", "accuracy", "rival_accuracy", "margin", "margin_low", "margin_high",
)  # fmt: skip


def compare(
    rows: Sequence[RuleResult], resamples: int = 1000, seed: int = 0, clusters: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """One row per learned row and rival of one data set: the margin in accuracy at the learned row's cost.

    The rival `always_full` stands for its accuracy at its own cost: how much of it is kept.

    Args:
        clusters: int [n], of questions that are resampled together; None: each on its own.
    """
    learned = [i for i, item in enumerate(rows) if item.row["baseline_name"] == "" and item.row["accuracy"] is not None]
    if not learned:
        return []
    public = np.isfinite(rows[learned[0]].correct)
    correct = np.stack([item.mean_correct for item in rows], axis=1)[public]
    cost = np.stack([item.mean_cost for item in rows], axis=1)[public]
    clusters = np.arange(len(public)) if clusters is None else clusters
    _, member, sizes = np.unique(clusters[public], return_inverse=True, return_counts=True)
    sums = np.zeros((2, len(sizes), len(rows)))
    for total, values in zip(sums, (correct, cost), strict=True):
        np.add.at(total, member, values)
    drawn = np.concatenate([np.ones((1, len(sizes))), *resample_counts(len(sizes), resamples, seed)])
    weights = drawn / (drawn @ sizes)[:, None]
    accuracies, costs = weights @ sums[0], weights @ sums[1]  # [1 + resamples, rows]; the first is the set itself
    names = [item.row["baseline_name"] for item in rows]
    fixed = [i for i, name in enumerate(names) if name in FIXED]
    found = []
    for rival in ("always_full", *RIVALS):
        points = [i for i, name in enumerate(names) if name == rival]
        if not points:
            continue
        for i in learned:
            if rival == "always_full":
                theirs = accuracies[:, points[0]]
            else:
                own = sorted({*points, *fixed})
                theirs = envelope(costs[:, i], costs[:, own], accuracies[:, own])
            margins = accuracies[:, i] - theirs
            low, high = np.quantile(margins[1:], [0.025, 0.975])
            found.append(
                {
                    "dataset": rows[i].row["dataset"],
                    "row": rows[i].row["row"],
                    "rival": rival,
                    "avg_cost": float(costs[0, i]),
                    "accuracy": float(accuracies[0, i]),
                    "rival_accuracy": float(theirs[0]),
                    "margin": float(margins[0]),
                    "margin_low": float(low),
                    "margin_high": float(high),
                }
            )
    return found


def envelope(at: np.ndarray, costs: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """[B]: the best accuracy that mixtures of points [B, k] have at a cost of at most `at` [B]; -inf: none there."""
    cheap = costs <= at[:, None] + 1e-12
    alone = np.where(cheap, accuracies, -np.inf).max(-1)
    # A coin between a point i that is cheap enough and a dearer one j: the share of j that the cost allows.
    gap = costs[:, None, :] - costs[:, :, None]
    pair = cheap[:, :, None] & ~cheap[:, None, :]
    share = np.where(pair, (at[:, None] - costs)[:, :, None] / np.where(pair, gap, 1.0), 0.0)
    mixed = accuracies[:, :, None] + share * (accuracies[:, None, :] - accuracies[:, :, None])
    return np.maximum(alone, np.where(pair, mixed, -np.inf).max((1, 2)))
