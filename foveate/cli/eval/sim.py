"""`foveate eval sim`: score a policy in a simulator, with everything that belongs to a result written beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.util.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.sim.simulate import SimConfig

HELP = "score a policy in a simulator, traced if asked"

MAY_CHANGE = (
    "num_trials_per_task", "num_workers", "max_batch", "trace_max_dumps_per_run",
    "trace_max_plots", "env.python", "env.timeout_s",
)  # fmt: skip
"""Options that may differ when a run goes on: they change no episode."""


@dataclass(frozen=True)
class Evaluated:
    """A finished run."""

    folder: Path
    variant: str
    summary: dict[str, Any]


def sim(argv: list[str]) -> int:
    """The verb: evaluate, write everything, print a table; 1 when not one episode could be played to its end."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.sim.simulate import SimConfig

    # `--env metaworld` is short for `--env.name metaworld`.
    argv = [f"--env.name{word[5:]}" if word == "--env" or word.startswith("--env=") else word for word in argv]
    config = parse(SimConfig, argv, "foveate eval sim", aliases={"pretrained_checkpoint": "policy"})
    console = Console()
    run = evaluate(config, console)
    report = write_report([run.folder], run.folder / "report", console, config.trace_max_plots)
    console.print(results_table([run]))
    for warning in run.summary["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)
    console.print(f"results: {run.folder / 'results.csv'}\nreport:  {report}", soft_wrap=True, highlight=False)
    total = run.summary["total"]
    return int(total["crashes"] == total["episodes"])


def evaluate(config: SimConfig, console: Console, label: str = "") -> Evaluated:
    """Play what the run folder lacks, with a progress bar, and write results and trace files.

    Args:
        label: stands before the progress bar; empty: the variant's name.
    """
    from foveate.evaluation.sim.results import RunLog, write_results
    from foveate.evaluation.sim.simulate import name_variant, simulate
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import write_run_files

    jobs = config.jobs()
    with console.status("loading the policy"):
        policy = config.load()
    variant = name_variant(config, policy)
    folder = Path(config.trace_out_dir or config.out or _default_folder(config, variant))
    check_same_run(folder, config)
    log = RunLog(folder)
    write_run_files(folder, config, config.seed)
    warnings = _earlier_warnings(folder)
    progress = EpisodeProgress(console, label or variant, len(jobs), log)
    try:
        with progress:
            begin = partial(progress.begin, len(jobs))
            warnings += simulate(config, policy, log, variant=variant, on_episode=progress.ended, on_start=begin)
    except KeyboardInterrupt:
        console.print(f"{len(log.done)} of {len(jobs)} episodes are kept in {folder}; the same command goes on")
        raise
    finally:
        log.close()
    facts = {"config": _plain(config), "seed": config.seed, "policy": policy.spec.name, **provenance()}
    summary = write_results(log, provenance=facts, warnings=list(dict.fromkeys(warnings)))
    return Evaluated(folder, variant, summary)


def check_same_run(folder: Path, config: SimConfig) -> None:
    """Refuse to mix two configurations in one folder; names the options that differ."""
    from foveate.util.run_folder import check_same_config

    log = folder / "episodes.jsonl"
    if log.exists() and log.stat().st_size > 0:
        check_same_config(folder, config, MAY_CHANGE)


class EpisodeProgress(ProgressBar):
    """Episodes done, and success so far."""

    def __init__(self, console: Console, label: str, total: int, log: Any) -> None:
        counted = [e.status for e in log.episodes]
        self._successes, self._crashes = counted.count("success"), counted.count("crash")
        super().__init__(console, label, "episodes", total, len(counted), "starting the simulators")

    def ended(self, played: Any) -> None:
        self._successes += played.result.status == "success"
        self._crashes += played.result.status == "crash"
        crashed = f"  [red]{self._crashes} crashed[/]" if self._crashes else ""
        self.advance(1, f"success {self._successes}/{self.done + 1}{crashed}")


def results_table(runs: Sequence[Evaluated]) -> Any:
    """A row per task, the runs below each other in it: successes with their Wilson interval, kept tokens, times."""
    from rich.table import Table

    # Stacked, the table fits into 80 columns, whatever the number of runs.
    table = Table(caption="intervals: Wilson, 95 %; kept: visual tokens of all; ms per inference: p50/p95")
    for column in ("task", "variant"):
        table.add_column(column, no_wrap=True)
    for column in ("success", "kept", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    tasks = list(dict.fromkeys(group["task"] for run in runs for group in run.summary["tasks"]))
    for task in (*tasks, "all"):
        lines = []
        for run in runs:
            groups = [run.summary["total"]] if task == "all" else [g for g in run.summary["tasks"] if g["task"] == task]
            lines += [[run.variant, *_cells(group)] for group in groups]
        table.add_row(task, *("\n".join(cells) for cells in zip(*lines, strict=True)), end_section=True)
    return table


def _cells(group: dict[str, Any]) -> list[str]:
    low, high = group["ci95"]
    success = f"{group['successes']}/{group['episodes']} ({100 * low:.0f}-{100 * high:.0f} %)"
    success += f" {group['crashes']} crashed" if group["crashes"] else ""
    kept, total = group["kept"], group["latency_ms"]["total"]
    tokens = "" if kept["mean"] is None else f"{kept['mean']:.1f}/{kept['patches']:.0f}"
    return [success, tokens, "" if total["p50"] is None else f"{total['p50']:.1f}/{total['p95']:.0f}"]


def write_report(folders: Sequence[Path], out: Path, console: Console, max_plots: int | None) -> Path:
    """Overlays, capabilities, token log of every traced run, and one report over all; its path."""
    from foveate.cli.trace.view import write_evidence
    from foveate.tracing.store import dump_paths
    from foveate.viz.report.page import build_report

    for folder in folders:
        if dump_paths(folder):
            for damaged in write_evidence(folder, console, max_plots):
                console.print(f"[yellow]warning:[/] passed over: {damaged}", soft_wrap=True, highlight=False)
    with console.status("writing the report"):
        return build_report(list(folders), out)


def _default_folder(config: SimConfig, variant: str) -> str:
    suite = config.task_suite_name.replace(",", "+").replace("/", "-")
    return f"runs/{Path(config.policy).name}_{suite}_{variant}"


def _earlier_warnings(folder: Path) -> list[str]:
    """Warnings of the part of the run that an earlier call played."""
    try:
        return list(json.loads((folder / "summary.json").read_text())["warnings"])
    except (OSError, ValueError, KeyError):
        return []


def _plain(config: SimConfig) -> dict[str, Any]:
    from foveate.util.run_folder import to_dict

    return to_dict(config)
