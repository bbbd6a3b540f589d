"""The statistics that a LeRobot data set brings with it.

They are not what policies should be normalised with: v2.x has no quantiles, and those of v3.0 are weighted means of the
episodes' own, an envelope narrower than the quantiles of all rows. `foveate norm-stats` computes these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.lerobot.info import Info
from foveate.errors import FoveateError
from foveate.util.files import read_json, read_json_lines

Stats = dict[str, dict[str, np.ndarray]]
"""Feature -> statistic (`min`, `max`, `mean`, `std`, `count`, quantiles `q01`) -> float64 array."""


def load_stats(root: Path, info: Info, episodes: Sequence[int]) -> Stats:
    """`meta/stats.json`; in v2.1 `meta/episodes_stats.jsonl`, aggregated over these episodes.

    Raises:
        FoveateError: the file is missing, or an episode's statistics are.
    """
    path = root / "meta" / ("episodes_stats.jsonl" if info.version == "v2.1" else "stats.json")
    if not path.is_file():
        raise FoveateError(f"{path}: no statistics; `foveate norm-stats --dataset {root}` computes what a policy needs")
    if info.version != "v2.1":
        return _arrays(read_json(path))
    known = {row.get("episode_index"): row.get("stats") or {} for row in read_json_lines(path)}
    if missing := [index for index in episodes if index not in known]:
        raise FoveateError(f"{path}: no statistics of episode {missing[0]}; copy the file again")
    return aggregate([_arrays(known[index]) for index in episodes])


def aggregate(parts: Sequence[Stats]) -> Stats:
    """Statistics of several episodes as one: exact for min, max, mean and std; quantiles weighted by `count`."""
    return {name: _joined([part[name] for part in parts if name in part]) for name in parts[0]}


def vector_stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of one episode's rows [T] or [T, ...]."""
    return _described(values.reshape(len(values), -1).astype(np.float64), values.shape[1:] or (1,), len(values))


def picture_stats(pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Of sampled pictures, uint8 [h, w, 3]: per channel, on 0...1, [3, 1, 1]; `count` is the number of pictures."""
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures]) / 255
    return _described(pixels, (3, 1, 1), len(pictures))


def _described(rows: np.ndarray, shape: tuple[int, ...], count: int) -> dict[str, np.ndarray]:
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    shares = (0.01, 0.1, 0.5, 0.9, 0.99)
    found |= {f"q{share * 100:02.0f}": q for share, q in zip(shares, np.quantile(rows, shares, axis=0), strict=True)}
    return {name: value.reshape(shape) for name, value in found.items()} | {"count": np.array([count])}


def as_json(stats: Stats) -> dict[str, dict[str, Any]]:
    """Plain values; counts are whole numbers."""
    return {
        name: {key: (v.astype(int) if key == "count" else v).tolist() for key, v in group.items()}
        for name, group in stats.items()
    }


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    counts = np.array([float(part["count"].ravel()[0]) for part in parts])
    weights = counts / counts.sum()

    def mean(name: str) -> np.ndarray:
        return np.tensordot(weights, np.stack([part[name] for part in parts]), 1)

    whole = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean("mean"),
        "count": np.array([counts.sum()]),
    }
    moved = [part["std"] ** 2 + (part["mean"] - whole["mean"]) ** 2 for part in parts]
    whole["std"] = np.sqrt(np.tensordot(weights, np.stack(moved), 1))
    quantiles = {name for part in parts for name in part if name[0] == "q" and name[1:].isdigit()}
    return whole | {name: mean(name) for name in sorted(quantiles) if all(name in part for part in parts)}


def _arrays(values: Mapping[str, Any]) -> Stats:
    return {
        name: {key: np.asarray(value, np.float64) for key, value in group.items() if value is not None}
        for name, group in values.items()
    }
