"""What a report is made of, read from run folders: results, episodes, a row per inference, warnings.

Every file may be absent; a damaged one is named among the warnings and passed over.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.tracing.store import dump_paths
from foveate.tracing.tokens import write_token_log
from foveate.viz.plots import spread

Row = dict[str, Any]
Episode = tuple[str, str, int]
"""Variant, task, episode."""


@dataclass
class RunData:
    """One run folder."""

    folder: Path
    results: list[Row] = field(default_factory=list)
    """Rows of results.csv, numbers as floats, None where a cell is empty."""
    episodes: list[Row] = field(default_factory=list)
    inferences: list[Row] = field(default_factory=list)
    """Rows of tokens.jsonl, or of queries.jsonl in the same words where the run was not traced."""
    summary: Row = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def variants(self) -> list[str]:
        rows = [*self.results, *self.episodes, *self.inferences]
        return list(dict.fromkeys(str(row.get("variant") or self.folder.name) for row in rows))


def load_run(folder: Path) -> RunData:
    """Read a run folder; a traced one without a token log gets one."""
    run = RunData(folder)
    if dump_paths(folder) and not (folder / "report/tokens.jsonl").exists():
        write_token_log(folder)
    run.results = [{k: _number(v) for k, v in row.items()} for row in _csv(folder / "results.csv", run.warnings)]
    run.episodes = _lines(folder / "episodes.jsonl", run.warnings)
    run.inferences = _lines(folder / "report/tokens.jsonl", run.warnings)
    if not run.inferences:
        run.inferences = [_as_tokens(row) for row in _lines(folder / "queries.jsonl", run.warnings)]
    run.summary = _json(folder / "summary.json", run.warnings)
    tokens = _json(folder / "report/tokens_summary.json", run.warnings)
    run.warnings += [str(w) for w in run.summary.get("warnings", [])]
    run.warnings += [w for w in tokens.get("warnings", []) if w not in run.warnings]
    crashes = run.summary.get("crash_reasons", [])
    run.warnings += [f"crashed: {reason}" for reason in crashes[:5]]
    unreadable = tokens.get("unreadable", [])
    if unreadable:
        run.warnings.append(f"{len(unreadable)} damaged dumps were passed over, the first: {unreadable[0]}")
    for row in (*run.results, *run.episodes, *run.inferences):
        row["variant"] = str(row.get("variant") or folder.name)
    return run


def outcomes(runs: Iterable[RunData]) -> dict[Episode, str]:
    """Episode -> success, failure or crash."""
    return {(e["variant"], e["task"], e["episode"]): e["status"] for run in runs for e in run.episodes}


def key(row: Row) -> Episode:
    return row["variant"], row["task"], row["episode"]


def choose(runs: list[RunData], limit: int = 50, episodes: int = 10) -> dict[Episode, list[tuple[RunData, Row]]]:
    """Inferences for the gallery: at most `limit`, over variants, outcomes and tasks, and evenly over time.

    Episodes are taken in turn from each (variant, outcome), a task not seen yet first.
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
        for (variant, _), waiting in groups.items():
            if waiting and len(chosen) < min(episodes, limit):
                seen = {task for v, task, _ in chosen if v == variant}
                chosen.append(waiting.pop(next((i for i, e in enumerate(waiting) if e[1] not in seen), 0)))
    each = max(1, limit // max(1, len(chosen)))
    order = {variant: i for i, variant in enumerate(dict.fromkeys(v for run in runs for v in run.variants))}
    chosen.sort(key=lambda e: (e[1], e[2], order.get(e[0], 0)))
    return {episode: spread(by_episode[episode], each) for episode in chosen}


def percentile(rows: Iterable[Row], name: str, q: float) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.percentile(values, q)) if values else None


def _as_tokens(row: Row) -> Row:
    renamed = {"num_kept": row.get("kept"), "num_patches": row.get("patches")}
    return {**{k: v for k, v in row.items() if k not in ("kept", "patches")}, **renamed}


def _number(text: str | None) -> Any:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _csv(path: Path, warnings: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return []
    return [{**row, "variant": row.get("variant"), "task": row.get("task")} for row in rows]


def _lines(path: Path, warnings: list[str]) -> list[Row]:
    if not path.exists():
        return []
    rows, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            damaged += 1
    if damaged:
        warnings.append(f"{path.name}: {damaged} lines are no JSON and were passed over")
    return rows


def _json(path: Path, warnings: list[str]) -> Row:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return {}
