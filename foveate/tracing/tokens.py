"""The token log of a run: a line per inference, its statistics, and what the dumps of the run hold.

    log = write_token_log("runs/try")          # report/tokens.jsonl, report/tokens_summary.json
    write_capabilities("runs/try")             # report/capabilities.json

Needs the dumps alone. A dump that cannot be read is named in the files, skipped and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.tracing.lightvla import adopt, coverage
from foveate.tracing.record import Record, to_record
from foveate.tracing.schema import SCHEMA_VERSION, capabilities, validate
from foveate.tracing.store import dump_paths, iter_dumps, named
from foveate.tracing.summary import summarize, summarize_capabilities, summarize_fields
from foveate.types import STAGES
from foveate.util.files import json_lines, write_json, write_text

IDENTITY = ("sample_id", "dump", "task_suite", "task", "task_id", "episode", "step", "query", "variant", "seed")
CAPABILITIES_FILE = "report/capabilities.json"
TIMES = (*STAGES[:3], "kv_cache", *STAGES[3:])

Diagnose = Callable[[Sequence[Record]], list[str]]
"""What looks wrong in the keep sets of a run, as sentences."""


@dataclass
class TokenLog:
    """What `write_token_log` wrote."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    """One sentence per dump that was skipped."""


def token_row(record: Record, previous: np.ndarray | None = None) -> dict[str, Any]:
    """One line of `tokens.jsonl`; a number that the dump does not tell is absent.

    Args:
        previous: keep mask of the inference before it in the same episode.
    """
    row: dict[str, Any] = {"sample_id": record.name, "dump": str(record.path.relative_to(record.run_dir))}
    row |= {key: record.meta[key] for key in IDENTITY[2:] if key in record.meta}
    row |= record.seq_lens
    if {"pre_seq_len", "post_seq_len"} <= row.keys():
        row["delta_seq_len"] = row["pre_seq_len"] - row["post_seq_len"]
    row["num_patches"] = record.num_patches
    if record.keep_mask is not None:
        kept = int(record.keep_mask.sum())
        row |= {"num_kept": kept, "kept_ratio": kept / max(1, record.num_patches), "kept": record.kept_per_view()}
        if previous is not None and previous.shape == record.keep_mask.shape:
            union = int((previous | record.keep_mask).sum())
            row["keep_iou"] = int((previous & record.keep_mask).sum()) / union if union else 1.0
    for name, label in (("max_per_query", "score_max"), ("entropy_per_query", "entropy")):
        if record.stats.get(name) is not None and record.stats[name].size:
            row |= {f"{label}_mean": float(record.stats[name].mean()), f"{label}_std": float(record.stats[name].std())}
    if record.latency_s is not None:
        row["forward_latency_s"] = float(record.latency_s)
    row |= {f"{stage}_ms": record.stages_ms[stage] for stage in TIMES if stage in record.stages_ms}
    return row


def write_token_log(run_dir: str | Path, diagnose: Diagnose | None = None) -> TokenLog:
    """Write `report/tokens.jsonl` and `report/tokens_summary.json`.

    Args:
        diagnose: gets the scored inferences in order of time; its sentences become `warnings` of the summary.
    Raises:
        FoveateError: there is no dump in the folder, none can be read, or the report folder cannot be written.
    """
    run_dir = check_run(run_dir)
    log = TokenLog()
    problems: Counter[str] = Counter()
    scored: list[Record] = []
    before: Record | None = None
    for dump, record in _checked(run_dir):
        if isinstance(record, FoveateError):
            log.unreadable.append(str(record))
            continue
        problems.update(validate(adopt(dump)))
        log.rows.append(token_row(record, before.keep_mask if before and _follows(record, before) else None))
        before = record
        comparable = not scored or [v.part for v in record.views] == [v.part for v in scored[0].views]
        if record.scores is not None and record.keep_mask is not None and comparable:
            scored.append(record)
    none_readable(run_dir, len(log.rows), log.unreadable)
    log.summary = {
        "schema_version": SCHEMA_VERSION,
        "run": run_dir.name,
        **summarize(log.rows, IDENTITY),
        "unreadable": log.unreadable,
        "schema_problems": dict(problems.most_common(20)),
        "warnings": diagnose(scored) if diagnose and scored else [],
    }
    write_text(run_dir / "report" / "tokens.jsonl", json_lines(log.rows))
    write_json(run_dir / "report" / "tokens_summary.json", log.summary, indent=2)
    return log


def write_capabilities(run_dir: str | Path) -> dict[str, Any]:
    """Write `report/capabilities.json`: how many dumps hold which kind of evidence, and what becomes of each field.

    Under `extra` stays what LightVLA's `run_report.py` wrote there.


    Raises:
        FoveateError: as `write_token_log`.
    """
    run_dir = check_run(run_dir)
    good = [(dump, record) for dump, record in _checked(run_dir) if not isinstance(record, FoveateError)]
    layers = [list(record.attn) for _, record in good]
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": run_dir.name,
        "dumps": len(good),
        "unreadable": len(dump_paths(run_dir)) - len(good),
        "views": sorted({view.name for _, record in good for view in record.views}),
        **summarize_capabilities([capabilities(adopt(dump)) for dump, _ in good], layers),
        "fields": summarize_fields([coverage(dump) for dump, _ in good]),
    }
    if extra := _extra(run_dir / CAPABILITIES_FILE):
        content["extra"] = extra
    write_json(run_dir / CAPABILITIES_FILE, content, indent=2)
    return content


def _extra(path: Path) -> dict[str, Any]:
    """What LightVLA's scripts wrote beside the capabilities: settings, and the success rate, which is nowhere else."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    extra = there.get("extra") if isinstance(there, dict) else None
    return extra if isinstance(extra, dict) else {}


def _follows(record: Record, before: Record) -> bool:
    """Whether no inference of the episode lies between the two, as far as their numbers tell."""
    number, last = record.meta.get("query"), before.meta.get("query")
    return record.episode == before.episode and (number is None or last is None or number == last + 1)


def _checked(run_dir: Path) -> Iterator[tuple[dict[str, Any], Record | FoveateError]]:
    """Each dump, and the record of it or what is wrong with it."""
    for path, dump in iter_dumps(run_dir):
        try:
            if isinstance(dump, FoveateError):
                raise dump
            yield dump, to_record(dump, path, run_dir)
        except Exception as error:
            yield {}, named(path, error)


def none_readable(run_dir: Path, good: int, damaged: Sequence[str]) -> None:
    """Raises FoveateError where dumps are there and all of them are damaged."""
    if damaged and not good:
        raise FoveateError(
            f"{run_dir}: no dump of {len(damaged)} can be used; trace the run again. The first: {damaged[0]}"
        )


def check_run(run_dir: str | Path) -> Path:
    """Raises FoveateError where the folder holds no dump."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FoveateError(f"{run_dir}: no such run folder")
    if not dump_paths(run_dir):
        raise FoveateError(
            f"{run_dir}: expected dumps/taskXXX/epYYY/*.pt in the run folder, found none; trace a run with "
            "`foveate eval sim --trace_out_dir ...` or `foveate trace predict`"
        )
    return run_dir
