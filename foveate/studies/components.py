"""Success, frequency and milliseconds by component: engine x pruning x denoising steps, one table from closed loops.

    done = bench_components(ComponentsConfig(policy="metaworld_tiny", denoising_steps=(1, 5), quick=True))
    done.rows[0].outcome.accuracy, done.rows[0].component_latencies["vision"]["mean"], done.document()

Every row is a run of `foveate eval sim` in a folder of its own, on the same scenes with the same noise, one observation
per inference; a folder that is there goes on where it was interrupted. With `inject_latency` each row is played twice:
while the simulator waits for the policy, and while it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from foveate.bench.adviser import Linear, fit_steps
from foveate.bench.clock import spread
from foveate.bench.variants import CHECKPOINT, Variant, engines_of, has_pruner, matrix, pruner_config, set_up
from foveate.engine.base import Engine
from foveate.engine.config import Eager
from foveate.engine.gate import engine_for
from foveate.errors import FoveateError
from foveate.evaluation.fidelity import require_check
from foveate.evaluation.sim.evaluate import Evaluated, evaluate
from foveate.evaluation.sim.latency import Inject
from foveate.evaluation.sim.latency import label as latency_name
from foveate.evaluation.sim.simulate import SimConfig, SuiteConfig, check_first
from foveate.policy import at_least_one
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.shipped import find_policy

SCHEMA_VERSION = "foveate.bench.components/v1"
COMPONENTS = ("vision", "kv_cache", "denoise", "total")
"""What the table shows; `kv_cache` is the prefill. Pruning and the work around the stages are in `total` alone."""

OF_A_ROW = ("pruner", "num_steps", "engine")
"""Options of `SuiteConfig` that differ between rows."""


@dataclass(frozen=True, kw_only=True)
class ComponentsConfig(SuiteConfig):
    """Play a suite with every engine, pruning and number of denoising steps: success, Hz, milliseconds by component."""

    num_workers: int = 1
    """Simulators that run in parallel; what they take of the machine is missing from the milliseconds."""
    engines: tuple[str, ...] = ()
    """Presets to compare (eager, compiled, fast; compiled+int8 with the prefill in that number format); speed-ups are
    over `eager`; left out: what --engine says."""
    pruning: tuple[str, ...] = ()
    """none, checkpoint, or methods with a budget (random_0.25, stride_16); left out: what the policy came with."""
    denoising_steps: tuple[int, ...] = ()
    """Numbers of denoising (Euler) steps; left out: the policy's own."""
    inject_latency: Inject | None = None
    """Play every row once more while the simulator goes on: `measured`, or milliseconds; None: once, and it waits."""
    out: str | None = None
    """Folder of the run folders; default runs/components_<policy>_<suite>."""
    output_file: str | None = None
    """File that the JSON document is written to as well."""
    compare: str | None = None
    """JSON document of an earlier call; prints before and after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "num_trials_per_task", "replan_steps", "num_workers")
        if bad := [steps for steps in self.denoising_steps if steps < 1]:
            raise FoveateError(f"denoising_steps: expected at least 1, got {bad[0]}")
        for label in self.pruning or ("none",):
            self.simulation(Variant(next(iter(self.presets)), label, None), self.inject_latency)

    @property
    def presets(self) -> dict[str, Eager]:
        """Name -> the engine of a row."""
        return engines_of(self.engines, self)

    def simulation(self, variant: Variant, inject: Inject | None) -> SimConfig:
        """The run of one row.

        Raises:
            FoveateError: what `SimConfig` refuses.
        """
        shared = {f.name: getattr(self, f.name) for f in fields(SuiteConfig) if f.name not in OF_A_ROW}
        named = variant.name if inject is None else f"{variant.name}_{latency_name(inject)}"
        pruner = pruner_config(variant.pruning) or self.pruner
        return SimConfig(
            **shared,
            pruner=pruner,
            num_steps=variant.steps,
            engine=self.presets[variant.engine],
            inject_latency=inject,
            max_batch=1,
            variant=named,
            out=str(self.folder / named),
        )

    @property
    def first(self) -> SimConfig:
        """What all rows share."""
        return self.simulation(Variant(next(iter(self.presets)), "none", None), None)

    @property
    def folder(self) -> Path:
        """Where the run folders are."""
        suite = self.task_suite_name.replace(",", "+").replace("/", "-")
        return Path(self.out or f"runs/components_{Path(self.policy).name}_{suite}")


@dataclass(frozen=True)
class Outcome:
    """How the episodes of a run ended."""

    successes: int
    episodes: int
    """Those that were played, crashed ones included."""
    crashes: int
    accuracy: float | None
    """Successes over episodes."""
    accuracy_ci95: tuple[float, float]
    """Wilson's interval."""
    folder: str

    @classmethod
    def of(cls, run: Evaluated) -> Outcome:
        total = run.summary["total"]
        low, high = total["ci95"]
        return cls(
            successes=total["successes"],
            episodes=total["episodes"],
            crashes=total["crashes"],
            accuracy=total["success_rate"],
            accuracy_ci95=(low, high),
            folder=str(run.folder),
        )


