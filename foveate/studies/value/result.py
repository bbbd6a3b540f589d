"""What an evaluation has found, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.evaluation.vqa.compare import compare
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.path import PathCosts
from foveate.evaluation.vqa.rows import PRUNING, RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.types import LEVELS
from foveate.util.words import plural
from foveate.vision_value.baselines import Rule
from foveate.vision_value.checkpoint import TrainedHead

Rules = Callable[[VqaConfig, ScoredPasses, Sequence[TrainedHead]], "list[Rule | PrunedOutcomes]"]
"""(configuration, passes over a data set, heads) -> the rules that have a row."""
Row = dict[str, Any]


@dataclass
class EvaluationResult:
    """Rows and where they came from; a process that is not the main one has none."""

    config: VqaConfig
    rows: list[RuleResult] = field(default_factory=list)
    """Those of `results.csv`."""
    matrix: list[RuleResult] = field(default_factory=list)
    """Those of `eval_matrix.csv`: the asked ones, and what they must be compared with."""
    datasets: dict[str, ScoredPasses] = field(default_factory=dict)
    """Data set -> the passes that its rows were looked up in."""
    paths: dict[str, PathCosts] = field(default_factory=dict)
    """Data set -> FLOPs and milliseconds of its passes, where they were measured."""
    warnings: list[str] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.config.folder

    @property
    def every_row(self) -> list[RuleResult]:
        """Those of `results.csv`, and those that the matrix alone has."""
        names = {(item.row["dataset"], item.row["row"]) for item in self.rows}
        return [*self.rows, *(i for i in self.matrix if (i.row["dataset"], i.row["row"]) not in names)]

    @property
    def table(self) -> list[Row]:
        """The rows of the matrix, with the columns of `results.csv`."""
        return [item.row for item in self.matrix]

    @property
    def mean_gains(self) -> dict[str, dict[str, float]]:
        """Data set -> nats per answer token that COARSE and FULL earn over NO, on average: the scale of lambda."""
        found = {}
        for name, scored in self.datasets.items():
            gains = scored.outcomes.gains[:, 1:]
            gains = gains[np.isfinite(gains).all(-1)]
            if len(gains):
                found[name] = dict(zip(("coarse", "full"), gains.mean(0).tolist(), strict=True))
        return found

    def comparison(self) -> list[Row]:
        """The learned rows of each data set against the rivals' curves, at the same cost."""
        seed, resamples = self.config.training.seed, self.config.eval.bootstrap
        found = []
        for name, scored in self.datasets.items():
            rows = [item for item in self.matrix if item.row["dataset"] == name]
            found += compare(rows, resamples, seed, scored.clusters)
        return found

    def notes(self) -> list[str]:
        """What a reader of the rows should know: the scale of lambda, and what was left out or not made."""
        found = [f"{name}: {gains_text(gains)}: the scale of lambda" for name, gains in self.mean_gains.items()]
        for name, scored in self.datasets.items():
            if scored.broken:
                first = next(iter(scored.broken.values()))
                found.append(f"{name}: {plural(len(scored.broken), 'question')} left out: {first}")
            lacking = " and ".join(level for level in LEVELS if level not in scored.answers)
            if lacking:
                found.append(
                    f"{name}: {lacking} passes were not made; what hangs on them is empty in error_slices.* and "
                    "categories.csv (`foveate sweep oracle` makes all three)"
                )
        reuse = {item.row["cache_reuse"] for item in self.rows} - {"true", "false"}
        found += [f"the text-first cache was not reused: {note.removeprefix('no: ')}" for note in reuse]
        return [*found, f"results: {self.folder / 'results.csv'}"] if self.rows else found


def gains_text(gains: Mapping[str, float]) -> str:
    """What a look earns on average, in words."""
    return (
        f"a look earns {gains['coarse']:.3f} (coarse) and {gains['full']:.3f} (full) nats per answer token on average"
    )


def data_facts(datasets: Mapping[str, ScoredPasses]) -> dict[str, Any]:
    """Data set -> its hash, questions, and those that were left out with the reason."""
    return {
        name: {"hash": scored.data_hash, "samples": len(scored), "skipped": scored.broken}
        for name, scored in datasets.items()
    }


def asked_mode(config: VqaConfig) -> str:
    """Of the ways of showing less, the one that the user named; others stand beside it."""
    return config.policy.baseline_pruning_mode if config.policy.baseline_name == PRUNING else config.mode


MAIN = ("always_full", "always_coarse", "no_vision", "oracle")


def main_rows(rows: Sequence[Row], most: int = 12) -> list[Row]:
    """About ten rows of each data set, in their order, that say what the others say; few rows are all shown.

    The fixed rules and oracles; the learned row whose lambda was chosen, and one in the middle of the curve (two
    without a chosen one); of every other kind the row nearest to it in cost. Without a learned row the rest is thinned
    out evenly.
    """
    found: list[Row] = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        found += mine if len(mine) <= most else _telling(mine, most)
    return found


def _telling(rows: Sequence[Row], most: int) -> list[Row]:
    kept = [row for row in rows if row["baseline_name"] in MAIN]
    learned = sorted((row for row in rows if not row["baseline_name"]), key=lambda row: row["avg_cost"])
    others = [row for row in rows if row["baseline_name"] and row["baseline_name"] not in MAIN]
    if not learned:
        room = max(most - len(kept), 2)
        kept += [others[k * (len(others) - 1) // (room - 1)] for k in range(min(room, len(others)))]
    else:
        chosen = [row for row in learned if row.get("chosen")]
        anchor = chosen[0] if chosen else learned[len(learned) // 2]
        plain = [row for row in learned if row not in chosen]
        kept += [*chosen[:2], *plain[len(plain) // 2 :][:1], *([] if chosen else plain[:1])]
        for name in dict.fromkeys(row["baseline_name"] for row in others):
            family = [row for row in others if row["baseline_name"] == name]
            kept.append(min(family, key=lambda row: abs(row["avg_cost"] - anchor["avg_cost"])))
    return [row for row in rows if any(row is one for one in kept)]
