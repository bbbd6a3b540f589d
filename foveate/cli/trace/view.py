"""`foveate trace plot|tokens|report|rerun`: what one can do with the evidence of a run.

They need a run folder and nothing else: no model, no GPU, no simulator. The folder is the bare word, or
`--run_root DIR`, `--exp_dir DIR`, or `--exp_name NAME` for `runs/NAME`. Exit status 3: done, but some dumps or
pictures were damaged; each was named and passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError
from foveate.util.progress import Reporter, plain_console

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


@dataclass(frozen=True)
class RerunConfig(PlotConfig):
    """Write a Rerun recording of a run: pictures, overlays, numbers and words on one timeline, with a blueprint."""

    out: str | None = None
    """The file; default: report/NAME.rrd in the run folder."""


def plot(argv: list[str]) -> int:
    """The verb: overlays of a run folder."""
    from foveate.evaluation.evidence import draw_overlays

    config, screen = _parse(PlotConfig, argv, "plot")
    return exit_status(screen, draw_overlays(config.folder, config.limit, screen))


def tokens(argv: list[str]) -> int:
    """The verb: token log and capabilities of a run folder."""
    from foveate.evaluation.evidence import log_tokens

    config, screen = _parse(TokensConfig, argv, "tokens")
    return exit_status(screen, log_tokens(config.folder, screen))


def report(argv: list[str]) -> int:
    """The verb: HTML report over one or more run folders, with fresh token logs."""
    from foveate.evaluation.evidence import log_tokens
    from foveate.tracing.store import dump_paths
    from foveate.viz.plots import damaged_pictures
    from foveate.viz.report.page import build_report

    config, screen = _parse(ReportConfig, argv, "report")
    folders = [config.folder, *map(Path, config.compare)]
    traced = [folder for folder in folders if dump_paths(folder)]
    damaged = [text for folder in traced for text in (*log_tokens(folder, screen), *damaged_pictures(folder))]
    path = build_report(folders, Path(config.out) if config.out else config.folder / "report")
    screen.line(f"report: {path}")
    return exit_status(screen, damaged)


def rerun(argv: list[str]) -> int:
    """The verb: a Rerun recording of a run folder."""
    from foveate.tracing.store import dump_paths
    from foveate.util.words import plural
    from foveate.viz.plots import spread
    from foveate.viz.rerun import write_recording

    config, screen = _parse(RerunConfig, argv, "rerun")
    out = Path(config.out) if config.out else config.folder / "report" / f"{config.folder.resolve().name}.rrd"
    with screen.bar("recording", "inferences", len(spread(dump_paths(config.folder), config.limit))) as bar:
        done = write_recording(config.folder, out, config.limit, bar.advance)
    screen.line(f"recording: {plural(done.inferences, 'inference')} in {out}; `rerun {out}` shows it")
    return exit_status(screen, done.unreadable)


def _parse(config_cls: type[Any], argv: list[str], verb: str) -> tuple[Any, Reporter]:
    from foveate.cli.config import parse

    aliases = {"exp_dir": "run_root"}
    config = parse(config_cls, argv, f"foveate trace {verb}", aliases=aliases, positional=("run_root",))
    return config, Reporter(plain_console())


def exit_status(screen: Reporter, damaged: Sequence[str]) -> int:
    """Name what was passed over; 0 where nothing was."""
    for text in damaged:
        screen.fail("damaged", text)
    return DAMAGED if damaged else 0