@dataclass(frozen=True)
class ComponentRow:
    """One engine, pruning and number of denoising steps."""

    engine: str
    pruning: str
    denoising_steps: int | None
    outcome: Outcome
    """While the simulator waits for the policy."""
    at_latency: Outcome | None
    """While it goes on; None: not asked for."""
    kept: float | None
    """Visual tokens per inference, mean."""
    component_latencies: Mapping[str, Mapping[str, float]]
    """`COMPONENTS` -> `mean, p50, p95` in milliseconds, `share` of the total, and where there is an eager row with this
    pruning and these steps the `speedup` over it."""
    loses_time: bool = False
    """Whether pruning made it slower than the same without."""

    @property
    def mean_latency_ms(self) -> float | None:
        """Of a whole inference, pre- and post-processing included; None: there was none."""
        return self.component_latencies["total"]["mean"] if self.component_latencies else None

    @property
    def hz(self) -> float | None:
        """Inferences per second, one after the other."""
        return None if self.mean_latency_ms is None else 1e3 / self.mean_latency_ms

    def document(self) -> dict[str, Any]:
        """Plain JSON values, under the names that the users' reports have."""
        return {
            "engine": self.engine,
            "pruning": self.pruning,
            "denoising_steps": self.denoising_steps,
            **asdict(self.outcome),
            "mean_latency_ms": self.mean_latency_ms,
            "Hz": self.hz,
            "kept": self.kept,
            "component_latencies": {name: dict(part) for name, part in self.component_latencies.items()},
            "loses_time": self.loses_time,
            "at_latency": None if self.at_latency is None else asdict(self.at_latency),
        }


@dataclass(frozen=True)
class Components:
    """A benchmark that has ended."""

    config: ComponentsConfig
    rows: list[ComponentRow]

    def denoise_models(self) -> dict[tuple[str, str], Linear]:
        """(engine, pruning) -> denoise time over steps, where there are several numbers of them."""
        groups: dict[tuple[str, str], dict[int, float]] = {}
        for row in self.rows:
            if row.denoising_steps is not None and row.component_latencies:
                ms = row.component_latencies["denoise"]["mean"]
                groups.setdefault((row.engine, row.pruning), {})[row.denoising_steps] = ms
        return {key: fit_steps(measured) for key, measured in groups.items() if len(measured) > 1}

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("policy", "task_suite_name", "num_trials_per_task", "quick", "seed", "num_workers")
        return {
            "schema_version": SCHEMA_VERSION,
            **{name: getattr(self.config.first, name) for name in names},
            "inject_latency": self.config.inject_latency,
            "results": [row.document() for row in self.rows],
            "denoise_models": [
                {"engine": e, "pruning": p, "per_step_ms": m.per_step, "fixed_ms": m.fixed, "steps": m.table()}
                for (e, p), m in self.denoise_models().items()
            ],
            **provenance(),
        }


def bench_components(config: ComponentsConfig, report: Reporter = SILENT) -> Components:
    """Play what the folders lack, row by row.

    Raises:
        FoveateError: an engine or a pruning that is not there, steps for one without, and what `evaluate` raises.
    """
    check_first(config.first)
    for preset in config.presets.values():
        require_check(replace(config.first, engine=preset), config.allow_unchecked)
    with report.status("loading the policy"):
        policy = replace(config, engine=Eager()).load(environ={})
    pruning = config.pruning or ((CHECKPOINT,) if has_pruner(policy) else ("none",))
    folder = find_policy(config.policy)
    engines: dict[tuple[str, str], Engine] = {}
    rows = []
    for variant in matrix(policy, [*config.presets], pruning, config.denoising_steps):
        preset = replace(config.first, engine=config.presets[variant.engine]).settled_engine({})
        key = variant.engine, variant.pruning
        if fresh := key not in engines:
            engines[key] = engine_for(policy.engine.model, preset, folder)
        one = set_up(policy, variant, engines[key], preset.prefix_cache)
        if fresh:
            one.prepare(report)
        waits = evaluate(config.simulation(variant, None), report, one)
        goes_on = None
        if config.inject_latency is not None:
            goes_on = Outcome.of(evaluate(config.simulation(variant, config.inject_latency), report, one))
        rows.append(_row(variant, waits, goes_on))
    return Components(config, _compared(rows))


