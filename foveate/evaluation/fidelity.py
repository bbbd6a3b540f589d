"""An engine against eager float32 on this machine: the worst of several observations and noises, and its record.

done = check_engine(EngineCheckConfig(policy="metaworld_tiny", engine=Compiled()))
done.passed, done.worst

gate = require_check(config)                  # what evaluation does before it runs an engine
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.engine.config import Eager, as_environment_says
from foveate.engine.gate import candidates
from foveate.engine.record import (
    forget_record,
    identity,
    nearest_record,
    read_record,
    ready_for_records,
    write_record,
)
from foveate.errors import FoveateError
from foveate.policy import LoadOptions, Policy, at_least_one
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.shipped import find_policy


@dataclass(frozen=True, kw_only=True)
class EngineCheckConfig(LoadOptions):
    """Compare an engine with eager float32 on this machine, and record it; exit status 1: it is off."""

    observations: int = 4
    """Made-up observations: pictures of all brightnesses, prompts of several lengths."""
    noises: int = 3
    """Noises of each observation."""
    seed: int = 0
    """Of pictures and noises."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "observations", "noises")
        if as_environment_says(self.engine).exact and self.dtype == "float32":
            raise FoveateError(
                "engine eager in float32 is what engines are compared with; name another: --engine compiled"
            )


@dataclass(frozen=True)
class Bound:
    """What the worst sample may be off, in normalised actions."""

    cosine: float
    error: float


EXACT, ROUNDED = Bound(cosine=0.99999, error=1e-3), Bound(cosine=0.995, error=0.05)
"""Of engines that compute in float32, and of those that round to fewer digits."""


@dataclass(frozen=True)
class EngineCheck:
    """The comparison."""

    engine: str
    samples: int
    cosine: float
    """Of the worst sample."""
    error: float
    """Largest difference of any number of any action."""
    bound: Bound
    keep_differs: int
    """Samples for which the pruner chose other patches."""
    ms: tuple[float, float]
    """Median milliseconds of one inference: eager float32, the engine."""
    record: Path | None
    """Where it is kept; None: it failed, so nothing is."""
    report: dict[str, Any]
    """What the engine says of itself."""

    @property
    def passed(self) -> bool:
        return self.cosine >= self.bound.cosine and self.error <= self.bound.error


def check_engine(config: EngineCheckConfig, report: Reporter = SILENT) -> EngineCheck:
    """Run both on the same samples; a comparison within the bound is recorded.

    `fast` is tried in fewer digits first, and without where that is off.

    Raises:
        FoveateError: the policy or the engine cannot be had.
        CannotWrite: the cache folder cannot be written.
    """
    ready_for_records()
    with report.status("eager float32"):
        same = {f.name: getattr(config, f.name) for f in fields(LoadOptions)}
        reference = LoadOptions(**{**same, "engine": Eager(), "dtype": "float32"}).load(environ={})
        expected = _samples(config, reference)
        del reference
        gc.collect()
    *fewer, itself = candidates(
        as_environment_says(config.engine), find_policy(config.policy), config.dtype, config.device
    )
    for engine in fewer:
        done = _compare(config, engine, expected, report)
        if done.passed:
            return done
        report.warn(f"{engine.label}: off by {done.error:.2e}, cosine {done.cosine:.7f}; {itself.label} goes without")
    return _compare(config, itself, expected, report)


def _compare(config: EngineCheckConfig, engine: Eager, expected: list[Sample], report: Reporter) -> EngineCheck:
    """One engine on the samples of the reference; within the bound it is recorded, else a record is dropped."""
    tested = replace(config, engine=engine).load(report, environ={})
    with report.status(engine.label):
        got = _samples(config, tested)
    cosines = [_cosine(a, b) for (a, _, _), (b, _, _) in zip(expected, got, strict=True)]
    errors = [float(np.abs(a - b).max()) for (a, _, _), (b, _, _) in zip(expected, got, strict=True)]
    differing = sum(not np.array_equal(a, b) for (_, a, _), (_, b, _) in zip(expected, got, strict=True))
    bound = EXACT if config.dtype == "float32" and not engine.rounds else ROUNDED
    ms = (float(np.median([s[2] for s in expected])), float(np.median([s[2] for s in got])))
    # NaN is no small error.
    worst = (min(cosines), max(errors)) if np.isfinite(errors).all() else (0.0, float("inf"))
    done = EngineCheck(engine.label, len(errors), *worst, bound, differing, ms, None, tested.engine.report())
    folder = find_policy(config.policy)
    known = identity(folder, engine, config.dtype, config.device)
    if not done.passed:
        forget_record(known)
        return done
    result = {
        "worst": {"cosine": done.cosine, "error": done.error},
        "bound": vars(bound),
        "samples": done.samples,
        "keep_differs": differing,
        "num_steps": config.num_steps,
        **provenance(),
    }
    return replace(done, record=write_record(known, str(folder.resolve()), result))


def require_check(config: LoadOptions, allow_unchecked: bool = False) -> dict[str, Any]:
    """What results say about the fidelity of an engine: `engine, checked`, and of a record its date, worst and bound.

    Raises:
        FoveateError: it was not checked on this machine with this checkpoint, and that is not allowed.
    """
    engine = config.settled_engine()
    if engine.exact:
        return {"engine": engine.label, "checked": True}
    folder = find_policy(config.policy)
    known = identity(folder, engine, config.dtype, config.device)
    record = read_record(known)
    if record is not None:
        return {"engine": engine.label, "checked": True} | {k: record.get(k) for k in ("date", "worst", "bound")}
    if allow_unchecked:
        return {"engine": engine.label, "checked": False}
    other = nearest_record(known, str(folder.resolve()))
    beside = f" (there is a record of it with another {', '.join(other)})" if other else ""
    preset = type(config.engine).__name__.lower()
    again = f"foveate engine check --policy {config.policy} --engine {preset}"
    raise FoveateError(
        f"engine {engine.label} has not been compared with eager float32 for {config.policy} on this machine{beside}: "
        f"run `{again}` with the same engine options first, or add --allow_unchecked"
    )


Sample = tuple[np.ndarray, np.ndarray, float]


def _samples(config: EngineCheckConfig, policy: Policy) -> list[Sample]:
    """Per observation and noise: actions [H, A] as the model gives them, the patches kept, milliseconds."""
    rng = np.random.default_rng(config.seed)
    noise_shape = policy.spec.noise_shape
    samples = []
    for number in range(config.observations):
        observation = policy.example(config.seed + number)
        inputs = policy.processor.inputs([observation]).to(policy.device)
        for _ in range(config.noises if noise_shape else 1):
            noise = None
            if noise_shape:
                noise = torch.from_numpy(rng.standard_normal((1, *noise_shape), np.float32)).to(policy.device)
            policy.reset("check")
            torch.manual_seed(config.seed)  # a random pruner draws the same patches for both
            result = policy.engine.run(
                inputs,
                noise,
                pruner=policy.pruner,
                steps=policy.spec.num_steps,
                state=policy.states([observation], ["check"], policy.pruner),
            )
            keep = np.zeros(0) if result.keep is None else result.keep.keep_mask[0].cpu().numpy()
            samples.append((result.actions[0].float().cpu().numpy(), keep, sum(result.stages_ms.values())))
    return samples


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y) / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-300)
