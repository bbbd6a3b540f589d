"""What a fit leaves in its folder: `fit.json`, `fit.md`, and where something is recommended `fit.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from foveate.pruning.fitted import write_fitted
from foveate.studies.fit.recommend import Recommendation
from foveate.studies.fit.table import Estimate, FitRow, Paired, Table
from foveate.util import markdown
from foveate.util.files import write_json, write_text
from foveate.util.words import percent, share

SCHEMA_VERSION = "foveate.fit/v1"
HEADINGS = ("", "method", "budget", "kept", "GFLOP", "critical", "of blind", "all", "covered", "seam", "overlap", "ms",
            "to random", "to stride")  # fmt: skip
STAGES = ("vision", "prune", "prefill", "denoise")
AS_WRITTEN = " (as written)"


def cells(row: FitRow, rank: int | None) -> list[str]:
    """A row for people; errors in the policy's normalised units, with 95 % intervals."""
    of, ms = row.columns, row.ms
    return [
        "" if rank is None else str(rank),
        "unpruned" if rank is None else row.method,
        "-" if row.budget is None else share(row.budget),
        f"{row.kept:.1f}",
        f"{row.gflops:.3g}",
        _with_interval(of.get("critical")),
        "-" if rank is None else percent(row.of_blind),
        *(_mean(of.get(name)) for name in ("all", "covered_excess", "seam", "overlap")),
        "-" if ms is None else f"{ms.total:.1f}",
        *(_difference(row.against.get(bar)) for bar in ("random", "stride")),
    ]


def table_rows(table: Table) -> list[list[str]]:
    """The cells of all rows, the unpruned policy first."""
    return [cells(table.unpruned, None), *(cells(row, rank) for rank, row in enumerate(table.rows, 1))]


def scale_of(table: Table) -> str:
    """What errors on critical frames are to be read against, in a sentence."""
    drawn = f", of the unpruned one from other noise {_mean(table.noise['critical'])}" if table.noise else ""
    return f"critical error of the blind policy {_mean(table.blind['critical'])}{drawn}"


def stage_rows(table: Table) -> list[list[str]]:
    """Milliseconds by stage of all variants that were timed: label, marked where it ran as written, stages, total."""
    timed = [(row.label, row.ms) for row in (table.unpruned, *table.rows) if row.ms is not None]
    return [
        [
            label + AS_WRITTEN * ms.as_written,
            *(f"{ms.stages[stage]:.2f}" if stage in ms.stages else "-" for stage in STAGES),
            f"{ms.total:.2f}",
        ]
        for label, ms in timed
    ]


def write_fit(
    folder: Path, table: Table, verdict: Recommendation, checkpoint: str, facts: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write the files, each replaced at once; a recommendation of an earlier call that no longer holds is removed.

    Args:
        checkpoint: SHA-256 of its files.
        facts: `policy`, and what else says where it came from.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": checkpoint,
        "recommended": None if verdict.row is None else verdict.row.label,
        "verdict": list(verdict.lines),
        "episodes": table.episodes,
        "frames": table.frames,
        "critical_frames": table.critical,
        "unpruned": table.unpruned.document(),
        "blind": {name: vars(value) for name, value in table.blind.items()},
        "noise": {name: vars(value) for name, value in table.noise.items()},
        "rows": [row.document() for row in table.rows],
        **facts,
    }
    write_json(folder / "fit.json", document)
    write_text(folder / "fit.md", _markdown(table, verdict))
    chosen = folder / "fit.yaml"
    if verdict.row is None:
        chosen.unlink(missing_ok=True)
        return folder / "fit.json", folder / "fit.md"
    row = verdict.row
    write_fitted(
        chosen,
        {"name": row.method, "keep_ratio": row.budget},
        checkpoint,
        str(facts["policy"]),
        {"critical_error": row.columns["critical"].mean, "of_blind": row.of_blind, "frames": table.frames},
    )
    return folder / "fit.json", folder / "fit.md", chosen


def _markdown(table: Table, verdict: Recommendation) -> str:
    parts = [
        "".join(f"{line}.\n" for line in verdict.lines),
        markdown.table(HEADINGS, table_rows(table)) + f"\n\n{scale_of(table)}.\n",
        markdown.table(("ms by stage", *STAGES, "total"), stage_rows(table)) + "\n",
    ]
    return "\n".join(parts)


def _with_interval(value: Estimate | None) -> str:
    if value is None or not value.frames:
        return "-"
    # One episode has no interval over episodes.
    return f"{value.mean:.4f}" + (f" ({value.low:.4f} to {value.high:.4f})" if isfinite(value.low) else "")


def _mean(value: Estimate | None) -> str:
    return "-" if value is None or not value.frames else f"{value.mean:.3f}"


def _difference(value: Paired | None) -> str:
    if value is None or not value.difference.frames:
        return "-"
    return f"{value.difference.mean:+.4f}" + ("*" if value.p_holm < 0.05 else "")
