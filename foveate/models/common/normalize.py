"""Normalisation of states and actions, and openpi's `norm_stats.json`.

    {"norm_stats": {"state": {"mean": [...], "std": [...], "q01": [...], "q99": [...]}, "actions": {...}}}

NumPy alone. A statistic may cover fewer entries than the model's padded vectors: what lies beyond it passes
through unchanged, as in openpi.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foveate.errors import FoveateError
from foveate.models.common.tails import Tails
from foveate.util.checks import shown
from foveate.util.files import read_json, write_text

NormKind = Literal["quantile", "zscore", "identity"]
NORM_FILE = "norm_stats.json"


@dataclass(frozen=True)
class NormStats:
    """Statistics of one vector; all float32 [D]."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray | None = None
    """The 1 % quantile; None where only mean and std are known."""
    q99: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "q01", "q99"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                value = np.atleast_1d(np.asarray(value, dtype=np.float32))
            except (TypeError, ValueError, OverflowError):
                raise FoveateError(f"norm stats: {name} is not a list of numbers, got {shown(value)}") from None
            if value.ndim != 1 or value.size == 0:
                raise FoveateError(f"norm stats: {name} should be a list of numbers [D], got shape {value.shape}")
            if not np.isfinite(value).all():
                bad = np.flatnonzero(~np.isfinite(value)).tolist()
                raise FoveateError(f"norm stats: {name} holds NaN or infinity at {bad}; compute the statistics anew")
            if name == "std" and (value < 0).any():
                bad = np.flatnonzero(value < 0).tolist()
                raise FoveateError(f"norm stats: std is negative at {bad}; compute the statistics anew")
            object.__setattr__(self, name, value)
        sizes = {n: getattr(self, n).size for n in ("mean", "std", "q01", "q99") if getattr(self, n) is not None}
        if len(set(sizes.values())) != 1:
            raise FoveateError(f"norm stats: mean, std, q01 and q99 must have one length, got {sizes}")
        if (self.q01 is None) != (self.q99 is None):
            raise FoveateError("norm stats: q01 and q99 come together, got only one of them")
        if self.q01 is not None and self.q99 is not None:
            if (wrong := self.q01 > self.q99).any():
                raise FoveateError(
                    f"norm stats: q01 is greater than q99 at {np.flatnonzero(wrong).tolist()}; they may be swapped: "
                    "compute the statistics anew"
                )
            with np.errstate(over="ignore"):
                endless = ~np.isfinite(self.q99 - self.q01)
            if endless.any():
                raise FoveateError(
                    f"norm stats: q99 - q01 is beyond float32 at {np.flatnonzero(endless).tolist()}; compute the "
                    "statistics anew"
                )

    @property
    def dim(self) -> int:
        return self.mean.size

    def to_dict(self) -> dict[str, list[float]]:
        values = {name: getattr(self, name) for name in ("mean", "std", "q01", "q99")}
        return {name: value.astype(float).tolist() for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Normalizer:
    """Maps one vector into the model's range and back.

    `quantile`: q01..q99 to -1..1; `zscore`: mean 0, deviation 1; `identity`: nothing.
    """

    stats: NormStats
    kind: NormKind = "quantile"
    eps: float = 1e-6
    """Keeps a constant entry from a division by zero: 1e-6 in openpi, 1e-8 in LeRobot."""

    def __post_init__(self) -> None:
        if self.kind not in ("quantile", "zscore", "identity"):
            raise FoveateError(f"normalisation {self.kind!r} is unknown; choices: quantile, zscore, identity")
        if self.kind == "quantile" and self.stats.q01 is None:
            raise FoveateError(
                "norm stats: quantile normalisation needs q01 and q99, and they hold mean and std alone; "
                "compute them anew, or set norm: zscore if the policy was trained so"
            )

    def _origin_span(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted and divided by; the first `width` entries of the statistics."""
        eps = np.float32(self.eps)
        if self.kind == "quantile":
            assert self.stats.q01 is not None and self.stats.q99 is not None
            return self.stats.q01[:width], self.stats.q99[:width] - self.stats.q01[:width] + eps
        if self.kind == "zscore":
            return self.stats.mean[:width], self.stats.std[:width] + eps
        return np.zeros(0, np.float32), np.ones(0, np.float32)

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """float [..., D] in the robot's units -> float32 in the model's range."""
        y = np.array(x, dtype=np.float32)
        origin, span = self._origin_span(y.shape[-1])
        unit = (y[..., : origin.size] - origin) / span
        y[..., : origin.size] = unit * 2 - 1 if self.kind == "quantile" else unit
        return y

    def unnormalize(self, y: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`; NaN stays NaN."""
        x = np.array(y, dtype=np.float32)
        origin, span = self._origin_span(x.shape[-1])
        unit = x[..., : origin.size]
        x[..., : origin.size] = ((unit + 1) / 2 if self.kind == "quantile" else unit) * span + origin
        return x


def norm_file(path: str | Path) -> Path:
    """The `norm_stats.json` that a file or folder names."""
    path = Path(path)
    return path / NORM_FILE if path.is_dir() or path.suffix != ".json" else path


def load_norm_stats(path: str | Path, need: tuple[str, ...] = ("state", "actions")) -> dict[str, NormStats]:
    """Read openpi's `norm_stats.json`.

    Args:
        path: the file, or the folder that holds it.
        need: keys that must be there.
    Raises:
        FoveateError: no file, not JSON, or a statistic that is missing, not finite or of unequal lengths.
    """
    path = norm_file(path)
    if not path.is_file():
        raise FoveateError(f"{path}: no such file; openpi keeps it in a checkpoint's assets/<asset_id>/")
    values = read_json(path)
    groups = values.get("norm_stats", values)
    if not isinstance(groups, dict):
        raise FoveateError(f'{path}: expected {{"norm_stats": {{"state": ..., "actions": ...}}}}')
    for key in need:
        if key not in groups:
            raise FoveateError(f"{path}: no norm stats for {key!r}, found {sorted(groups)}")
    return {key: _parse(path, key, group) for key, group in groups.items()}


def _parse(path: Path, key: str, group: Any) -> NormStats:
    if not isinstance(group, Mapping) or not {"mean", "std"} <= set(group):
        got = sorted(group) if isinstance(group, Mapping) else type(group).__name__
        raise FoveateError(f"{path}: {key!r} needs mean and std (and q01, q99 for quantiles), got {got}")
    try:
        return NormStats(group["mean"], group["std"], group.get("q01"), group.get("q99"))
    except FoveateError as error:
        raise FoveateError(f"{path}, {key!r}: {error}") from None


def save_norm_stats(path: str | Path, stats: Mapping[str, NormStats]) -> Path:
    """Write `norm_stats.json` (into the folder `path`, or as that file); returns the file's path."""
    path = norm_file(path)
    groups = {key: value.to_dict() for key, value in stats.items()}
    write_text(path, json.dumps({"norm_stats": groups}, indent=2) + "\n", "the norm stats")
    return path


class RunningStats:
    """Mean, deviation and quantiles of vectors that come in batches.

    All are exact where `total` is known. Where it is not, the quantiles are exact while at most `exact_rows` vectors
    have come; beyond that they are those of a uniform random sample of that many rows (reservoir sampling, seeded).

    Attributes:
        low, high: float64 [D], the least and the greatest values so far.
    """

    def __init__(self, exact_rows: int = 200_000, seed: int = 0, *, total: int | None = None) -> None:
        """
        Args:
            total: vectors that will come, at most; None: not known.
        """
        self._limit = exact_rows
        self._rng = np.random.default_rng(seed)
        self._tails = None if total is None else Tails(total)
        self._rows: list[np.ndarray] = []
        self._held = 0
        self._count = 0
        self._mean = np.zeros(0)
        self._m2 = np.zeros(0)
        self.low = self.high = np.zeros(0)

    def update(self, batch: np.ndarray) -> None:
        """Add vectors [..., D]."""
        rows = np.asarray(batch, dtype=np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        if not len(rows):
            return
        if not np.isfinite(rows).all():
            raise FoveateError("norm stats: the data hold NaN or infinity; drop or mend those rows first")
        if not self._count:
            self._mean, self._m2 = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
            self.low, self.high = rows.min(0), rows.max(0)
        if rows.shape[1] != self._mean.size:
            raise FoveateError(f"norm stats: expected vectors of {self._mean.size} numbers, got {rows.shape[1]}")
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        if self._tails is not None:
            self._tails.update(rows)
        else:
            self._sample(rows)
        total = self._count + len(rows)
        delta = rows.mean(0) - self._mean
        self._m2 += ((rows - rows.mean(0)) ** 2).sum(0) + delta**2 * self._count * len(rows) / total
        self._mean = self._mean + delta * len(rows) / total
        self._count = total

    def _sample(self, rows: np.ndarray) -> None:
        room = max(0, self._limit - self._held)
        if room:
            self._rows.append(rows[:room].copy())
            self._held += len(rows[:room])
        late = rows[room:]
        if not len(late):
            return
        reservoir = np.concatenate(self._rows)
        order = self._count + room + np.arange(len(late))
        slot = self._rng.integers(0, order + 1)
        taken = slot < self._limit
        reservoir[slot[taken]] = late[taken]
        self._rows = [reservoir]

    def result(self) -> NormStats:
        """The statistics so far; the deviation is the population's."""
        if self._count < 2:
            raise FoveateError(f"norm stats: need at least 2 vectors, got {self._count}")
        if self._tails is not None:
            q01, q99 = self._tails.quantiles()
        else:
            q01, q99 = np.quantile(np.concatenate(self._rows), (0.01, 0.99), axis=0)
        return NormStats(self._mean, np.sqrt(self._m2 / self._count), q01, q99)
