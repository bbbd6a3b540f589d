"""Is the map true? What happens to the actions when the picture loses what the map marks.

Pure numbers: how far two action chunks lie apart, and what a table of such distances says of each layer. The loop that
asks a policy is in `studies/attention/occlusion.py`.

For chunks a (picture as it is) and b (something covered), both denoised from the same noise, n numbers each:

    mse        mean (b - a)^2
    si_mse     min over s of mean (s b - a)^2: what no common factor explains; s = <a, b> / <b, b>
    scale      | |b| / |a| - 1 |: the change of length
    direction  1 - cos(a, b): the change of direction, 0 the same, 1 orthogonal, 2 opposite
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.util.stats import bootstrap_mean

METRICS = ("mse", "si_mse", "scale", "direction")
ENOUGH = 5
"""Episodes (or frames of a single one) from which on an interval is taken for evidence."""
Row = dict[str, Any]


def distances(reference: np.ndarray, actions: np.ndarray, per_dim: bool = False) -> dict[str, np.ndarray]:
    """How far action chunks lie from the reference: metric -> float64 [...], with `per_dim` [..., A].

    Args:
        reference: [H, A].
        actions: [..., H, A].
        per_dim: compare each action dimension's course of H numbers by itself.
    Returns:
        Where both are zero all metrics are 0. Where one alone is, `direction` is 1; `scale` is NaN where it is the
        reference.
    """
    axis: Any = -2 if per_dim else (-2, -1)
    a = np.broadcast_to(np.asarray(reference, np.float64), np.shape(actions))
    b = np.asarray(actions, np.float64)
    aa, bb, ab = (x.sum(axis=axis) for x in (a * a, b * b, a * b))
    norm_a, norm_b = np.sqrt(aa), np.sqrt(bb)

    def spread(x: np.ndarray) -> np.ndarray:
        return np.expand_dims(x, axis)

    with np.errstate(invalid="ignore", divide="ignore"):
        best = np.where(bb > 0, ab / bb, 0.0)
        scale = np.abs(norm_b / norm_a - 1)
        # Half the squared distance of the unit vectors is 1 - cos, without its cancellation.
        direction = ((a / spread(norm_a) - b / spread(norm_b)) ** 2).sum(axis=axis) / 2
    zero_a, zero_b = aa == 0, bb == 0
    return {
        "mse": ((b - a) ** 2).mean(axis=axis),
        "si_mse": ((spread(best) * b - a) ** 2).mean(axis=axis),
        "scale": np.where(zero_a & zero_b, 0.0, np.where(zero_a, np.nan, scale)),
        "direction": np.where(zero_a & zero_b, 0.0, np.where(zero_a | zero_b, 1.0, direction)),
    }


def measure(reference: np.ndarray, actions: np.ndarray) -> Row:
    """Distances of [draws, H, A] from [H, A], their mean over the draws: metric -> number, `dims` metric -> [A]."""
    whole, dims = distances(reference, actions), distances(reference, actions, per_dim=True)
    row: Row = {metric: float(values.mean()) for metric, values in whole.items()}
    row["dims"] = {metric: values.mean(0).tolist() for metric, values in dims.items()}
    return row


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One row per choice of views and layer, of what was measured in each frame.

    Args:
        rows: `views, layer, episode, area`, and `high, random, low` as `measure` gives them.
    Returns:
        `views, layer, frames, episodes, area`; `metrics`: metric -> `high, random, low` (mean and `ci95`),
        `difference` (high - random, mean and `ci95`), `ratio` (of the means), `wins` (share of frames where high beats
        the mean of the random draws); `dims`: metric -> `high, random, low, difference` [A], `difference_ci95` [A, 2].
        Intervals resample episodes, or frames where there is one episode.
    """
    summary = []
    for key in dict.fromkeys((row["views"], row["layer"]) for row in rows):
        own = [row for row in rows if (row["views"], row["layer"]) == key]
        groups = group_of(own)
        metrics: Row = {}
        dims: Row = {}
        for metric in METRICS:
            values = {kind: np.array([row[kind][metric] for row in own]) for kind in ("high", "random", "low")}
            values["difference"] = values["high"] - values["random"]
            metrics[metric] = {kind: _mean(v, groups) for kind, v in values.items()}
            mean_high, mean_random = metrics[metric]["high"]["mean"], metrics[metric]["random"]["mean"]
            metrics[metric]["ratio"] = mean_high / mean_random if mean_random else math.nan
            metrics[metric]["wins"] = float((values["difference"] > 0).mean())
            each = {kind: np.array([row[kind]["dims"][metric] for row in own]) for kind in ("high", "random", "low")}
            low, high = bootstrap_mean(each["high"] - each["random"], groups)
            dims[metric] = {kind: v.mean(0).tolist() for kind, v in each.items()}
            dims[metric]["difference"] = (each["high"] - each["random"]).mean(0).tolist()
            dims[metric]["difference_ci95"] = np.stack([low, high], -1).tolist()
        area = {kind: float(np.mean([row["area"][kind] for row in own])) for kind in own[0]["area"]}
        summary.append(
            {"views": key[0], "layer": key[1], "frames": len(own), "episodes": len({row["episode"] for row in own})}
            | {"area": area, "metrics": metrics, "dims": dims}
        )
    return summary


