"""What the trace of a run becomes: overlays, token log, capabilities, and one report over a run or several.

Needs run folders alone: no model, no GPU, no simulator. Dumps and pictures that are damaged are passed over and
returned, one sentence each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from foveate.errors import reason_of
from foveate.evaluation.sim.collapse import diagnose
from foveate.tracing.store import dump_paths
from foveate.tracing.tokens import check_run, write_capabilities, write_token_log
from foveate.util.files import CannotWrite, full_disk
from foveate.util.progress import SILENT, Reporter
from foveate.util.words import plural
from foveate.viz.plots import plot_run, spread
from foveate.viz.report.page import build_report


def draw_overlays(folder: Path, limit: int | None = None, report: Reporter = SILENT) -> list[str]:
    """Scores, kept patches and attention over the source pictures, under `plots/`; returns what was damaged.

    Args:
        limit: inferences to draw, evenly over the run; None: all.
    Raises:
        FoveateError: the folder holds no dump, or cannot be written.
    """
    total = len(spread(dump_paths(check_run(folder)), limit))
    with report.bar(f"overlays of {folder.name}", "inferences", total) as bar:
        drawn = plot_run(folder, limit, bar.advance)
    report.line(
        f"overlays: {plural(drawn.files, 'picture')}, {plural(drawn.inferences, 'inference')}, in {folder / 'plots'}"
    )
    if drawn.left_out:
        report.line(
            f"          {plural(drawn.left_out, 'inference')} left out; `foveate trace plot {folder}` draws all"
        )
    if drawn.without_pictures:
        report.warn(f"no saved pictures to draw on: {plural(drawn.without_pictures, 'inference')}")
    return drawn.unreadable


def log_tokens(folder: Path, report: Reporter = SILENT) -> list[str]:
    """`report/tokens.jsonl`, `tokens_summary.json` and `capabilities.json`; returns what was damaged.

    Raises:
        FoveateError: the folder holds no dump, or cannot be written.
    """
    log = write_token_log(folder, diagnose)
    fields = write_capabilities(folder)["fields"]
    report.line(f"token log: {plural(len(log.rows), 'inference')} in {folder / 'report/tokens.jsonl'}")
    if strange := fields["not_understood"]:
        names = ", ".join(f"{name[:80]} ({count} dumps)" for name, count in list(strange.items())[:10])
        report.warn(f"{len(strange)} fields that the trace schema does not have are left alone: {names}")
    for warning in log.summary["warnings"]:
        report.warn(warning)
    for problem, count in log.summary["schema_problems"].items():
        report.warn(f"schema: {problem} ({plural(count, 'dump')})")
    return log.unreadable


def write_evidence(folder: Path, report: Reporter = SILENT, limit: int | None = None) -> list[str]:
    """Overlays, token log and capabilities of a traced run; returns what was damaged.

    Args:
        limit: inferences to draw, evenly over the run; None: all.
    """
    return list(dict.fromkeys([*draw_overlays(folder, limit, report), *log_tokens(folder, report)]))


def write_report(folders: Sequence[Path], out: Path, report: Reporter = SILENT, max_plots: int | None = None) -> Path:
    """The evidence of every traced run, and one HTML file over all runs; returns its path.

    Args:
        max_plots: inferences of each run whose overlays are drawn, evenly over it; None: all.
    Raises:
        CannotWrite: the report could not be written, or, after it was, something that belongs to it.
    """
    full: CannotWrite | None = None
    damaged: dict[str, None] = {}
    for folder in filter(dump_paths, folders):
        for part in (partial(draw_overlays, folder, max_plots), partial(log_tokens, folder)):
            try:
                damaged |= dict.fromkeys(part(report))
            except Exception as error:  # results, charts and the other folders are good without it
                full = full or full_disk(error)
                report.warn(f"{folder}: {full or reason_of(error)}")
    for text in damaged:
        report.warn(f"passed over: {text}")
    with report.status("writing the report"):
        page = build_report(list(folders), out)
    if full is not None:
        raise full
    return page
