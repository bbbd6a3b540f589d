"""Gains as arrays: a row for each view, keyframe and age of the look that could be reused.

data = dataset(rows, elsewhere=0.25)
train, choose, test = split(data.episode, seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.studies.fit.critical import critical
from foveate.util.words import plural

CHANGE = 128
"""Where the features hold how much the picture has changed, behind two thumbnails of 64 cells."""
FEWEST_EPISODES, FEWEST_CRITICAL = 5, 30


@dataclass(frozen=True)
class Gains:
    """n rows."""

    features: np.ndarray
    """float32 [n, F]."""
    loss: np.ndarray
    """float64 [n, 3]: action error of NO, COARSE and FULL, weighted."""
    cost: np.ndarray
    """float64 [n, 3]: 0 for the cheapest level, 1 for FULL."""
    episode: np.ndarray
    """int64 [n]."""
    critical: np.ndarray
    """bool [n]."""

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, rows: np.ndarray) -> Gains:
        return Gains(*(getattr(self, f.name)[rows] for f in fields(self)))


def costs_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """View -> cost of NO, COARSE and FULL out of the FLOPs of whole inferences: 0 for the cheapest, 1 for FULL."""
    found = {}
    for view in rows[0]["views"]:
        mean = np.mean([row["views"][view]["gflops"] for row in rows], axis=0)
        found[view] = ((mean - mean.min()) / (mean[-1] - mean.min())).tolist()
    return found


def dataset(rows: Sequence[Mapping[str, Any]], elsewhere: float) -> Gains:
    """
    Args:
        rows: of `gains.jsonl`.
        elsewhere: weight of an error outside of critical intervals.
    Raises:
        FoveateError: too few episodes or critical moments to learn from.
    """
    if len(rows) < FEWEST_EPISODES:
        raise FoveateError(
            f"{plural(len(rows), 'episode')}: too few to train on some, choose by others and test on the rest; name at "
            f"least {FEWEST_EPISODES}, better a hundred"
        )
    kinds = critical([fact for row in rows for fact in row["facts"]])
    sharp = np.logical_or.reduce(list(kinds.values()))
    if sharp.sum() < FEWEST_CRITICAL:
        raise FoveateError(
            f"{int(sharp.sum())} of {len(sharp)} moments are critical (gripper, contact, curvature), and a head needs "
            f"{FEWEST_CRITICAL} at least; name more episodes"
        )
    costs, at = costs_of(rows), 0
    features, loss, cost, episode, marked = [], [], [], [], []
    for row in rows:
        here = sharp[at : at + len(row["facts"])]
        at += len(here)
        weight = np.where(here, 1.0, elsewhere)
        for view, found in row["views"].items():
            for age, off in found["no"].items():
                start, n = int(age), len(off)
                errors = np.stack([np.array(off), np.array(found["coarse"])[start:], np.zeros(n)], axis=1)
                features.append(np.array(found["features"][age], np.float32))
                loss.append(errors * weight[start:, None])
                cost.append(np.tile(costs[view], (n, 1)))
                episode.append(np.full(n, row["episode"]))
                marked.append(here[start:])
    return Gains(*(np.concatenate(part) for part in (features, loss, cost, episode, marked)))


def split(episodes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [n] each: rows to train on (three fifths of the episodes), to choose by, and to test on."""
    names = np.random.default_rng(seed).permutation(np.unique(episodes))
    first, second = round(0.6 * len(names)), round(0.8 * len(names))
    train, choose, test = (np.isin(episodes, part) for part in np.split(names, [first, second]))
    return train, choose, test