def rank(summary: Sequence[Row], views: str, metric: str = "si_mse") -> list[Row]:
    """Layers of one choice of views, the most causal first: by how much covering what the map marks changes the actions
    more than covering as much elsewhere. `proven`: the interval of that difference lies above 0, and was resampled from
    at least `ENOUGH` episodes."""
    own = [row for row in summary if row["views"] == views]
    ranked = sorted(own, key=lambda row: -row["metrics"][metric]["difference"]["mean"])
    return [
        {"rank": place, "layer": row["layer"], **row["metrics"][metric]["difference"]}
        | {"ratio": row["metrics"][metric]["ratio"], "wins": row["metrics"][metric]["wins"]}
        | {"proven": bool(row["metrics"][metric]["difference"]["ci95"][0] > 0) and _units(row) >= ENOUGH}
        for place, row in enumerate(ranked, 1)
    ]


def summarise_curves(rows: Sequence[Row]) -> list[Row]:
    """Insertion and deletion curves, mean over frames, and the areas below them with intervals.

    Args:
        rows: `views, layer` (None: random order), `episode, shares, deletion, insertion` (MSE at each share of the
            area, from 0 to 1).
    Returns:
        `views, layer, shares, deletion, insertion, deletion_area, insertion_area, gap` (deletion - insertion). Covering
        what matters first makes the deletion curve rise early and the insertion curve fall early: a large gap.
    """
    curves = []
    for key in dict.fromkeys((row["views"], row["layer"]) for row in rows):
        own = [row for row in rows if (row["views"], row["layer"]) == key]
        shares = np.asarray(own[0]["shares"], np.float64)
        lines = {kind: np.array([row[kind] for row in own], np.float64) for kind in ("deletion", "insertion")}
        areas = {kind: area_below(shares, line) for kind, line in lines.items()}
        groups = group_of(own)
        curves.append(
            {"views": key[0], "layer": key[1], "shares": shares.tolist()}
            | {kind: line.mean(0).tolist() for kind, line in lines.items()}
            | {f"{kind}_area": _mean(area, groups) for kind, area in areas.items()}
            | {"gap": _mean(areas["deletion"] - areas["insertion"], groups)}
        )
    return curves


def area_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area below a curve by trapezoids: y [..., n] over x [n]."""
    return ((y[..., 1:] + y[..., :-1]) / 2 * np.diff(x)).sum(-1)


def group_of(rows: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """What to resample: the episodes, or (None) the frames of a single one."""
    episodes = [row["episode"] for row in rows]
    return episodes if len(set(episodes)) > 1 else None


def _units(row: Row) -> int:
    return row["episodes"] if row["episodes"] > 1 else row["frames"]


def _mean(values: np.ndarray, groups: list[Any] | None) -> Row:
    low, high = bootstrap_mean(values, groups)
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
    return {"mean": mean, "ci95": [float(low), float(high)]}
