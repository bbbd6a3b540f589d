"""What a run leaves behind: `episodes.jsonl`, `queries.jsonl`, `results.csv`, `summary.json`.

Knows nothing of policies or simulators: it turns finished episodes into files and files into numbers.
The schema of each file is in docs/results-schema.md.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.types import LEVELS, STAGES, EpisodeResult
from foveate.util.files import JsonLines, write_text
from foveate.util.stats import bootstrap_mean, wilson

SCHEMA_VERSION = "foveate.results/v1"
CSV_COLUMNS = (
    "variant", "task", "episodes", "successes", "failures", "crashes", "success_rate", "ci_low", "ci_high", "kept_mean",
    "patches", "ms_p50", "ms_p95", "vision_ms_p50", "prune_ms_p50", "prefill_ms_p50", "kv_cache_ms_p50",
    "denoise_ms_p50", "gflops",
)  # fmt: skip


class RunLog:
    """The episodes of one run and their inferences, resumable.

    An episode's inferences are written before the episode itself, so that a line in `episodes.jsonl`
    means that the episode is complete; inferences without their episode are dropped on opening, and so is what is there
    twice (two runs that did not know of each other), which `warnings` names.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FoveateError(
                f"{folder}: cannot write there ({error.strerror}); choose a writable folder with --out or "
                "--trace_out_dir"
            ) from error
        self.folder = folder
        self._episodes = JsonLines(folder / "episodes.jsonl", _key)
        self._queries = JsonLines(folder / "queries.jsonl", lambda row: (*_key(row), row["query"]))
        self.warnings: list[str] = []
        if twice := self._episodes.dropped:
            named = ", ".join(f"{row['task']} episode {row['episode']}" for row in twice)
            self.warnings.append(f"episodes.jsonl: written twice, the first counts: {named}")
        known = {_key(row) for row in self._episodes.rows}
        complete = [row for row in self._queries.rows if _key(row) in known]
        if len(complete) < len(self._queries.rows):
            self._queries.replace(complete)

    @property
    def episodes(self) -> list[EpisodeResult]:
        return [EpisodeResult(**row) for row in self._episodes.rows]

    @property
    def queries(self) -> list[dict[str, Any]]:
        return self._queries.rows

    @property
    def done(self) -> set[tuple[str, str, int]]:
        """(variant, task, episode) of all that has ended."""
        return {_key(row) for row in self._episodes.rows}

    def add(self, episode: EpisodeResult, queries: list[dict[str, Any]]) -> None:
        self._queries.append(queries)
        self._episodes.append([dataclasses.asdict(episode)])

    def close(self) -> None:
        self._episodes.close()
        self._queries.close()


def aggregate(episodes: Sequence[EpisodeResult], queries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of a group of episodes; a rate counts crashes among its trials, so that none is hidden.

    Args:
        queries: the inferences of these episodes, as in `queries.jsonl`.
    """
    statuses = [e.status for e in episodes]
    successes = statuses.count("success")
    low, high = wilson(successes, len(episodes))
    kept = [q["kept"] for q in queries if q.get("kept") is not None]
    patches = [q["patches"] for q in queries if q.get("patches") is not None]
    # Inferences of one episode resemble each other: the interval resamples whole episodes.
    kept_per_episode = [e.kept_mean for e in episodes if e.kept_mean is not None]
    flops = [q["gflops"] for q in queries if q.get("gflops") is not None]
    latency = {stage: _percentiles([q[f"{stage}_ms"] for q in queries if f"{stage}_ms" in q]) for stage in STAGES}
    latency["kv_cache"] = latency["prefill"]
    return {
        "episodes": len(episodes),
        "successes": successes,
        "failures": statuses.count("failure"),
        "crashes": statuses.count("crash"),
        "success_rate": successes / len(episodes) if episodes else None,
        "ci95": [low, high],
        "inferences": len(queries),
        "steps_mean": _mean([e.steps for e in episodes]),
        "kept": {
            "mean": _mean(kept),
            "ci95": _interval(kept_per_episode),
            "min": min(kept, default=None),
            "max": max(kept, default=None),
            "patches": _mean(patches),
            "ratio": _mean(kept) / _mean(patches) if kept and patches else None,
        },
        "latency_ms": latency,
        "batch_mean": _mean([q["batch"] for q in queries if "batch" in q]),
        "gflops": _mean(flops),
        "prefix_reused": _mean([q["prefix_reused"] for q in queries if "prefix_reused" in q]),
        "looks": _shares([level for q in queries for name, level in q.items() if name.startswith("look_")]),
    }


def _shares(levels: Sequence[str]) -> dict[str, float] | None:
    """How often each level was chosen, over views and inferences; None where nothing chose."""
    return {level: levels.count(level) / len(levels) for level in LEVELS} if levels else None


def write_results(log: RunLog, *, provenance: Mapping[str, Any], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Write `results.csv` and `summary.json` beside the log, each replaced at once; returns the summary."""
    episodes, queries = log.episodes, log.queries
    # In the order of the suite, not of who came first.
    in_order = sorted(episodes, key=lambda e: (e.variant, e.extra.get("task_id", 0)))
    groups = list(dict.fromkeys((e.variant, e.task) for e in in_order))
    rows, tasks = [], []
    for variant, task in groups:
        group = aggregate(
            [e for e in episodes if (e.variant, e.task) == (variant, task)],
            [q for q in queries if (q["variant"], q["task"]) == (variant, task)],
        )
        tasks.append({"variant": variant, "task": task, **group})
        rows.append(_csv_row(variant, task, group))
    crashes = [f"{e.task} episode {e.episode}: {e.error}" for e in episodes if e.status == "crash"]
    summary = {
        "schema_version": SCHEMA_VERSION,
        "variants": list(dict.fromkeys(e.variant for e in episodes)),
        "total": aggregate(episodes, queries),
        "tasks": tasks,
        "crash_reasons": crashes,
        "warnings": list(warnings),
        **provenance,
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(log.folder / "results.csv", table.getvalue())
    write_text(log.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def _csv_row(variant: str, task: str, group: Mapping[str, Any]) -> dict[str, Any]:
    latency = group["latency_ms"]
    row = {
        "variant": variant,
        "task": task,
        **{name: group[name] for name in ("episodes", "successes", "failures", "crashes", "success_rate", "gflops")},
        "ci_low": group["ci95"][0],
        "ci_high": group["ci95"][1],
        "kept_mean": group["kept"]["mean"],
        "patches": group["kept"]["patches"],
        "ms_p50": latency["total"]["p50"],
        "ms_p95": latency["total"]["p95"],
        **{f"{stage}_ms_p50": times["p50"] for stage, times in latency.items() if stage != "total"},
    }
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["variant"], row["task"], row["episode"]


def _mean(values: Sequence[float]) -> Any:
    return float(np.mean(values)) if len(values) else None


def _interval(values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:
        return [values[0], values[0]] if values else None
    low, high = bootstrap_mean(values)
    return [float(low), float(high)]


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None, "mean": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": float(p50), "p95": float(p95), "mean": float(np.mean(values))}
