"""What `foveate attn episodes|render|video` share: options of pictures and videos, progress bar, end table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import FoveateError
from foveate.util.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.policy import LoadOptions, Policy
    from foveate.studies.attention.clips import Filming
    from foveate.studies.attention.episodes import Outcome
    from foveate.studies.attention.pictures import Drawing


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """How pictures look."""

    detail: bool = True
    """Draw every head, besides the most active one of each layer."""
    activity: str = "variance"
    """What makes a head the most active one: the variance or the entropy of its map."""
    colormap: str = "turbo"
    """Any of matplotlib's colour maps."""
    alpha: float = 0.5
    """Share of the colour in a picture; the rest is the camera's picture."""
    size: tuple[int, int] = (640, 480)
    """Width and height that a picture has at most."""
    smooth: bool = True
    """Interpolate between patch centres; no: one colour per patch."""
    names: bool = True
    """Write each view's name below it."""
    colorbar: bool = True
    """Draw the colour scale with its numbers."""
    quality: int = 85
    """Of the JPEGs, 1 to 95."""

    def drawing(self, layers: Sequence[int], heads: Sequence[int]) -> Drawing:
        from foveate.studies.attention.pictures import Drawing
        from foveate.viz.attention import Style

        style = Style(
            colormap=self.colormap,
            alpha=self.alpha,
            size=self.size,
            names=self.names,
            colorbar=self.colorbar,
            smooth=self.smooth,
        )
        return Drawing(tuple(layers), tuple(heads), self.detail, self.activity, style, self.quality)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """How keyframes become videos."""

    format: str = "webm"
    """webm (VP9), mp4 (H.264) or avi (MPEG-4)."""
    fps: float = 4.0
    """Keyframes per second of playback."""
    burn_in: bool = False
    """Write the frame's number and the instruction below every picture."""

    def filming(self) -> Filming:
        from foveate.studies.attention.clips import Filming

        return Filming(self.format, self.fps, self.burn_in)  # type: ignore[arg-type]  # it checks the format


class EpisodeBar(ProgressBar):
    """Tells how many episodes are done too, and how many failed so far."""

    def __init__(self, console: Console, unit: str, total: int, episodes: int, done: int = 0, doing: str = "") -> None:
        """
        Args:
            unit: what `total` counts.
            episodes, done: episodes of all runs so far, and how many of them were done before.
            doing: stands there until something moves.
        """
        super().__init__(console, unit, unit, total, facts=doing)
        self._episodes, self._over, self._failed = episodes, done, 0

    def ended(self, outcome: Outcome) -> None:
        self._over += outcome.status != "failed"
        self._failed += outcome.status == "failed"
        failed = f"  [red]{self._failed} failed[/]" if self._failed else ""
        self.advance(0, f"episodes {self._over}/{self._episodes}{failed}")


def report(console: Console, out: Path, outcomes: Sequence[Outcome], video_out: Path | None) -> int:
    """Table and JSON of what became of the episodes; the exit status."""
    from rich.table import Table

    out.mkdir(parents=True, exist_ok=True)
    (out / "episodes.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1, ensure_ascii=False) + "\n")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    table = Table("episodes", "number")
    for status in ("done", "skipped", "failed"):
        table.add_row(status, str(sum(outcome.status == status for outcome in outcomes)))
    console.print(table)
    for outcome in failed:
        console.print(f"[red]failed:[/] {outcome.error}", highlight=False, soft_wrap=True)
    console.print(f"results: {out}", soft_wrap=True, highlight=False)
    if video_out:
        console.print(f"videos:  {video_out}", soft_wrap=True, highlight=False)
    return int(bool(failed))


def threads_of(workers: str) -> int:
    if not workers.isdecimal() or int(workers) < 1:
        raise FoveateError(f"--workers: expected a number of at least 1, or ray, got {workers!r}")
    return int(workers)


def load_on_tree(config: LoadOptions) -> Policy:
    """The policy that looks at a DROID-format tree: a checkpoint that does not say whose it is counts as DROID's."""
    from foveate.models.registry import detect

    unsaid = config.robot is None and Path(config.policy).is_dir() and detect(config.policy)[1].robot is None
    return (replace(config, robot="droid") if unsaid else config).load()
