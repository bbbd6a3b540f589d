"""The rows of a fit: error, what covering does, steadiness, cost; each with an interval that resamples episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foveate.bench.variants import pruner_config
from foveate.errors import FoveateError
from foveate.studies.fit.critical import KINDS, critical
from foveate.studies.fit.measure import BLIND, NOISE, UNPRUNED
from foveate.studies.fit.timing import Timed
from foveate.util.stats import bootstrap_mean, holm, signed_rank
from foveate.util.words import plural

Row = Mapping[str, Any]
COLUMNS = ("critical", "all", *KINDS, "covered", "covered_excess", "seam", "overlap")
"""What is measured of a variant: its error on critical frames, on all, by the kind of critical frame; how far covering
what it drops moves the unpruned policy, and how much further than as much at random; how far two chunks differ where
they speak of the same steps; what the patches kept at one moment and the next share (Jaccard)."""
BARS = ("random", "stride")
"""What a method must beat to be worth its name."""


@dataclass(frozen=True)
class Estimate:
    """A mean over frames."""

    mean: float
    low: float
    high: float
    """95 %, whole episodes resampled."""
    frames: int


@dataclass(frozen=True)
class Paired:
    """Error on critical frames less that of a control at the same budget, over the same frames."""

    difference: Estimate
    p_holm: float
    """Wilcoxon's signed ranks of the episodes' means, corrected over the table (Holm)."""

    @property
    def better(self) -> bool:
        return self.difference.mean < 0 and self.p_holm < 0.05


@dataclass(frozen=True)
class FitRow:
    """One method at one budget."""

    label: str
    method: str
    budget: float | None
    kept: float
    """Visual tokens behind the last layer, mean over frames."""
    patches: float
    gflops: float
    columns: Mapping[str, Estimate]
    """`COLUMNS` -> what was measured; of the unpruned policy `seam` alone."""
    of_blind: float
    """Error on critical frames, as a share of that of a policy that sees grey pictures."""
    ms: Timed | None
    against: Mapping[str, Paired]
    """`BARS` -> how it compares."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """All rows, the best first."""

    rows: list[FitRow]
    """By their error on critical frames; the unpruned policy is none of them."""
    unpruned: FitRow
    blind: Mapping[str, Estimate]
    """Errors of the policy that sees grey pictures: `critical`, `all` and by kind."""
    noise: Mapping[str, Estimate]
    """Errors of the policy that starts from other noise; empty where it has none."""
    frames: int
    critical: dict[str, int]
    """Kind -> frames; `any`: of one kind at least."""
    critical_episodes: int
    episodes: int

    def row(self, method: str, budget: float | None) -> FitRow | None:
        return next((row for row in self.rows if (row.method, row.budget) == (method, budget)), None)


def tabulate(log: Sequence[Row], labels: Sequence[str], times: Mapping[str, Timed]) -> Table:
    """Sum up the episodes that all of these variants were measured on.

    Args:
        log: lines of `frames.jsonl`.
        labels: of the pruned variants.
    Raises:
        FoveateError: the policy does not look at its pictures.
    """
    lines = {(row["episode"], row["label"]): row for row in log}
    needed = (UNPRUNED, BLIND, *labels)
    whole = [n for n in dict.fromkeys(row["episode"] for row in log) if all((n, label) in lines for label in needed)]
    frames = _Frames([lines[n, UNPRUNED] for n in whole])

    def of(label: str) -> list[Row]:
        return [lines[n, label] for n in whole if (n, label) in lines]

    errors = {label: np.concatenate([row["error"] for row in of(label)]) for label in (BLIND, *labels)}
    blind = frames.errors(errors[BLIND])
    if blind["all"].mean == 0:
        raise FoveateError(
            f"the policy answers grey pictures as it answers those of {plural(len(frames.episode), 'frame')}: it does "
            "not look at them, so nothing can be learnt of what to drop"
        )
    # Another draw of the noise is there for all episodes, or the policy has none.
    noise = frames.errors(np.concatenate([row["error"] for row in of(NOISE)])) if len(of(NOISE)) == len(whole) else {}
    against = _against(frames, labels, errors)
    rows = []
    for label in labels:
        method, budget = _parts(label)
        columns = frames.errors(errors[label]) | _by_episode(whole, of(label))
        rows.append(
            FitRow(
                label, method, budget, *_costs(of(label)), columns, columns["critical"].mean / blind["critical"].mean,
                times.get(label), {bar: against[label, bar] for bar in BARS if (label, bar) in against},
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (np.isnan(row.columns["critical"].mean), row.columns["critical"].mean, row.kept))
    seam = {"seam": _by_episode(whole, of(UNPRUNED))["seam"]}
    unpruned = FitRow(UNPRUNED, UNPRUNED, None, *_costs(of(UNPRUNED)), seam, 0.0, times.get(UNPRUNED), {})
    return Table(
        rows, unpruned, blind, noise, len(frames.episode), {"any": int(frames.any.sum())} | frames.counts(),
        len(set(frames.episode[frames.any].tolist())), len(whole),
    )  # fmt: skip


class _Frames:
    """Which episode each frame is of, and which kinds of critical frame it is."""

    def __init__(self, unpruned: Sequence[Row]) -> None:
        self.episode = np.repeat([row["episode"] for row in unpruned], [len(row["steps"]) for row in unpruned])
        self.kinds = critical([fact for row in unpruned for fact in row["facts"]])
        self.any = np.any(list(self.kinds.values()), axis=0)

    def counts(self) -> dict[str, int]:
        return {kind: int(mask.sum()) for kind, mask in self.kinds.items()}

    def errors(self, values: np.ndarray) -> dict[str, Estimate]:
        """`critical`, `all`, and by kind."""
        masks: dict[str, np.ndarray] = {"critical": self.any, "all": np.ones_like(self.any)}
        masks |= {str(kind): mask for kind, mask in self.kinds.items()}
        return {name: _estimate(values[mask], self.episode[mask]) for name, mask in masks.items()}

    def episode_means(self, values: np.ndarray) -> list[float]:
        """Over the critical frames of each episode that has some."""
        return [float(values[self.any & (self.episode == n)].mean()) for n in dict.fromkeys(self.episode[self.any])]


def _against(frames: _Frames, labels: Sequence[str], errors: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Paired]:
    """(label, control) -> how they compare; both at one budget."""
    pairs = [(label, bar) for label in labels for bar in BARS if f"{bar}_{label.rpartition('_')[2]}" in errors]
    pairs = [(label, bar) for label, bar in pairs if _parts(label)[0] != bar]
    gaps = {(label, bar): errors[label] - errors[f"{bar}_{label.rpartition('_')[2]}"] for label, bar in pairs}
    p_values = holm([signed_rank(frames.episode_means(gaps[pair])) for pair in pairs])
    return {
        pair: Paired(_estimate(gaps[pair][frames.any], frames.episode[frames.any]), p)
        for pair, p in zip(pairs, p_values, strict=True)
    }


def _by_episode(numbers: Sequence[int], rows: Sequence[Row]) -> dict[str, Estimate]:
    """What has no value for each frame: of covers, and between frames."""

    def column(take: Callable[[Row], Sequence[float]]) -> Estimate:
        values = [take(row) for row in rows]
        return _estimate(
            np.concatenate([np.asarray(v, float) for v in values]), np.repeat(numbers, list(map(len, values)))
        )

    return {
        "covered": column(lambda row: row.get("covered", [])),
        "covered_excess": column(
            lambda row: list(np.subtract(row.get("covered", []), row.get("covered_random", []), dtype=float))
        ),
        "seam": column(lambda row: row["seam"]),
        "overlap": column(lambda row: row["overlap"]),
    }


def _costs(rows: Sequence[Row]) -> tuple[float, float, float]:
    kept, patches, gflops = (
        float(np.concatenate([row[n] for row in rows]).mean()) for n in ("kept", "patches", "gflops")
    )
    return kept, patches, gflops


def _estimate(values: np.ndarray, episodes: np.ndarray) -> Estimate:
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    low, high = bootstrap_mean(values, episodes.tolist())
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _parts(label: str) -> tuple[str, float | None]:
    budget = getattr(pruner_config(label), "keep_ratio", None)
    return (label if budget is None else label.rpartition("_")[0]), budget
