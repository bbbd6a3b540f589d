"""The rows of several runs in one main table, one curve, one table of action ratios.

result = write_tables(TablesConfig(("runs/a", "runs/b"), "tables"))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from foveate.errors import FoveateError
from foveate.evaluation.vqa.files import PLOTS, read_rows, remove_earlier, write_table
from foveate.evaluation.vqa.path import PATH_COLUMNS
from foveate.studies.value.config import TablesConfig
from foveate.studies.value.report import write_summary
from foveate.studies.value.study import prepare_folder
from foveate.util.files import alone_in
from foveate.util.run_folder import write_run_files
from foveate.util.words import plural
from foveate.viz.value.curves import plot_rows

ACTION_COLUMNS = (
    "dataset", "baseline_name", "row", "lambda_cost", "action_rate_no", "action_rate_coarse", "action_rate_full",
    "avg_cost", "accuracy",
)  # fmt: skip
MEASURED = ("latency", "latency_p95", "mem", "mem_of", *PATH_COLUMNS)
"""What is measured anew by each run, or by a profiling run alone, of a row that another run has too."""


class TablesResult(NamedTuple):
    """What was written, and what does not fit together."""

    files: list[Path]
    warnings: list[str]


@alone_in(lambda config: Path(config.output_dir), "writing tables")
def write_tables(config: TablesConfig) -> TablesResult:
    """`main_table.csv`, `pareto.csv`, `action_ratio.csv`, their plots; `results.csv` holds all rows, `summary.json`
    their origin."""
    out = Path(config.output_dir)
    prepare_folder(out, config.language)
    runs = short_names(config.runs)
    rows = merge(named_by_head(config.runs, runs))
    distinct_names(rows)
    chosen = [row for row in rows if config.dataset in (None, row["dataset"])]
    if not chosen:
        there = ", ".join(sorted({row["dataset"] for row in rows})) or "none"
        raise FoveateError(f"no row of data set {config.dataset!r}; there are: {there}")
    sources = [source_of(Path(run)) for run in config.runs]
    data, warnings = data_of(sources, runs)
    # A number, or several in one cell of averaged rows.
    seeds = sorted({int(float(s)) for row in rows if row.get("seed") is not None for s in str(row["seed"]).split()})
    remove_earlier(out, PLOTS)
    write_run_files(out, config, None)
    write_table(out / "results.csv", rows)
    content = {"data": data, "runs": sources, "rows": rows, "warnings": warnings}
    write_summary(out, config, seeds[0] if len(seeds) == 1 else seeds, content)
    write_table(out / "main_table.csv", chosen)
    write_table(out / "pareto.csv", sorted(chosen, key=lambda row: (row["dataset"], row["avg_cost"])))
    write_table(out / "action_ratio.csv", rows, ACTION_COLUMNS)
    # A run without the text-first cache has the same answers as its twin; only its latency differs.
    drawn = [row for row in chosen if row.get("cache_reuse") != "false"] or chosen
    names = ("results", "main_table", "pareto", "action_ratio")
    return TablesResult([out / f"{name}.csv" for name in names] + plot_rows(drawn, out, config.language), warnings)


def short_names(runs: Sequence[str]) -> list[str]:
    """As much of the end of each run's folder as makes the runs' names distinct."""
    folders = [(Path(run) if Path(run).is_dir() else Path(run).parent).resolve() for run in runs]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def named_by_head(runs: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of all runs, each with its `run`. Where runs have different heads, the rows that depend on one are
    called after the first run that has it."""
    read: list[dict[str, Any]] = []
    owners: dict[str, dict[str, str]] = {}
    learned: list[tuple[dict[str, Any], str]] = []
    for run, name in zip(runs, names, strict=True):
        path = Path(run)
        summary = summary_of(path)
        heads = {head["path"]: head for head in summary.get("policies", [])}
        rows = read_rows(path / "results.csv" if path.is_dir() else path)
        for row in rows:
            row["run"] = name
            if row.get("lambda_cost") is not None:
                # A run of one head names it by its file alone, a run of several by their paths.
                own = heads.get(row.get("checkpoint")) if len(heads) > 1 else heads
                identity = json.dumps(own or summary.get("config_hash"), sort_keys=True)
                said = row.get("checkpoint") if len(heads) > 1 else None
                owners.setdefault(row["dataset"], {}).setdefault(identity, said or name)
                learned.append((row, identity))
        read += rows
    for row, identity in learned:
        titles = owners[row["dataset"]]
        if len(titles) > 1 and row.get("checkpoint") != titles[identity]:
            row["checkpoint"] = titles[identity]
            row["row"] += f" ({titles[identity]})"
    return read


def distinct_names(rows: Sequence[dict[str, Any]]) -> None:
    """A row that is called as another of its data set gets the name of its run."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row["dataset"], row.get("row", "")) in seen:
            row["row"] = f"{row['row']} ({row['run']})"
        seen.add((row["dataset"], row.get("row", "")))


def data_of(sources: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Data set -> its facts; where runs have other questions under one name, an entry per run, and a warning."""
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for source, run in zip(sources, names, strict=True):
        for name, about in source["data"].items():
            found.setdefault(name, {}).setdefault(about["hash"], (run, about))
    data: dict[str, Any] = {}
    warnings = []
    for name, versions in found.items():
        if len(versions) == 1:
            data[name] = next(iter(versions.values()))[1]
            continue
        data |= {f"{name} ({run})": about for run, about in versions.values()}
        facts = "; ".join(
            f"{run}: {plural(about['samples'], 'question')}, {about['hash']}" for run, about in versions.values()
        )
        warnings.append(
            f"the runs have different questions under the name {name} ({facts}): their rows cannot be compared; "
            "evaluate with the same data and --max_samples"
        )
    return data, warnings


def merge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row that stands in several runs is kept once, with the latency that one of them has measured."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        # JSON, since a cell may be a list.
        identity = tuple(json.dumps(row.get(key)) for key in row if key not in (*MEASURED, "run"))
        known = found.setdefault(identity, row)
        known.update({key: row[key] for key in MEASURED if row.get(key) is not None})
    return list(found.values())


def summary_of(run: Path) -> dict[str, Any]:
    """The `summary.json` of a run, or beside a CSV; empty where there is none."""
    try:
        return json.loads(((run if run.is_dir() else run.parent) / "summary.json").read_text())
    except (OSError, ValueError):
        return {}


def source_of(run: Path) -> dict[str, Any]:
    """What the `summary.json` of a run (or beside a CSV) says of its configuration and data; nothing where there is
    none."""
    summary = summary_of(run)
    return {
        "run": str(run),
        "config_hash": summary.get("config_hash"),
        "seed": summary.get("seed"),
        "data": summary.get("data", {}),
    }
