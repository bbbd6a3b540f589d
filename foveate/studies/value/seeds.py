"""One experiment under several seeds: mean and deviation of every row.

with open_study(config) as study:
    run_seeds(study, (0, 1, 2)).table
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.evaluation.vqa.files import PLOTS, remove_earlier, write_both, write_table
from foveate.evaluation.vqa.rows import COLUMNS, action_columns
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
    "remaining_vision_tokens", "loss_nats", "fallback_trigger_rate", "latency", "mem",
)  # fmt: skip


@dataclasses.dataclass
class SeedsResult:
    """The averaged rows; a process that is not the main one has none."""

    folder: Path
    table: list[Row] = dataclasses.field(default_factory=list)
    """Columns of `results.csv`, and `NAME_std` of each averaged one."""
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
    rows = average(tables, seeds)
    columns = (*COLUMNS, *(f"{name}_std" for name in AVERAGED))
    remove_earlier(folder, PLOTS)
    write_run_files(folder, asked, seeds[0])
    write_both(folder, "seeds", rows, columns)
    write_table(folder / "results.csv", rows, columns)
    write_summary(folder, asked, list(seeds), {"data": data, "rows": rows})
    plots = plot_rows(rows, folder, config.language, asked_mode(config))
    return SeedsResult(folder, rows, plots, list(warnings))


def average(runs: Sequence[Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of the same data set, rule and place in the matrix: mean, sample deviation (`_std`), interval of the mean.

    Rules whose parameters come out of a run (thresholds chosen on validation) stand in the same place with other
    numbers; where runs have different numbers of rows of one rule, the surplus is left out.
    """
    tables = [_places(rows) for rows in runs]
    shared = [key for key in tables[0] if all(key in table for table in tables)]
    averaged = []
    for key in shared:
        group = [table[key] for table in tables]
        row: dict[str, Any] = dict(group[0]) | {"seed": " ".join(map(str, seeds)), "checkpoint": None}
        for name in AVERAGED:
            values = [r[name] for r in group if r.get(name) is not None]
            row[name] = statistics.fmean(values) if values else None
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        row |= action_columns(*(row[f"action_rate_{level}"] for level in ("no", "coarse", "full")))
        for name, key_ in (("accuracy", "accuracy"), ("avg_cost", "cost")):
            if row[name] is not None:
                spread = row[f"{name}_std"] or 0.0
                row[f"{key_}_low"], row[f"{key_}_high"] = row[name] - spread, row[name] + spread
        averaged.append(row)
    return averaged


def _places(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    counts: dict[tuple[Any, ...], int] = {}
    places = {}
    for row in rows:
        name = (
            row["dataset"],
            row["baseline_name"],
            row.get("matched"),
            row.get("fallback_mode"),
            row.get("pruning_mode"),
        )
        counts[name] = counts.get(name, 0) + 1
        places[(*name, counts[name])] = row
    return places
