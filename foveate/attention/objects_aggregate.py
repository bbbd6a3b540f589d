"""Object metrics over many episodes: mean and spread per layer, against chance, success against failure.

The unit is the episode: its pictures are averaged first, since they are no independent samples. p-values are of a
two-sided permutation test of the difference of means; Holm's correction takes the layers of one view, object and
metric as one family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foveate.attention.objects import ANY, METRICS, Row
from foveate.errors import FoveateError
from foveate.util.stats import bootstrap_mean, holm, permutation_test

OUTCOMES = ("success", "failure")


def aggregate(episodes: Sequence[Row], target: str = ANY) -> list[Row]:
    """One row per view, metric and layer.

    Args:
        episodes: `episode, outcome, layers`, and `means` as `objects.episode_means` gives them.
        target: the object.
    Returns:
        `view, metric, layer`; `mean, std, count, ci95` over episodes; `shuffled, centre`: means of the nulls;
        `gain` and `gain_ci95`: mean - shuffled; `success, failure`: `mean, std, count, ci95`; `p`, `p_holm`.
    Raises:
        FoveateError: the episodes hold different layers, or none has the object.
    """
    layers = {tuple(e["layers"]) for e in episodes}
    if len(layers) > 1:
        raise FoveateError(f"the episodes hold maps of different layers: {sorted(layers)}")
    found = [(e, row) for e in episodes for row in e["means"] if row["object"] == target]
    if not found:
        names = sorted({row["object"] for e in episodes for row in e["means"]})
        raise FoveateError(f"object {target!r} is in no picture; there are: {', '.join(names) or 'none'}")
    rows = []
    for view in dict.fromkeys(row["view"] for _, row in found):
        own = [(e["outcome"], row) for e, row in found if row["view"] == view]
        for metric in METRICS:
            family = [_layer_row(own, metric, i) for i in range(len(episodes[0]["layers"]))]
            for row, corrected in zip(family, holm([row["p"] for row in family]), strict=True):
                row["p_holm"] = corrected
            rows += [
                {"view": view, "metric": metric, "layer": layer, **row}
                for layer, row in zip(episodes[0]["layers"], family, strict=True)
            ]
    return rows


def _layer_row(own: Sequence[tuple[str, Row]], metric: str, i: int) -> Row:
    values = np.array([row[metric]["layer"][i] for _, row in own], np.float64)
    chance = np.array([row[metric]["shuffled"][i] for _, row in own], np.float64)
    centre = np.array([row[metric]["centre"] for _, row in own], np.float64)
    outcomes = np.array([outcome for outcome, _ in own])
    sides = {side: values[outcomes == side] for side in OUTCOMES}
    gain = describe(values - chance)
    return {
        **describe(values),
        "shuffled": _mean(chance),
        "centre": _mean(centre),
        "gain": gain["mean"],
        "gain_ci95": gain["ci95"],
        **{side: describe(v) for side, v in sides.items()},
        "p": permutation_test(sides["success"].tolist(), sides["failure"].tolist()),
    }


def describe(values: np.ndarray) -> Row:
    """`mean, std` (of the sample), `count, ci95` of what is finite."""
    real = values[np.isfinite(values)]
    low, high = bootstrap_mean(real) if len(real) else (math.nan, math.nan)
    std = float(real.std(ddof=1)) if len(real) > 1 else math.nan
    return {"mean": _mean(real), "std": std, "count": len(real), "ci95": [float(low), float(high)]}


def _mean(values: np.ndarray) -> float:
    real = values[np.isfinite(values)]
    return float(real.mean()) if len(real) else math.nan
