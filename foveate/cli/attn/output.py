"""What the verbs of `foveate attn` share: other names of flags, tables, and what became of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.studies.attention.pipeline import Outcome
    from foveate.util.progress import Reporter

POLICY = {"checkpoint": "policy", "pretrained_checkpoint": "policy", "denoising_steps": "num_steps"}
"""Other names of the options for a policy."""


def print_table(screen: Reporter, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    screen.show(table)


def print_outcomes(screen: Reporter, outcomes: Sequence[Outcome], out: Path, video_out: Path | None = None) -> int:
    """A table of what became of the episodes, and the reasons; the exit status."""
    counts = [(s, sum(outcome.status == s for outcome in outcomes)) for s in ("done", "skipped", "failed")]
    print_table(screen, "", ("episodes", "number"), counts)
    for outcome in outcomes:
        if outcome.status == "failed":
            screen.fail("failed", outcome.error)
    screen.line(f"results: {out}")
    if video_out:
        screen.line(f"videos:  {video_out}")
    return int(any(outcome.status == "failed" for outcome in outcomes))
