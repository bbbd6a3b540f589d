"""`foveate trace plot|tokens|report`: what one can do with the evidence of a run.

They need a run folder and nothing else: no model, no GPU, no simulator. The folder is the bare word, or
`--run_root DIR`, `--exp_dir DIR`, or `--exp_name NAME` for `runs/NAME`. Exit status 3: done, but some dumps or
pictures were damaged; each was named and passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from foveate.errors import FoveateError
from foveate.util.progress import ProgressBar

DAMAGED = 3
"""Exit status where dumps were passed over."""


@dataclass(frozen=True)
class RunConfig:
    """Work on the dumps of one run folder."""

    run_root: str | None = None
    """Run folder, which holds dumps/; `--exp_dir` is the same."""
    exp_name: str | None = None
    """Name of the run: the folder runs/NAME, or NAME under --run_root."""

    @property
    def folder(self) -> Path:
        if self.run_root is None and self.exp_name is None:
            raise FoveateError("which run? Give its folder, --run_root DIR or --exp_name NAME (for runs/NAME)")
        root = Path(self.run_root or "runs")
        return root / self.exp_name if self.exp_name else root


@dataclass(frozen=True)
class PlotConfig(RunConfig):
    """Draw the overlays of a run: scores, kept patches and attention over the source pictures, under plots/."""

    limit: int | None = None
    """Draw only so many inferences, evenly over the run."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise FoveateError(f"--limit: expected at least 1, got {self.limit}")


@dataclass(frozen=True)
class TokensConfig(RunConfig):
    """Write report/tokens.jsonl, tokens_summary.json and capabilities.json of a run."""


@dataclass(frozen=True)
class ReportConfig(RunConfig):
    """Write one self-contained HTML file about a run, or about several side by side."""

    compare: tuple[str, ...] = ()
    """Further run folders, shown beside it."""
    out: str | None = None
    """Folder of the report; default: report/ in the run folder."""


def plot(argv: list[str]) -> int:
    """The verb: overlays of a run folder."""
    config, console = _parse(PlotConfig, argv, "plot"), Console()
    return exit_status(console, _plot(config.folder, config.limit, console))


def tokens(argv: list[str]) -> int:
    """The verb: token log and capabilities of a run folder."""
    config, console = _parse(TokensConfig, argv, "tokens"), Console()
    return exit_status(console, _tokens(config.folder, console))


def report(argv: list[str]) -> int:
    """The verb: HTML report over one or more run folders, with fresh token logs."""
    from foveate.tracing.store import dump_paths
    from foveate.viz.report.page import build_report

    config, console = _parse(ReportConfig, argv, "report"), Console()
    folders = [config.folder, *map(Path, config.compare)]
    damaged = [text for folder in folders if dump_paths(folder) for text in _tokens(folder, console)]
    path = build_report(folders, Path(config.out) if config.out else config.folder / "report")
    console.print(f"report: {path}", soft_wrap=True)
    return exit_status(console, damaged)


def write_evidence(folder: Path, console: Console, limit: int | None = None) -> list[str]:
    """Overlays, token log and capabilities of a traced run, as `foveate eval sim` ends; returns what was damaged.

    Args:
        limit: inferences to draw, evenly over the run; None: all.
    """
    return list(dict.fromkeys([*_plot(folder, limit, console), *_tokens(folder, console)]))


def _plot(folder: Path, limit: int | None, console: Console) -> list[str]:
    from foveate.tracing.store import dump_paths
    from foveate.tracing.tokens import check_run
    from foveate.viz.plots import plot_run, spread

    total = len(spread(dump_paths(check_run(folder)), limit))
    with ProgressBar(console, f"overlays of {folder.name}", "inferences", total) as bar:
        done = plot_run(folder, limit, bar.advance)
    console.print(
        f"overlays: {done.files} pictures, {done.inferences} inferences, in {folder / 'plots'}", soft_wrap=True
    )
    if done.left_out:
        console.print(f"          {done.left_out} inferences left out; `foveate trace plot {folder}` draws all")
    if done.without_pictures:
        console.print(f"[yellow]warning:[/] {done.without_pictures} inferences have no saved pictures to draw on")
    return done.unreadable


def _tokens(folder: Path, console: Console) -> list[str]:
    from foveate.evaluation.sim.collapse import diagnose
    from foveate.tracing.tokens import write_capabilities, write_token_log

    log = write_token_log(folder, diagnose)
    write_capabilities(folder)
    console.print(f"token log: {len(log.rows)} inferences in {folder / 'report/tokens.jsonl'}", soft_wrap=True)
    for warning in log.summary["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}")
    for problem, count in log.summary["schema_problems"].items():
        console.print(f"[yellow]schema:[/] {problem} ({count} dumps)", highlight=False)
    return log.unreadable


def _parse(config_cls: type[Any], argv: list[str], verb: str) -> Any:
    from foveate.cli.config import parse

    return parse(config_cls, argv, f"foveate trace {verb}", aliases={"exp_dir": "run_root"}, positional=("run_root",))


def exit_status(console: Console, damaged: Sequence[str]) -> int:
    """Name what was passed over; 0 where nothing was."""
    for text in damaged:
        console.print(f"[red]damaged:[/] {text}", highlight=False, soft_wrap=True)
    return DAMAGED if damaged else 0
