"""What a report is made of, read from run folders: results, episodes, a row per inference, warnings.

Every file may be absent; a damaged one is named among the warnings and passed over.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.tracing.store import dump_paths
from foveate.tracing.summary import flatten
from foveate.tracing.tokens import write_token_log
from foveate.util.files import CannotWrite
from foveate.util.stats import bootstrap_mean, paired_difference, wilson
from foveate.util.words import plural
from foveate.viz.plots import spread

Row = dict[str, Any]
Episode = tuple[str, str, int]
"""Column, task, episode."""


TEXTS = ("variant", "task", "status", "dump", "instruction")
"""Fields of rows that are texts; of the others numbers alone are taken."""


@dataclass
class RunData:
    """One run folder. Each row has a `column`: its place on the page, a variant of this folder."""

    folder: Path
    results: list[Row] = field(default_factory=list)
    """Per variant and task: `episodes successes crashes success_rate ci_low ci_high kept_mean patches ms_p50 ms_p95`,
    from results.csv; without one from the episodes, or from the dumps alone, where `successes` is None."""
    episodes: list[Row] = field(default_factory=list)
    inferences: list[Row] = field(default_factory=list)
    """All that the run logged, those with a `dump` traced; of a folder without queries.jsonl those in the dumps."""
    summary: Row = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [*self.results, *self.episodes, *self.inferences]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(row["column"] for row in self.rows))


def load_runs(folders: Sequence[Path]) -> list[RunData]:
    """Read run folders, each once; where several have a variant of one name, its columns carry the folders' names."""
    runs = [load_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    having = Counter(variant for run in runs for variant in {row["variant"] for row in run.rows})
    for run, name in zip(runs, _distinct([run.folder.resolve() for run in runs]), strict=True):
        for row in run.rows:
            row["column"] = row["variant"] if having[row["variant"]] == 1 else f"{row['variant']} ({name})"
    return runs


def load_run(folder: Path) -> RunData:
    """Read a run folder; a traced one without a token log gets one."""
    run = RunData(folder)
    if dump_paths(folder) and not (folder / "report/tokens.jsonl").exists():
        try:
            write_token_log(folder)
        except CannotWrite:
            raise
        except FoveateError as error:
            run.warnings.append(str(error))
    run.episodes = read_rows(folder / "episodes.jsonl", ("task", "episode", "status"), run.warnings)
    traced = read_rows(folder / "report/tokens.jsonl", ("task", "episode", "step"), run.warnings)
    logged = read_rows(folder / "queries.jsonl", ("task", "episode", "step"), run.warnings)
    for row in (*run.episodes, *traced, *logged):
        row["variant"] = str(row.get("variant") or folder.name)
    run.inferences = _merge([_as_tokens(row) for row in logged], traced, run.warnings)
    run.results = _results(folder / "results.csv", run.warnings) or _from_rows(run.episodes, run.inferences)
    run.summary = _json(folder / "summary.json", run.warnings)
    tokens = _json(folder / "report/tokens_summary.json", run.warnings)
    run.warnings += _texts(run.summary.get("warnings"))
    run.warnings += [w for w in _texts(tokens.get("warnings")) if w not in run.warnings]
    run.warnings += [f"crashed: {reason}" for reason in _texts(run.summary.get("crash_reasons"))[:5]]
    if unreadable := _texts(tokens.get("unreadable")):
        run.warnings.append(f"passed over {plural(len(unreadable), 'damaged dump')}, the first: {unreadable[0]}")
    problems = tokens.get("schema_problems")
    for problem, count in (problems if isinstance(problems, dict) else {}).items():
        run.warnings.append(f"not as the trace schema says: {problem} ({plural(count, 'dump')})")
    for row in run.rows:
        row["variant"] = row["column"] = str(row.get("variant") or folder.name)
    return run


def outcomes(runs: Iterable[RunData]) -> dict[Episode, str]:
    """Episode -> success, failure or crash."""
    return {key(e): e["status"] for run in runs for e in run.episodes}


def key(row: Row) -> Episode:
    return row["column"], row["task"], row["episode"]


@dataclass(frozen=True)
class Paired:
    """What one column did in the scenes that another one played too."""

    column: str
    base: str
    scenes: int
    """Task and seed both."""
    successes: tuple[int, int]
    """Of the column and of the base."""
    success: tuple[float, float, float]
    """Difference of the success rates and its interval."""
    kept: tuple[float, float, float] | None
    """Difference of the visual tokens kept per inference."""
    ms: tuple[float, float, float] | None
    """Difference of the milliseconds per inference."""


def paired(runs: Iterable[RunData]) -> list[Paired]:
    """Each column against the first one, in the scenes that both have played; a crash is no success."""
    scenes: dict[str, dict[tuple[str, Any], Row]] = defaultdict(dict)
    for run in runs:
        for row in run.episodes:
            if row.get("seed") is not None:
                scenes[row["column"]][row["task"], row["seed"]] = row
    found = []
    base = next(iter(scenes), "")
    for column, mine in list(scenes.items())[1:]:
        both = [(row, scenes[base][scene]) for scene, row in mine.items() if scene in scenes[base]]
        if not both:
            continue
        a, b = ([row["status"] == "success" for row in side] for side in zip(*both, strict=True))
        low, high = paired_difference(a, b)
        found.append(
            Paired(
                column,
                base,
                scenes=len(both),
                successes=(sum(a), sum(b)),
                success=((sum(a) - sum(b)) / len(both), low, high),
                kept=_difference(both, "kept_mean"),
                ms=_difference(both, "latency_ms_p50"),
            )
        )
    return found


def _difference(both: Sequence[tuple[Row, Row]], name: str) -> tuple[float, float, float] | None:
    """Mean over scenes, with the interval of a bootstrap that draws scenes."""
    values = [a[name] - b[name] for a, b in both if a.get(name) is not None and b.get(name) is not None]
    if not values:
        return None
    low, high = bootstrap_mean(values)
    return float(np.mean(values)), float(low), float(high)


def choose(runs: list[RunData], limit: int = 50, episodes: int = 10) -> dict[Episode, list[tuple[RunData, Row]]]:
    """Inferences for the gallery: at most `limit`, over columns, outcomes and tasks, and evenly over time.

    Episodes are taken in turn from each (column, outcome), a task not seen yet first; they come in the order of tasks.
    """
    status = outcomes(runs)
    by_episode: dict[Episode, list[tuple[RunData, Row]]] = defaultdict(list)
    for run in runs:
        for row in run.inferences:
            if "dump" in row:
                by_episode[key(row)].append((run, row))
    groups: dict[tuple[str, str], list[Episode]] = defaultdict(list)
    for episode in by_episode:
        groups[episode[0], status.get(episode, "")].append(episode)
    chosen: list[Episode] = []
    while len(chosen) < min(episodes, len(by_episode), limit):
        for (column, _), waiting in groups.items():
            if waiting and len(chosen) < min(episodes, limit):
                seen = {task for c, task, _ in chosen if c == column}
                chosen.append(waiting.pop(next((i for i, e in enumerate(waiting) if e[1] not in seen), 0)))
    each = max(1, limit // max(1, len(chosen)))
    order = {column: i for i, column in enumerate(dict.fromkeys(c for run in runs for c in run.columns))}
    tasks = {task: i for i, task in enumerate(dict.fromkeys(task_order(runs)))}
    chosen.sort(key=lambda e: (tasks[e[1]], e[2], order[e[0]]))
    return {episode: spread(by_episode[episode], each) for episode in chosen}


def task_order(runs: Sequence[RunData]) -> list[str]:
    """Tasks as the suite has them, the first one first."""
    rows = [row for run in runs for row in (*run.results, *run.inferences)]
    return list(dict.fromkeys(str(row["task"]) for row in rows))


def percentile(rows: Iterable[Row], name: str, q: float) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.percentile(values, q)) if values else None


def mean(rows: Iterable[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _as_tokens(row: Row) -> Row:
    renamed = {"num_kept": row.get("kept"), "num_patches": row.get("patches")}
    return {**{k: v for k, v in row.items() if k not in ("kept", "patches")}, **renamed}


def _merge(logged: list[Row], traced: list[Row], warnings: list[str]) -> list[Row]:
    """What was logged, with what the dumps add to it; the dumps alone where nothing was logged."""
    for row in traced:
        if row.get("total_ms") is None and row.get("forward_latency_s") is not None:
            row["total_ms"] = 1e3 * row["forward_latency_s"]
    if not logged:
        return traced
    dumps = {(row["variant"], row["task"], row["episode"], row["step"]): row for row in traced}
    merged = []
    for row in logged:
        dump = dumps.pop((row["variant"], row["task"], row["episode"], row["step"]), None)
        for name in ("dump", "keep_iou"):
            if dump and name in dump:
                row[name] = dump[name]
        merged.append(row)
    if dumps:
        warnings.append(f"left out {plural(len(dumps), 'dump')} of inferences that queries.jsonl does not have")
    return merged


def _from_rows(episodes: list[Row], inferences: list[Row]) -> list[Row]:
    """Results of a folder without results.csv."""
    groups = dict.fromkeys((row["variant"], row["task"]) for row in (*inferences, *episodes))
    results = []
    for group in groups:
        played = [e for e in episodes if (e["variant"], e["task"]) == group]
        seen = [q for q in inferences if (q["variant"], q["task"]) == group]
        row: Row = {"variant": group[0], "task": group[1], "crashes": None, "successes": None, "success_rate": None}
        row |= {"episodes": len({q["episode"] for q in seen}), "ci_low": None, "ci_high": None}
        if played:
            statuses = [e["status"] for e in played]
            row |= {"episodes": len(played), "successes": statuses.count("success"), "crashes": statuses.count("crash")}
            row["success_rate"] = row["successes"] / len(played)
            row["ci_low"], row["ci_high"] = wilson(row["successes"], len(played))
        row |= {"kept_mean": mean(seen, "num_kept"), "patches": mean(seen, "num_patches")}
        row |= {"ms_p50": percentile(seen, "total_ms", 50), "ms_p95": percentile(seen, "total_ms", 95)}
        results.append(row)
    return results


def _distinct(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for count in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names if folders else []


NUMBERS = ("successes", "crashes", "success_rate", "ci_low", "ci_high", "kept_mean", "patches", "ms_p50", "ms_p95")


def _results(path: Path, warnings: list[str]) -> list[Row]:
    """Rows of results.csv: numbers as floats, None where a cell is empty."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return []
    rows = []
    for line, cell in enumerate(cells, 2):
        try:
            row: Row = {name: float(cell[name]) if cell.get(name) else None for name in NUMBERS}
            row |= {"variant": cell.get("variant"), "task": cell["task"], "episodes": int(float(cell["episodes"]))}
            if not row["task"] or row["successes"] is None or not 0 <= row["successes"] <= row["episodes"]:
                raise ValueError
        except (ValueError, TypeError, KeyError, OverflowError):
            warnings.append(f"{path.name}, line {line}: expected a task with its episodes and successes; passed over")
            continue
        if row["success_rate"] is None:
            row["success_rate"] = row["successes"] / row["episodes"] if row["episodes"] else 0.0
        if row["ci_low"] is None or row["ci_high"] is None:
            row["ci_low"], row["ci_high"] = wilson(int(row["successes"]), row["episodes"])
        rows.append(row)
    return rows


def read_rows(path: Path, needed: Sequence[str], warnings: list[str], *, growing: bool = False) -> list[Row]:
    """Rows of JSON lines that have these fields, texts where a text is due and finite numbers everywhere else.

    Nested fields have dotted names.

    Args:
        growing: a last line without its end is being written: it is none yet, and no damage.
    """
    if not path.exists():
        return []
    rows, damaged, lacking = [], 0, 0
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines(keepends=True):
        try:
            said = flatten(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            damaged += not growing or line.endswith("\n")
            continue
        row = {name: value for name, value in said.items() if _fits(name, value)}
        if all(name in row for name in needed):
            rows.append(row)
        else:
            lacking += 1
    if damaged:
        warnings.append(f"{path.name}: passed over {plural(damaged, 'line')}, not JSON")
    if lacking:
        warnings.append(f"{path.name}: passed over {plural(lacking, 'line')} without {', '.join(needed)}")
    return rows


def _fits(name: str, value: Any) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e18


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


def _json(path: Path, warnings: list[str]) -> Row:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return {}
