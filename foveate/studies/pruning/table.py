"""The rows of a sweep: outcomes, costs, and each row's difference to random patches of the same budget."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate.evaluation.sim.results import RunLog
from foveate.util.files import write_text
from foveate.util.markdown import table
from foveate.util.provenance import provenance
from foveate.util.stats import holm, paired_difference, sign_test
from foveate.util.words import percents, share
from foveate.viz.pruning import plot_sweep

SCHEMA_VERSION = "foveate.sweep.pruning/v1"
Outcomes = Mapping[tuple[str, int], bool]
"""(task, episode) -> whether it succeeded; a crash is none."""


@dataclass(frozen=True)
class SweepRow:
    """One method at one budget."""

    method: str
    budget: float | None
    """Share of the patches that was asked for; None: all."""
    successes: int
    episodes: int
    crashes: int
    ci95: tuple[float, float]
    """Wilson's interval of the success rate."""
    kept: float | None
    """Visual tokens behind the last backbone layer, mean over inferences."""
    patches: float | None
    gflops: float | None
    """Of one inference, mean; layers before a choice count with all that they saw."""
    ms: Mapping[str, float]
    """Engine -> milliseconds of one inference, median; `played`: in the episodes themselves."""
    outcomes: Outcomes
    tuned: bool = False
    """Whether the policy was fine-tuned with this method and budget."""
    difference: float | None = None
    """Success rate less that of random patches at the same budget, fine-tuned alike, over the episodes of both."""
    difference_ci95: tuple[float, float] | None = None
    """Newcombe's interval of paired differences."""
    p: float | None = None
    """Exact sign test over the episodes in which the two differ."""
    p_holm: float | None = None
    """Corrected over all rows of the table (Holm)."""

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes if self.episodes else float("nan")

    def document(self) -> dict[str, Any]:
        """Plain JSON values, without the single outcomes."""
        known = asdict(self)
        del known["outcomes"]
        return {**known, "success_rate": self.success_rate if self.episodes else None}


def outcomes(folder: Path, variant: str) -> dict[tuple[str, int], bool]:
    """How the episodes of a run folder ended."""
    log = RunLog(folder)
    log.close()
    return {(e.task, e.episode): e.status == "success" for e in log.episodes if e.variant == variant}


def compared(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """The rows with their differences to random patches of the same budget, of fine-tuned ones to fine-tuned ones."""
    random = {(row.budget, row.tuned): row.outcomes for row in rows if row.method == "random"}
    told = []
    for row in rows:
        other = random.get((row.budget, row.tuned))
        if other is None or row.method == "random":
            told.append(row)
            continue
        both = sorted(row.outcomes.keys() & other.keys())
        ours, theirs = [row.outcomes[key] for key in both], [other[key] for key in both]
        difference = (sum(ours) - sum(theirs)) / len(both) if both else None
        interval = paired_difference(ours, theirs)
        told.append(replace(row, difference=difference, difference_ci95=interval, p=sign_test(ours, theirs)))
    tested = [i for i, row in enumerate(told) if row.p is not None]
    for i, p in zip(tested, holm([row.p for row in told if row.p is not None]), strict=True):
        told[i] = replace(told[i], p_holm=p)
    return told


COLUMNS = (
    "method", "budget", "tuned", "successes", "episodes", "crashes", "success_rate", "ci_low", "ci_high", "kept",
    "patches", "gflops", "ms_played", "difference", "difference_low", "difference_high", "p", "p_holm",
)  # fmt: skip


def write_table(folder: Path, rows: Sequence[SweepRow], facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """`pruning.csv`, `.md`, `.json` and `.png` of a sweep, each replaced at once."""
    document = {"schema_version": SCHEMA_VERSION, **facts, "rows": [row.document() for row in rows], **provenance()}
    engines = list(dict.fromkeys(engine for row in rows for engine in row.ms if engine != "played"))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"ms_{engine}" for engine in engines)])
    for row in rows:
        cells = [
            row.method, row.budget, row.tuned, row.successes, row.episodes, row.crashes, row.success_rate,
            *row.ci95, row.kept, row.patches, row.gflops, row.ms.get("played"), row.difference,
            *(row.difference_ci95 or (None, None)), row.p, row.p_holm, *(row.ms.get(engine) for engine in engines),
        ]  # fmt: skip
        writer.writerow([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in cells])
    paths = {ending: folder / f"pruning.{ending}" for ending in ("csv", "md", "json", "png")}
    write_text(paths["csv"], table.getvalue())
    write_text(paths["md"], markdown(rows, engines))
    write_text(paths["json"], json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    plot_sweep([row.document() for row in rows], paths["png"], f"{facts['policy']}, {facts['suite']}")
    return tuple(paths.values())


def cells(row: SweepRow, engines: Sequence[str]) -> list[str]:
    """A row for people."""
    difference = "-"
    if row.difference is not None and row.difference_ci95 is not None:
        low, high = row.difference_ci95
        difference = f"{100 * row.difference:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"
    return [
        f"{row.method}, tuned" if row.tuned else row.method,
        "-" if row.budget is None else share(row.budget),
        f"{row.successes}/{row.episodes} ({percents(*row.ci95)})" + (f", {row.crashes} crashed" if row.crashes else ""),
        "-" if row.kept is None else f"{row.kept:.1f}",
        "-" if row.gflops is None else f"{row.gflops:.3g}",
        *(f"{row.ms[engine]:.1f}" if engine in row.ms else "-" for engine in ("played", *engines)),
        difference,
        "-" if row.p_holm is None else f"{row.p_holm:.2g}",
    ]


def headings(engines: Sequence[str]) -> list[str]:
    """Of the columns of `cells`."""
    times = [f"ms, {engine}" for engine in engines]
    return ["method", "budget", "success", "kept", "GFLOP", "ms", *times, "to random, points", "p (Holm)"]


def markdown(rows: Sequence[SweepRow], engines: Sequence[str]) -> str:
    """The table as documents have it."""
    return table(headings(engines), [cells(row, engines) for row in rows]) + "\n"
