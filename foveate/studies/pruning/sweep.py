"""All methods at all budgets in one simulator: what each costs, and whether it beats random patches.

    done = sweep_pruning(SweepPruningConfig(env=EnvConfig(name="metaworld"), budgets=(0.25,), quick=True))
    done.rows[1].success_rate, done.rows[1].difference, done.rows[1].p_holm

Every method and budget is a run of `foveate eval sim` in a folder of its own, on the same scenes with the same noise,
one observation per inference; a folder that is there goes on where it was interrupted, and several processes may share
a sweep. With `finalists` a second round plays more episodes of the best methods and of all controls, in the same
folders. Policies that were fine-tuned with a method stand beside the untuned one (`tuned`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from foveate.bench.latency import LatencyConfig, measure_latency
from foveate.bench.variants import NO_REUSE, Variant, pruner_config, set_up
from foveate.engine.config import PRESETS
from foveate.errors import FoveateError, unknown
from foveate.evaluation.sim.evaluate import Evaluated, evaluate
from foveate.evaluation.sim.simulate import SimConfig, SuiteConfig, check_first
from foveate.policy import Policy, at_least_one
from foveate.pruning import CONFIGS
from foveate.studies.pruning.methods import CONTROLS, METHODS, able, label_of
from foveate.studies.pruning.table import SweepRow, compared, outcomes, write_table
from foveate.util.files import FolderHeld
from foveate.util.progress import SILENT, Reporter

SHIPPED = {"metaworld": "metaworld_tiny", "libero": "libero_tiny"}
"""Simulator -> the policy that ships for it."""
OF_A_ROW = ("policy", "pruner", "engine", "num_trials_per_task")
"""Options of `SuiteConfig` that a run gets otherwise."""
PAUSE_S = 10.0
"""Between two looks at folders that other processes hold."""


@dataclass(frozen=True)
class Entry:
    """One row of the table, and the run behind it."""

    label: str
    """Method and budget: `none`, `random_0.25`."""
    tuned: bool = False
    """Whether its policy was fine-tuned with that method."""

    @property
    def name(self) -> str:
        """Of the run's folder and variant."""
        return f"{self.label}_tuned" if self.tuned else self.label

    @property
    def method(self) -> str:
        return self.label if self.label in CONFIGS else self.label.rpartition("_")[0]


