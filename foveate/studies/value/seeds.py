"""One experiment under several seeds: mean, deviation and interval of every row.

with open_study(config) as study:
    run_seeds(study, (0, 1, 2)).table
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.evaluation.vqa.files import PLOTS, remove_earlier, write_both, write_table
from foveate.evaluation.vqa.rows import COLUMNS, action_columns, label
from foveate.studies.value.config import SeedsConfig
from foveate.studies.value.report import write_summary
from foveate.studies.value.result import Row, asked_mode, data_facts
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import Study, written_by
from foveate.studies.value.train import train_head
from foveate.util.files import alone_in
from foveate.util.run_folder import write_run_files
from foveate.viz.value.curves import plot_rows

AVERAGED = (
    "accuracy", "avg_cost", "action_rate_no", "action_rate_coarse", "action_rate_full", "vision_tokens",
    "remaining_vision_tokens", "loss_nats", "fallback_trigger_rate", "latency", "mem", "cost_of_totals", "gflops",
    "gflops_share", "path_ms", "path_ms_share",
)  # fmt: skip


IDENTITY = (
    "dataset", "baseline_name", "chosen", "threshold", "coarse_threshold", "uncertainty", "vision", "matched",
    "pruning_ratio", "pruning_mode", "fallback_mode", "corrected", "checkpoint",
)  # fmt: skip
"""Columns that make a row the same one in two runs, beside its lambda."""


@dataclasses.dataclass
class SeedsResult:
    """The averaged rows; a process that is not the main one has none."""

    folder: Path
    table: list[Row] = dataclasses.field(default_factory=list)
    """Columns of `results.csv`, and `NAME_std`, the deviation over seeds, of each averaged one."""
    plots: list[Path] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    """The distinct ones of the seeds."""

    def notes(self) -> list[str]:
        return [f"results: {self.folder / 'results.csv'}"] if self.table else []


@alone_in(written_by, "averaging over seeds")
def run_seeds(study: Study, seeds: Sequence[int]) -> SeedsResult:
    """Train (where `data.train_jsonl` is set) and evaluate with every seed.

    Folder `seed_S` for each, and `seeds.csv/json`, `results.csv`, `summary.json`, a plot over all.

    Args:
        seeds: at least two different ones.
    """
    study = study.variant(output_dir=study.config.output_dir or "outputs/sweep_seeds")
    config, folder = study.config, study.folder
    asked = SeedsConfig(**{**vars(config), "seeds": tuple(seeds)})
    study.prepare()
    tables: list[list[Row]] = []
    data: dict[str, Any] = {}
    warnings: dict[str, None] = {}
    for seed in seeds:
        study.report.rule(f"seed {seed}")
        own = study.variant(
            training=dataclasses.replace(config.training, seed=seed), output_dir=str(folder / f"seed_{seed}")
        )
        if config.data.train_jsonl and not config.checkpoint:
            head = train_head(own.variant(output_dir=str(own.folder / "policy")))
            own = own.variant(checkpoint=(str(head.folder),))
        result = evaluate(own, plots=False)
        tables.append(result.table)
        data |= data_facts(result.datasets)
        warnings |= dict.fromkeys(result.warnings)
    if not study.is_main:
        return SeedsResult(folder)
    rows, lacking = average(tables, seeds)
    warnings |= dict.fromkeys(lacking)
    columns = (*COLUMNS, *(f"{name}_std" for name in AVERAGED))
    remove_earlier(folder, PLOTS)
    write_run_files(folder, asked, seeds[0])
    write_both(folder, "seeds", rows, columns)
    write_table(folder / "results.csv", rows, columns)
    write_summary(folder, asked, list(seeds), {"data": data, "rows": rows, "warnings": list(warnings)})
    plots = plot_rows(rows, folder, config.language, asked_mode(config))
    return SeedsResult(folder, rows, plots, list(warnings))


def average(
    runs: Sequence[Sequence[Mapping[str, Any]]], seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that all runs have, averaged: mean, sample deviation over seeds (`_std`), 95 % interval of the mean.

    The interval adds what the questions leave open (the mean of the runs' own bootstrap intervals, since all runs have
    the same questions) and what the seeds do (Student's t), as independent errors; a rule that no seed changes has the
    first alone. Rows are the same where rule, data set and all parameters are. The row whose lambda was chosen, and its
    random twins, are the same whatever was chosen: where that differs they say so, and have no `lambda_cost`.

    Returns:
        the rows, and a warning for those that not every run has.
    """
    tables = [_by_identity(rows) for rows in runs]
    shared = [key for key in tables[0] if all(key in table for table in tables)]
    averaged = [_mean_row([table[key] for table in tables], seeds) for key in shared]
    alone = {key: row["row"] for table in tables for key, row in table.items() if key not in shared}
    warnings = []
    if alone:
        names = list(dict.fromkeys(alone.values()))
        more = ", ..." if len(names) > 4 else ""
        warnings = [f"rows that not every seed has are in seed_N/ alone: {', '.join(names[:4])}{more}"]
    return averaged, warnings


def _mean_row(group: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = dict(group[0]) | {"seed": " ".join(map(str, seeds)), "checkpoint": None}
    lambdas = [one.get("lambda_cost") for one in group]
    if len(set(lambdas)) > 1:
        said = " ".join(f"{lam:g}" for lam in lambdas)
        row |= {"lambda_cost": None, "row": label(row["baseline_name"], row | {"lambda_cost": None})}
        row["row"] += f" λ={said.replace(' ', '/')}"
        row |= {"chosen": f"{row['chosen']}: {said}"} if row.get("chosen") else {}
    for name in AVERAGED:
        values = [r[name] for r in group if r.get(name) is not None]
        row[name] = statistics.fmean(values) if values else None
        row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    row |= action_columns(*(row[f"action_rate_{level}"] for level in ("no", "coarse", "full")))
    most = {"accuracy": 1.0, "avg_cost": math.inf}
    for name, bound in (("accuracy", "accuracy"), ("avg_cost", "cost")):
        middle, low, high = row[name], f"{bound}_low", f"{bound}_high"
        if middle is not None:
            spread = _student(len(group)) * (row[f"{name}_std"] or 0.0) / math.sqrt(len(group))
            below = [r[name] - r[low] for r in group if r.get(low) is not None]
            above = [r[high] - r[name] for r in group if r.get(high) is not None]
            row[low] = max(0.0, middle - math.hypot(statistics.fmean(below), spread)) if below else None
            row[high] = min(most[name], middle + math.hypot(statistics.fmean(above), spread)) if above else None
    return row


def _student(count: int) -> float:
    """97.5 % point of Student's t for the mean of so many values."""
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1)) if count > 1 else 0.0


def _by_identity(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Identity -> row. `chosen` stands for the lambda of the chosen row, and of its random twins."""
    chosen = {r["lambda_cost"] for r in rows if r.get("chosen")}
    chosen -= {r["lambda_cost"] for r in rows if not r["baseline_name"] and not r.get("chosen")}
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        lam = row.get("lambda_cost")
        picked = row.get("chosen") or (row["baseline_name"] == "random_policy_matched" and lam in chosen)
        found.setdefault((*(row.get(key) for key in IDENTITY), "chosen" if picked else lam), row)
    return found