def _row(variant: Variant, run: Evaluated, at_latency: Outcome | None) -> ComponentRow:
    lines = (run.folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line) for line in lines]
    parts: dict[str, dict[str, float]] = {}
    if queries:
        spreads = {name: spread([query[f"{name}_ms"] for query in queries]) for name in COMPONENTS}
        whole = spreads["total"]["mean"]
        for name, ms in spreads.items():
            parts[name] = {"mean": ms["mean"], "p50": ms["p50"], "p95": ms["p95"], "share": ms["mean"] / whole}
    kept = run.summary["total"]["kept"]["mean"]
    return ComponentRow(variant.engine, variant.pruning, variant.steps, Outcome.of(run), at_latency, kept, parts)


def _compared(rows: Sequence[ComponentRow]) -> list[ComponentRow]:
    """The rows with their speed-up over eager, and a mark where pruning loses time."""
    by_key = {(row.engine, row.pruning, row.denoising_steps): row for row in rows}
    compared = []
    for row in rows:
        eager = by_key.get(("eager", row.pruning, row.denoising_steps))
        full = by_key.get((row.engine, "none", row.denoising_steps))
        parts = {
            name: {**part, "speedup": eager.component_latencies[name]["mean"] / part["mean"]}
            if eager is not None and eager.component_latencies and part["mean"] > 0
            else part
            for name, part in row.component_latencies.items()
        }
        loses = full is not None and (full.mean_latency_ms or 0.0) < (row.mean_latency_ms or 0.0)
        compared.append(replace(row, component_latencies=parts, loses_time=loses and row.pruning != "none"))
    return compared


@dataclass(frozen=True)
class Change:
    """One figure before and after."""

    row: str
    figure: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


def compare(old: str | Path, rows: Sequence[ComponentRow]) -> list[Change]:
    """Rows of an earlier document beside the new ones: total latency, Hz, components, accuracy.

    Rows belong together by engine, pruning and steps; where each side has one engine alone, by pruning and steps.

    Raises:
        FoveateError: no document of this benchmark, or none of its rows belongs to a new one.
    """
    before = read_document(old)
    one_engine = all(len({row["engine"] for row in side}) == 1 for side in (before, [r.document() for r in rows]))

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return (None if one_engine else row["engine"], row["pruning"], row["denoising_steps"])

    known = {key(row): row for row in before}
    changes = []
    for row in rows:
        new = row.document()
        if (past := known.get(key(new))) is None:
            continue
        engines = new["engine"] if past["engine"] == new["engine"] else f"{past['engine']} -> {new['engine']}"
        name = f"{engines}, {row.pruning}" + (f", {row.denoising_steps} steps" if row.denoising_steps else "")
        for figure in ("mean_latency_ms", "Hz", *COMPONENTS[:-1], "accuracy"):
            was, now = (_figure(side, figure) for side in (past, new))
            if was is not None and now is not None:
                changes.append(Change(name, figure, was, now))
    if not changes:
        raise FoveateError(f"compare {old}: none of its rows has the engine, pruning and steps of a row of this run")
    return changes


def read_document(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a document that `foveate bench components` wrote.

    Raises:
        FoveateError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = found["results"] if found["schema_version"] == SCHEMA_VERSION else None
    except OSError as error:
        raise FoveateError(f"compare {path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError):
        rows = None
    needed = {"engine", "pruning", "denoising_steps", "component_latencies", "accuracy"}
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and needed <= r.keys() for r in rows):
        raise FoveateError(
            f"compare {path}: expected the JSON document that `foveate bench components --output_file` writes "
            f"({SCHEMA_VERSION})"
        )
    return rows


def _figure(row: Mapping[str, Any], name: str) -> float | None:
    value = row["component_latencies"].get(name, {}).get("mean") if name in COMPONENTS else row.get(name)
    return None if value is None else float(value)
