"""`foveate value tables`: the rows of several runs in one main table, one curve, one table of action ratios."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.errors import FoveateError

ACTION_COLUMNS = (
    "dataset", "baseline_name", "row", "lambda_cost", "action_rate_no", "action_rate_coarse", "action_rate_full",
    "avg_cost", "accuracy",
)  # fmt: skip
MEASURED = ("latency", "latency_p95", "mem")
"""What a profiling run adds to a row that another run has too."""


@dataclass(frozen=True)
class TablesConfig:
    """Gather the rows of several runs into one main table, one curve and one table of action ratios, with plots."""

    runs: tuple[str, ...]
    """Run folders, or CSV files with the columns of `results.csv`; bare words before the options are these too."""
    output_dir: str = "outputs/plots"
    """Where the tables and plots go."""
    dataset: str | None = None
    """The set of the main table and the curve; null: all."""
    language: Literal["en", "zh"] = "en"
    """Of the plots."""


def tables(argv: list[str]) -> int:
    """The verb: `main_table.csv`, `pareto.csv`, `action_ratio.csv`, their plots, `results.csv`, `summary.json`."""
    from rich.console import Console

    from foveate.cli.config import parse

    config = parse(TablesConfig, _gather(argv), "foveate value tables")
    console = Console()
    for path in write_tables(config):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _gather(words: list[str]) -> list[str]:
    """Bare words at the start are runs: `foveate value tables A B --output_dir C`."""
    end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return ["--runs", *words] if end else words


def write_tables(config: TablesConfig) -> list[Path]:
    """The tables and plots of some runs; `results.csv` holds all rows, `summary.json` where they come from."""
    from foveate.cli.config import to_dict, write_run_files
    from foveate.cli.provenance import provenance
    from foveate.cli.vqa import prepare_folder
    from foveate.evaluation.vqa_cache import config_hash
    from foveate.evaluation.vqa_files import SCHEMA_VERSION, read_rows, write_json, write_table
    from foveate.viz.value_plots import plot_rows

    out = Path(config.output_dir)
    prepare_folder(out, config.language)
    read: list[dict[str, Any]] = []
    for run in config.runs:
        path = Path(run)
        read += read_rows(path / "results.csv" if path.is_dir() else path)
    rows = merge(read)
    chosen = [row for row in rows if config.dataset in (None, row["dataset"])]
    if not chosen:
        there = ", ".join(sorted({row["dataset"] for row in rows})) or "none"
        raise FoveateError(f"no row of data set {config.dataset!r}; there are: {there}")
    sources = [source_of(Path(run)) for run in config.runs]
    seeds = sorted({str(row["seed"]) for row in rows if row.get("seed") is not None})
    values = to_dict(config)
    write_run_files(out, config, None)
    write_table(out / "results.csv", rows)
    write_json(
        out / "summary.json",
        {
            "schema_version": SCHEMA_VERSION,
            "seed": seeds[0] if len(seeds) == 1 else seeds,
            "config": values,
            "config_hash": config_hash(values),
            "data": {name: about for source in sources for name, about in source["data"].items()},
            "runs": sources,
            "rows": rows,
            **provenance(),
        },
    )
    write_table(out / "main_table.csv", chosen)
    write_table(out / "pareto.csv", sorted(chosen, key=lambda row: (row["dataset"], row["avg_cost"])))
    write_table(out / "action_ratio.csv", rows, ACTION_COLUMNS)
    # A run without the text-first cache has the same answers as its twin; only its latency differs.
    drawn = [row for row in chosen if row.get("cache_reuse") != "false"] or chosen
    names = ("results", "main_table", "pareto", "action_ratio")
    return [out / f"{name}.csv" for name in names] + plot_rows(drawn, out, config.language)


def merge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row that stands in several runs is kept once, with the latency that one of them has measured."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        # JSON, since a cell may be a list.
        identity = tuple(json.dumps(row.get(key)) for key in row if key not in MEASURED)
        known = found.setdefault(identity, row)
        known.update({key: row[key] for key in MEASURED if row.get(key) is not None})
    return list(found.values())


def source_of(run: Path) -> dict[str, Any]:
    """What the `summary.json` of a run (or beside a CSV) says of its configuration and data; nothing where there is
    none."""
    folder = run if run.is_dir() else run.parent
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        summary = {}
    return {
        "run": str(run),
        "config_hash": summary.get("config_hash"),
        "seed": summary.get("seed"),
        "data": summary.get("data", {}),
    }
