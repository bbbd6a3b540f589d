"""Score a policy in a simulator, with everything that belongs to a result written beside it.

    run = evaluate(SimConfig(policy="metaworld_tiny", task_suite_name="reach", out="runs/reach"))
    for row in result_rows([run]):
        print(row.task, row.successes, row.episodes)

A run folder goes on where it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.engine.base import fell_back
from foveate.errors import FoveateError
from foveate.evaluation.fidelity import require_check
from foveate.evaluation.sim.agreement import read
from foveate.evaluation.sim.results import RunLog, write_results
from foveate.evaluation.sim.rollout import Played
from foveate.evaluation.sim.simulate import SimConfig, check_first, name_variant, simulate
from foveate.policy import Policy
from foveate.tracing.store import dump_paths, lacking_dumps
from foveate.util.files import one_process
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.run_folder import check_same_config, differing_options, to_dict, write_run_files
from foveate.util.words import plural

if TYPE_CHECKING:
    from foveate.evaluation.sim.remote import RemotePolicy

MAY_CHANGE = (
    "out", "trace_out_dir", "num_trials_per_task", "quick", "num_workers", "max_batch", "trace_max_dumps_per_run",
    "trace_max_plots", "env.python", "env.timeout_s", "allow_unchecked",
)  # fmt: skip
"""Options that may differ when a run goes on: they change no episode. A folder may be moved, or spelt otherwise."""


@dataclass(frozen=True)
class Evaluated:
    """A finished run."""

    folder: Path
    variant: str
    summary: dict[str, Any]
    """The content of `summary.json`."""


@dataclass(frozen=True)
class ResultRow:
    """One task of one run, or all its tasks (`all`)."""

    task: str
    variant: str
    successes: int
    episodes: int
    """Those that were played, crashed ones included."""
    crashes: int
    ci95: tuple[float, float]
    """Wilson interval of the success rate."""
    kept: float | None
    """Visual tokens per inference after pruning, mean; None: nothing was inferred."""
    patches: float | None
    """Visual tokens per inference before pruning, mean."""
    ms_p50: float | None
    """Milliseconds of one inference, median."""
    ms_p95: float | None


def evaluate(config: SimConfig, report: Reporter = SILENT, policy: Policy | RemotePolicy | None = None) -> Evaluated:
    """Play what the run folder lacks, and write results and trace.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: conventions, views or tasks do not fit, or the folder holds a run with other options.
    """
    if config.remote:
        fidelity: dict[str, Any] = {"engine": "remote", "checked": None}  # the server's own matter
    else:
        fidelity = require_check(config, config.allow_unchecked)
    if policy is None:
        check_first(config)
        policy = policy_of(config, report)
    variant = name_variant(config, policy)
    folder = Path(config.trace_out_dir or config.out or _default_folder(config, variant))
    with one_process(folder, "evaluating"):
        return _evaluate(config, policy, variant, folder, report, fidelity)


def policy_of(config: SimConfig, report: Reporter = SILENT) -> Policy | RemotePolicy:
    """The policy that a configuration names: loaded here, or behind a server."""
    if not config.remote:
        with report.status("loading the policy"):
            return config.load(report)
    from foveate.evaluation.sim.remote import connect

    with report.status(f"waiting for {config.policy}"):
        return connect(config)


def _evaluate(
    config: SimConfig,
    policy: Policy | RemotePolicy,
    variant: str,
    folder: Path,
    report: Reporter,
    fidelity: dict[str, Any],
) -> Evaluated:
    jobs = config.jobs()
    check_same_run(folder, config)
    log = RunLog(folder)
    write_run_files(folder, config, config.seed)
    for warning in log.warnings:
        report.warn(warning)
    warnings = _earlier_warnings(folder) + log.warnings
    statuses = [episode.status for episode in log.episodes]
    bar = report.bar(variant, "episodes", len(jobs), len(statuses), "starting the simulators")

    def ended(played: Played) -> None:
        statuses.append(played.result.status)
        crashes = statuses.count("crash")
        crashed = f"  {crashes} crashed" if crashes else ""
        bar.advance(1, f"success {statuses.count('success')}/{len(statuses)}{crashed}")

    try:
        with bar:
            begin = partial(bar.begin, len(jobs))
            warnings += simulate(
                config, policy, log, variant=variant, on_episode=ended, on_start=begin, tell=report.line
            )
    except KeyboardInterrupt:
        report.line(f"kept in {folder}: {len(log.done)} of {plural(len(jobs), 'episode')}; the same command goes on")
        raise
    finally:
        log.close()
    facts = {"config": to_dict(config), "seed": config.seed, "policy": policy.spec.name, **provenance(), **read(folder)}
    ran = policy.engine if isinstance(policy, Policy) else policy
    facts["engine"] = {**ran.report(), "fidelity": fidelity}
    warnings += fell_back(facts["engine"])
    if fidelity["checked"] is False:
        warnings.append(f"engine {fidelity['engine']}: not compared with eager on this machine (--allow_unchecked)")
    if config.trace_out_dir is not None:
        facts["traced"] = _traced(folder, log)
        warnings += _without_dump(folder, log) if config.trace_max_dumps_per_run is None else []
    return Evaluated(folder, variant, write_results(log, provenance=facts, warnings=list(dict.fromkeys(warnings))))


def _traced(folder: Path, log: RunLog) -> dict[str, int]:
    """How much of the run has dumps."""
    dumps = dump_paths(folder)
    return {
        "inferences": len(dumps),
        "of_inferences": len(log.queries),
        "episodes": len({path.parent for path in dumps}),
        "of_episodes": len(log.episodes),
    }


def _without_dump(folder: Path, log: RunLog) -> list[str]:
    """Names the logged inferences whose evidence is lost: the disk was full, or the machine lost its power."""
    task_ids = {episode.task: episode.extra.get("task_id", 0) for episode in log.episodes}
    lacking = lacking_dumps(folder, ({**row, "task_id": task_ids[row["task"]]} for row in log.queries))
    return [f"trace: no dump of {plural(len(lacking), 'inference')}: {', '.join(lacking)}"] if lacking else []


def check_same_run(folder: Path, config: SimConfig) -> None:
    """Refuse to mix two configurations in one folder; names the options that differ."""
    log = folder / "episodes.jsonl"
    if log.exists() and log.stat().st_size > 0:
        check_same_config(folder, config, MAY_CHANGE)
        there, now = differing_options(folder, config).get("trace_out_dir", (None, None))
        if (there is None) != (now is None):
            go_on, kind = ("--out", "without") if there is None else ("--trace_out_dir", "with")
            raise FoveateError(
                f"{folder} holds a run {kind} a trace; go on with it by {go_on} {folder}, or choose another folder"
            )


def result_rows(runs: Sequence[Evaluated]) -> list[ResultRow]:
    """Task by task, the runs below each other in it; last all tasks together."""
    tasks = dict.fromkeys(group["task"] for run in runs for group in run.summary["tasks"])
    rows = [
        _row(task, run.variant, group)
        for task in tasks
        for run in runs
        for group in run.summary["tasks"]
        if group["task"] == task
    ]
    return rows + [_row("all", run.variant, run.summary["total"]) for run in runs]


def _row(task: str, variant: str, group: dict[str, Any]) -> ResultRow:
    low, high = group["ci95"]
    kept, total = group["kept"], group["latency_ms"]["total"]
    return ResultRow(
        task, variant, group["successes"], group["episodes"], group["crashes"], (low, high),
        kept["mean"], kept["patches"], total["p50"], total["p95"],
    )  # fmt: skip


def _default_folder(config: SimConfig, variant: str) -> str:
    suite = config.task_suite_name.replace(",", "+").replace("/", "-")
    return f"runs/{Path(config.policy).name.replace(':', '_')}_{suite}_{variant}"


def _earlier_warnings(folder: Path) -> list[str]:
    """Warnings of the part of the run that an earlier call played."""
    try:
        return list(json.loads((folder / "summary.json").read_text())["warnings"])
    except (OSError, ValueError, KeyError):
        return []
