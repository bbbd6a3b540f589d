"""Norm stats of openpi (`norm_stats.json`) and of LeRobot (tensors of its normaliser's file), number by number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from foveate.models.common.normalize import load_norm_stats, norm_file
from foveate.models.common.tensor_files import Stored, check_floats, read_tensor
from foveate.util.files import read_json

Stats = dict[str, dict[str, list[float]]]
"""openpi's name of a vector (`state`, `actions`) -> statistic -> its numbers."""
FEATURES = {"state": "observation.state", "actions": "action"}
"""openpi's name of a vector -> LeRobot's."""
NAMES = ("mean", "std", "q01", "q99")
"""Statistics that `norm_stats.json` holds; LeRobot has more."""
Ends = Mapping[str, tuple[str, str]]
"""openpi's name of a vector -> LeRobot's statistics that stand for q01 and q99: of MIN_MAX its `min` and `max`."""


def read_stats(path: Path) -> Stats:
    """Of `norm_stats.json` (or its folder); the numbers are the file's own, not rounded to float32.

    Raises:
        FoveateError: as `load_norm_stats`, which checks them.
    """
    load_norm_stats(path)
    values = read_json(norm_file(path))
    groups = values.get("norm_stats", values)
    return {
        group: {
            name: torch.tensor(groups[group][name], dtype=torch.float64).reshape(-1).tolist()
            for name in NAMES
            if groups[group].get(name) is not None
        }
        for group in FEATURES
    }


def stats_text(stats: Stats) -> str:
    """The text of a `norm_stats.json`."""
    return json.dumps({"norm_stats": stats}, indent=2) + "\n"


def _lerobot_names(group: str, ends: Ends) -> dict[str, str]:
    """Statistic of openpi -> LeRobot's that stands for it."""
    return dict(zip(NAMES, ("mean", "std", *ends.get(group, NAMES[2:])), strict=True))


def stats_of_tensors(found: Mapping[str, Mapping[str, Stored]], ends: Ends) -> Stats:
    """Of LeRobot's tensors, by feature and statistic."""
    return {
        group: {
            name: _numbers(found[feature][theirs])
            for name, theirs in _lerobot_names(group, ends).items()
            if theirs in found.get(feature, {})
        }
        for group, feature in FEATURES.items()
    }


def _numbers(entry: Stored) -> list[float]:
    check_floats(entry.file, {entry.key: entry})
    numbers: list[float] = read_tensor(entry).double().reshape(-1).tolist()
    return numbers


def tensors_of_stats(stats: Stats, ends: Ends | None = None) -> dict[str, Tensor]:
    """`observation.state.mean` -> tensor, as LeRobot's normaliser keeps them.

    float32 where it holds all the numbers exactly; float64 elsewhere, which LeRobot reads too, so that nothing is lost.
    """
    tensors = {}
    for group, values in stats.items():
        names = _lerobot_names(group, ends or {})
        for name, numbers in values.items():
            exact = torch.tensor(numbers, dtype=torch.float64)
            short = exact.float()
            tensors[f"{FEATURES[group]}.{names[name]}"] = short if torch.equal(short.double(), exact) else exact
    return tensors