@dataclass(frozen=True, kw_only=True)
class SweepPruningConfig(SuiteConfig):
    """Play a suite with every pruning method at equal budgets, and compare each with random patches."""

    policy: str = ""
    """Checkpoint folder or shipped policy; left out: the one that ships for the simulator."""
    methods: tuple[str, ...] = ()
    """Methods to compare; left out: all that the policy can run. Random is always played."""
    budgets: tuple[float, ...] = (0.5, 0.25, 0.125)
    """Shares of the patches that are kept."""
    finalists: int | None = None
    """Play a second round of so many of the best methods, and of all controls."""
    final_trials: int = 50
    """Episodes per task of the second round, those of the first included."""
    tuned: str | None = None
    """Folder of policies that were fine-tuned with one method and budget each (DIR/random_0.125), played beside."""
    engines: tuple[str, ...] = ()
    """Presets (eager, compiled) whose milliseconds are measured beside, on one observation, as bench latency does."""
    out: str | None = None
    """Folder of the run folders and of the table; default runs/pruning_<policy>_<suite>."""

    def __post_init__(self) -> None:
        if not self.policy:
            if self.env.name not in SHIPPED:
                raise FoveateError(f"policy: none ships for environment {self.env.name!r}; name one with --policy")
            object.__setattr__(self, "policy", SHIPPED[self.env.name])
        if self.env.name == "libero" and self.task_suite_name == "foveate":
            object.__setattr__(self, "task_suite_name", "libero_object")
        super().__post_init__()
        at_least_one(self, "num_trials_per_task", "replan_steps", "num_workers", "finalists", "final_trials")
        for method in self.methods:
            if method not in METHODS:
                raise unknown("pruning method", method, METHODS)
        for engine in self.engines:
            if engine not in PRESETS:
                raise unknown("engine", engine, PRESETS)
        if not self.budgets or any(not 0 < budget < 1 for budget in self.budgets):
            raise FoveateError(f"budgets: expected shares between 0 and 1, got {list(self.budgets)}; 0.25 is a quarter")
        self.simulation(Entry("none"))

    def simulation(self, entry: Entry, trials: int | None = None) -> SimConfig:
        """The run of one row.

        Args:
            trials: episodes per task; None: those of the first round.
        Raises:
            FoveateError: what `SimConfig` refuses.
        """
        shared = {f.name: getattr(self, f.name) for f in fields(SuiteConfig) if f.name not in OF_A_ROW}
        return SimConfig(
            **shared,
            policy=str(Path(self.tuned) / entry.label) if entry.tuned and self.tuned else self.policy,
            pruner=pruner_config(entry.label),
            num_trials_per_task=trials or self.num_trials_per_task,
            max_batch=1,
            variant=entry.name,
            out=str(self.folder / entry.name),
        )

    @property
    def folder(self) -> Path:
        suite = self.task_suite_name.replace(",", "+").replace("/", "-")
        return Path(self.out or f"runs/pruning_{Path(self.policy).name}_{suite}")


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended."""

    config: SweepPruningConfig
    rows: list[SweepRow]
    """Unpruned, controls, methods; each from the largest budget to the smallest, fine-tuned ones behind it."""
    left_out: dict[str, str]
    """Methods that the policy cannot run, and why."""
    files: tuple[Path, ...]
    """Table (CSV, Markdown), document (JSON) and plot."""


def sweep_pruning(config: SweepPruningConfig, report: Reporter = SILENT) -> Sweep:
    """Play what the folders lack, and write table and plot.

    Raises:
        FoveateError: a named method that the policy cannot run, and what `evaluate` raises.
    """
    untuned = config.simulation(Entry("none"))
    check_first(untuned)
    with report.status("loading the policy"):
        policy = untuned.load(environ={})
    wanted = [method for method in METHODS if not config.methods or method in ("random", *config.methods)]
    methods, left_out = able(policy, wanted, config.methods, config.budgets[0])
    for method, reason in left_out.items():
        report.warn(f"{method}: left out ({reason})")
    entries = _entries(config, methods)
    runs = _play(config, policy, entries, None, report)
    if config.finalists is not None:
        best = _best(methods, runs, config)[: config.finalists]
        report.line(f"second round: {', '.join(best)} and the controls")
        longer = [entry for entry in entries if entry.tuned or entry.method in ("none", *CONTROLS, *best)]
        runs |= _play(config, policy, longer, config.final_trials, report)
    times = _milliseconds(config, [entry.label for entry in entries if not entry.tuned], report)
    rows = compared([_row(entry, runs[entry], times.get(entry.label, {})) for entry in entries])
    files = write_table(config.folder, rows, {"policy": policy.spec.name, "suite": config.task_suite_name})
    return Sweep(config, rows, left_out, files)


def _entries(config: SweepPruningConfig, methods: Sequence[str]) -> list[Entry]:
    """Rows in the order of the table.

    Raises:
        FoveateError: no policy in the folder of fine-tuned ones is of any row.
    """
    budgets = sorted(config.budgets, reverse=True)
    labels = ["none", *(label_of(method, budget) for method in methods for budget in budgets)]
    entries = []
    for label in labels:
        entries.append(Entry(label))
        if config.tuned is not None and (Path(config.tuned) / label).is_dir():
            entries.append(Entry(label, tuned=True))
    if config.tuned is not None and not any(entry.tuned for entry in entries):
        raise FoveateError(
            f"tuned: {config.tuned} holds no folder named as a row of the sweep: {', '.join(labels[:4])} ..."
        )
    return entries


def _play(
    config: SweepPruningConfig, policy: Policy, entries: Sequence[Entry], trials: int | None, report: Reporter
) -> dict[Entry, Evaluated]:
    """Play every row; what another process is playing comes last, and is there then."""
    runs: dict[Entry, Evaluated] = {}
    waiting, held = deque(entries), 0
    while waiting:
        entry = waiting.popleft()
        try:
            runs[entry] = _played(config, policy, entry, trials, report)
            held = 0
        except FolderHeld:
            waiting.append(entry)
            held += 1
            if held >= len(waiting):
                time.sleep(PAUSE_S)
                held = 0
    return runs


def _played(
    config: SweepPruningConfig, policy: Policy, entry: Entry, trials: int | None, report: Reporter
) -> Evaluated:
    simulation = config.simulation(entry, trials)
    own = simulation.load(environ={}) if entry.tuned else policy
    variant = Variant("eager", entry.label, own.spec.num_steps)
    return evaluate(simulation, report, set_up(own, variant, own.engine, NO_REUSE))


def _best(methods: Sequence[str], runs: Mapping[Entry, Evaluated], config: SweepPruningConfig) -> list[str]:
    """Methods that are no controls, by successes over all budgets; of equals the first in the table."""

    def successes(method: str) -> int:
        entries = [Entry(label_of(method, budget)) for budget in config.budgets]
        return sum(runs[entry].summary["total"]["successes"] for entry in entries)

    return sorted((method for method in methods if method not in CONTROLS), key=lambda method: -successes(method))


def _milliseconds(config: SweepPruningConfig, labels: Sequence[str], report: Reporter) -> dict[str, dict[str, float]]:
    """Label -> engine -> median milliseconds of a whole inference, where engines are asked for."""
    if not config.engines:
        return {}
    bench = LatencyConfig(
        policy=config.policy,
        device=config.device,
        dtype=config.dtype,
        robot=config.robot,
        num_steps=config.num_steps,
        engines=config.engines,
        pruning=tuple(labels),
        quick=config.quick,
    )
    times: dict[str, dict[str, float]] = {}
    for row in measure_latency(bench, report).rows:
        times.setdefault(row.pruning, {})[row.engine] = row.policy_ms["p50"]
    return times


def _row(entry: Entry, run: Evaluated, times: Mapping[str, float]) -> SweepRow:
    total = run.summary["total"]
    budget = getattr(pruner_config(entry.label), "keep_ratio", None)
    played = total["latency_ms"]["total"]["p50"]
    low, high = total["ci95"]
    return SweepRow(
        method=entry.method,
        budget=budget,
        tuned=entry.tuned,
        successes=total["successes"],
        episodes=total["episodes"],
        crashes=total["crashes"],
        ci95=(low, high),
        kept=total["kept"]["mean"],
        patches=total["kept"]["patches"],
        gflops=total["gflops"],
        ms=times if played is None else {"played": played, **times},
        outcomes=outcomes(run.folder, entry.name),
    )
