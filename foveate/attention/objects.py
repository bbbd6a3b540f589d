"""How much of a map lies on objects, and how much would by chance. NumPy alone.

A map has a number per patch, a mask has pixels of the source picture. A patch's number holds for each of its pixels
(the geometry of the model's resize and padding says which those are; padding has none), so with m the map, M the mask,
and sums over all pixels of the picture:

    overlap        sum of m inside M / sum of m
    concentration  mean of m inside M / mean of m outside: 1 is indifference
    iou            of {m >= 0.3 max m} and M: intersection over union

The null hypotheses are the same numbers of the map's own values shuffled over the patches, and of a map that knows
nothing but the picture's middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.attention.occlude import Axes, areas_of
from foveate.errors import FoveateError
from foveate.geometry import patch_axes
from foveate.types import AttentionMaps

METRICS = ("overlap", "concentration", "iou")
THRESHOLD = 0.3
"""Share of its maximum from which on a map counts as looking."""
CENTRE_SIGMA = 0.25
"""Standard deviation of the centre-bias map, of the picture's width and height."""
ANY = "any object"
"""Name of the union of all objects of a picture."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Cells:
    """A mask, counted patch by patch."""

    total: np.ndarray
    """int64 [P]: source pixels of each patch, 0 in the padding."""
    inside: np.ndarray
    """int64 [P]: those of them that lie in the mask."""


def count_cells(mask: np.ndarray, axes: Axes, grid: tuple[int, int]) -> Cells:
    """Count a mask, bool [H, W], over the patches of a view."""
    row, column = axes
    cell = row[:, None] * grid[1] + column[None, :]
    seen = mask & (row >= 0)[:, None] & (column >= 0)
    inside = np.bincount(cell[seen], minlength=grid[0] * grid[1])
    return Cells(areas_of(axes, grid).ravel(), inside)


def measure(maps: np.ndarray, cells: Cells) -> dict[str, np.ndarray]:
    """Metric -> float64 [...] of maps [..., P].

    NaN where a metric has no value: the mask is empty or the map is zero; concentration also where the mask is the
    whole picture, or no attention lies outside of it.
    """
    m = np.asarray(maps, np.float64)
    total, inside = cells.total.astype(np.float64), cells.inside.astype(np.float64)
    outside = total - inside
    mass, on = m @ total, m @ inside
    peak = np.where(total > 0, m, 0.0).max(-1, keepdims=True)
    bright = ((m >= THRESHOLD * peak) & (peak > 0)).astype(np.float64)
    shared = bright @ inside
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "overlap": on / mass,
            "concentration": (on / inside.sum()) / ((mass - on) / outside.sum()),
            "iou": shared / (bright @ total + inside.sum() - shared),
        }
    real = (mass > 0) & (inside.sum() > 0)
    return {name: np.where(real & np.isfinite(value), value, np.nan) for name, value in found.items()}


def shuffled(
    maps: np.ndarray, cells: Cells, valid: np.ndarray, draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Metrics of the maps [..., P] with their values exchanged between patches, mean over the draws.

    Args:
        valid: bool [P]; values move among patches that were there, kept, and lie on the picture.
    """
    places = np.flatnonzero(valid & (cells.total > 0))
    moved = np.repeat(np.asarray(maps, np.float64)[None], draws, 0)
    for draw in range(draws):
        moved[draw][..., places] = moved[draw][..., rng.permutation(places)]
    with np.errstate(invalid="ignore"):
        return {name: _nanmean(value) for name, value in measure(moved, cells).items()}


def centre_map(axes: Axes, grid: tuple[int, int]) -> np.ndarray:
    """float64 [P]: a Gaussian around the picture's middle at each patch's own middle; 0 in the padding."""
    weights = []
    for index, parts in zip(axes, grid, strict=True):
        seen = index >= 0
        count = np.bincount(index[seen], minlength=parts)
        middles = np.bincount(index[seen], np.flatnonzero(seen) + 0.5, parts)
        at = middles / np.maximum(count, 1) / len(index)
        weights.append(np.where(count > 0, np.exp(-(((at - 0.5) / CENTRE_SIGMA) ** 2) / 2), 0.0))
    return np.outer(*weights).ravel()


def choose_objects(masks: Mapping[str, np.ndarray], wanted: tuple[str, ...], left_out: tuple[str, ...]) -> list[str]:
    """Names of the objects to look at: the wanted ones that are there, or all but those left out."""
    return [name for name in masks if (name in wanted if wanted else name not in left_out)]


def study_picture(
    maps: AttentionMaps,
    view: str,
    masks: Mapping[str, np.ndarray],
    model_hw: tuple[int, int],
    hw: tuple[int, int],
    draws: int,
    rng: np.random.Generator,
    crop: float | None = None,
) -> list[Row]:
    """One row per object of a picture, and one for all of them together.

    Args:
        maps: of one inference, [layer, head, view, rows, columns].
        masks: object -> bool [H, W].
        hw: the picture's height and width.
        crop: side of its middle that the model saw, as a share; None: all of it.
    Returns:
        `view, object, area` (the mask's share of the picture), and per metric `layer` [L] (of the mean over heads),
        `heads` [L, H], `shuffled` [L] (of the mean over heads), `centre`.
    """
    if view not in maps.views:
        raise FoveateError(f"view {view!r}: the maps have only {', '.join(maps.views)}")
    v = maps.views.index(view)
    grid = (maps.maps.shape[-2], maps.maps.shape[-1])
    values = maps.maps[:, :, v].astype(np.float64).reshape(*maps.maps.shape[:2], -1)
    valid, axes = maps.valid[v].ravel(), patch_axes(grid, hw, model_hw, crop=crop)
    union = {ANY: np.logical_or.reduce(list(masks.values()))} if masks else {}
    rows = []
    for name, mask in {**masks, **union}.items():
        cells = count_cells(mask, axes, grid)
        layers = values.mean(1)
        own, each = measure(layers, cells), measure(values, cells)
        null, middle = shuffled(layers, cells, valid, draws, rng), measure(centre_map(axes, grid), cells)
        rows.append(
            {"view": view, "object": name, "area": float(mask.mean())}
            | {
                metric: {
                    "layer": own[metric].tolist(),
                    "heads": each[metric].tolist(),
                    "shuffled": null[metric].tolist(),
                    "centre": float(middle[metric]),
                }
                for metric in METRICS
            }
        )
    return rows


def episode_means(rows: list[Row]) -> list[Row]:
    """The rows of an episode's pictures, mean over pictures: one per view and object, with `pictures`."""
    means = []
    for key in dict.fromkeys((row["view"], row["object"]) for row in rows):
        own = [row for row in rows if (row["view"], row["object"]) == key]
        row: Row = {"view": key[0], "object": key[1], "pictures": len(own)}
        row["area"] = float(np.mean([r["area"] for r in own]))
        for metric in METRICS:
            row[metric] = {
                kind: _nanmean(np.array([r[metric][kind] for r in own], np.float64)).tolist() for kind in own[0][metric]
            }
        means.append(row)
    return means


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, NaN where there is nothing; without NumPy's warning about it."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, values, 0.0).sum(0) / finite.sum(0)
