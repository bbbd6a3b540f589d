"""One experiment under several seeds: mean and deviation of every row."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.rows import action_columns

if TYPE_CHECKING:
    from rich.console import Console

AVERAGED = (
    "accuracy", "avg_cost", "action_rate_no", "action_rate_coarse", "action_rate_full", "vision_tokens",
    "remaining_vision_tokens", "loss_nats", "fallback_trigger_rate", "latency", "mem",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SeedsConfig(VqaConfig):
    """Train and evaluate under several seeds; the passes of the model are made once."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """`training.seed` of each run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.seeds)) < 2:
            raise FoveateError(f"--seeds: expected at least two different ones, got {list(self.seeds)}")


def run_seeds(config: SeedsConfig, console: Console) -> list[dict[str, Any]]:
    """Folder `seed_S` for each, and `seeds.csv/json`, `results.csv`, a plot over all; the averaged rows."""
    from foveate.cli.eval.vqa import joined, prepare_folder, run_experiment
    from foveate.cli.value.report import asked_mode, data_facts, rows_table
    from foveate.cli.value.train import train_head
    from foveate.evaluation.vqa.cache import config_hash
    from foveate.evaluation.vqa.files import PLOTS, SCHEMA_VERSION, remove_earlier, write_both, write_table
    from foveate.evaluation.vqa.load import load_sets
    from foveate.evaluation.vqa.rows import COLUMNS
    from foveate.util.files import write_json
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import to_dict, write_run_files
    from foveate.viz.value.curves import plot_rows

    folder = Path(config.output_dir or "outputs/sweep_seeds")
    plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(VqaConfig)}
    prepare_folder(folder, config.language)
    found: list[list[dict[str, Any]]] = []
    data: dict[str, Any] = {}
    with joined(config) as world:
        load_sets(config)  # what cannot be read is said before the training
        for seed in config.seeds:
            own = VqaConfig(**plain | {"training": dataclasses.replace(config.training, seed=seed)})
            place = folder / f"seed_{seed}"
            if world.is_main:
                console.rule(f"seed {seed}")
            if config.data.train_jsonl and not config.checkpoint:
                train_head(dataclasses.replace(own, output_dir=str(place / "policy")), console)
                own = dataclasses.replace(own, checkpoint=(str(place / "policy"),))
            done = run_experiment(dataclasses.replace(own, output_dir=str(place)), console)
            found.append([item.row for item in done.matrix])
            data |= data_facts(done.datasets)
        if not world.is_main:
            return []
    rows = average(found, config.seeds)
    columns = (*COLUMNS, *(f"{name}_std" for name in AVERAGED))
    remove_earlier(folder, PLOTS)
    write_run_files(folder, config, config.seeds[0])
    write_both(folder, "seeds", rows, columns)
    write_table(folder / "results.csv", rows, columns)
    values = to_dict(config)
    write_json(
        folder / "summary.json",
        {
            "schema_version": SCHEMA_VERSION,
            "seed": list(config.seeds),
            "config": values,
            "config_hash": config_hash(values),
            "data": data,
            "rows": rows,
            **provenance(),
        },
    )
    console.print(rows_table(rows))
    for path in plot_rows(rows, folder, config.language, asked_mode(config)):
        console.print(f"plot: {path}", highlight=False, soft_wrap=True)
    return rows


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
