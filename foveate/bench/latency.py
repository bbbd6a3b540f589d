"""How long an inference takes, from the model alone to the policy, beside what this machine could do.

    measured = measure_latency(LatencyConfig(random_weights="pi05_mid", pruning=("none", "random_0.25")))
    measured.rows[0].policy_ms["p50"], measured.document()

Three boundaries of the same inference: `model` (vision, prefill and denoising), `engine` (with pruning, packing and the
choice of a length, and what lies between the stages), `policy` (with pre- and post-processing on the host).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from foveate.bench.adviser import Advice, Base, advise
from foveate.bench.clock import Rounds, drift, sample, spread, uncertainty
from foveate.bench.machine import conditions, peak_memory
from foveate.bench.peak import SECONDS, Peak, measure_peak
from foveate.bench.variants import CHECKPOINT, Variant, engines_of, has_pruner, matrix, pruner_config, set_up
from foveate.bench.work import Work, count_work
from foveate.engine.base import Engine, Inference
from foveate.engine.calibration import LEAST_OBSERVATIONS, Calibration, calibrate
from foveate.engine.config import Eager
from foveate.engine.fp8 import Fp8
from foveate.engine.gate import calibration_of
from foveate.engine.plan import read_plans
from foveate.engine.registry import make_engine
from foveate.engine.timer import StageTimer
from foveate.errors import FoveateError
from foveate.policy import LoadOptions, Policy, at_least_one
from foveate.training.policy.untrained import untrained_policy
from foveate.types import STAGES, Observation
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.shipped import find_policy
from foveate.util.words import percent

SCHEMA_VERSION = "foveate.bench.latency/v1"
MODEL_STAGES = ("vision", "prefill", "denoise")
PROMPT = "pick up the black bowl between the plate and the ramekin and place it on the plate"


@dataclass(frozen=True, kw_only=True)
class LatencyConfig(LoadOptions):
    """Time inferences of every engine, pruning, number of denoising steps and of cameras, in turn in one run."""

    policy: str = ""
    """Checkpoint folder, or the name of a policy that ships with foveate; left out with --random_weights."""
    random_weights: Literal["pi05", "pi0", "pi05_mid", "pi0_mid"] | None = None
    """A model of this size with random weights instead: the published ones, or 65 M parameters; three cameras."""
    engines: tuple[str, ...] = ()
    """Presets to compare (eager, compiled, fast; compiled+int8 with the prefill in that number format); speed-ups are
    over the first one; left out: what --engine says."""
    pruning: tuple[str, ...] = ()
    """none, checkpoint, or methods with a budget (random_0.25, stride_16); left out: none, and what the policy has."""
    denoising_steps: tuple[int, ...] = ()
    """Numbers of denoising (Euler) steps; left out: the policy's own."""
    views: tuple[int, ...] = ()
    """Cameras that an observation holds; left out: all that the robot has, two of random weights."""
    prompt: str = PROMPT
    """Instruction of the observation."""
    target_hz: float = 20.0
    """Inferences per second that the adviser plans for."""
    max_rounds: int = 100
    """Inferences of each variant at most; fewer where the noise settles before."""
    quick: bool = False
    """Few inferences: does everything run?"""
    output_file: str | None = None
    """File that the JSON document is written to as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "max_rounds")
        if bool(self.policy) == (self.random_weights is not None):
            raise FoveateError(
                "bench latency: name a policy with --policy, or a size with --random_weights, one of them"
            )
        if not self.target_hz > 0:
            raise FoveateError(f"target_hz: expected inferences per second above 0, got {self.target_hz:g}")
        for name in ("denoising_steps", "views"):
            if bad := [value for value in getattr(self, name) if value < 1]:
                raise FoveateError(f"{name}: expected at least 1, got {bad[0]}")
        for label in self.pruning:
            pruner_config(label)
        engines_of(self.engines, self)


@dataclass(frozen=True)
class Row:
    """One variant, measured. Milliseconds as `p50, p95, p99, min, mean`."""

    engine: str
    pruning: str
    denoising_steps: int | None
    views: int
    tokens_before: int
    """Prefix tokens before pruning, no padding among them."""
    tokens_after: int
    """Those that the backbone's last layer saw."""
    padding: float
    """Slots that the prefill had beyond these tokens, as a share of them."""
    ready_s: float
    """To the end of the first inference, compilation in it; rows that differ in steps alone share what is compiled."""
    memory_peak_mb: float | None
    """Of the device, on a CPU of the process, during one inference; None where the system does not say."""
    model_ms: dict[str, float]
    engine_ms: dict[str, float]
    policy_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]
    """vision, prune, prefill (and again as kv_cache), denoise."""
    gflop: dict[str, float]
    """Matrix products of vision, prefill, denoise, and their total; attention is in it."""
    floor_ms: dict[str, float]
    """What this machine needs at least: products at its fastest measured rate, or reading the weights."""
    fraction_of_peak: dict[str, float]
    """Rate of a stage over the rate of its own products run alone."""
    speedup: float
    """Over the first engine without pruning, with as many steps and cameras (else over the first row); `policy`."""
    loses_time: bool
    """Whether pruning made it slower than the same without."""
    runs: int
    uncertainty: float
    """How far the 95 % interval of the median reaches, as a share of it."""


@dataclass(frozen=True)
class MeasuredLatency:
    """A benchmark that has ended."""

    policy: str
    rows: list[Row]
    peak: Peak
    advice: Advice
    facts: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        shown = {
            kind: {" x ".join(map(str, shape)): rate / 1e9 for shape, rate in getattr(self.peak, kind).items()}
            for kind in ("products", "quantised")
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "policy": self.policy,
            "rows": [asdict(row) for row in self.rows],
            "peak": {
                "products_gflops": shown["products"],
                "int8_gops": shown["quantised"],
                "copies_gb_per_s": {str(size): rate / 1e9 for size, rate in self.peak.copies.items()},
            },
            "adviser": self.advice.document(),
            **self.facts,
            **provenance(),
        }


class TimedEngine:
    """An engine that remembers its last run and how long it took."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, engine.model
        self.ms = 0.0
        self.last: Inference | None = None

    def run(self, inputs: Any, *args: Any, **kwargs: Any) -> Inference:
        timer = StageTimer(inputs.images.device)
        with timer("engine"):
            self.last = self.engine.run(inputs, *args, **kwargs)
        self.ms = timer.ms["engine"]
        return self.last

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        self.engine.prepare(*args, **kwargs)

    def report(self) -> dict[str, Any]:
        return self.engine.report()


@dataclass(frozen=True)
class Timed:
    """One inference."""

    policy_ms: float
    engine_ms: float
    stages_ms: dict[str, float]

    @property
    def model_ms(self) -> float:
        return sum(self.stages_ms[stage] for stage in MODEL_STAGES)


class Runner:
    """A policy set up as one variant says, with an observation to act on."""

    def __init__(self, policy: Policy, engine: Engine, variant: Variant, prompt: str) -> None:
        self.variant = variant
        self.timed = TimedEngine(engine)
        self.policy = set_up(policy, variant, self.timed)
        self.observation = observation(self.policy, variant.views, prompt)
        shape = self.policy.spec.noise_shape
        self.noise = None if shape is None else np.random.default_rng(0).standard_normal(shape, np.float32)

    def prepare(self, report: Reporter) -> None:
        """Compile what the engine compiles, for observations like this one."""
        device, noise = self.policy.device, None if self.noise is None else torch.from_numpy(self.noise[None])
        inputs = self.policy.processor.inputs([self.observation]).to(device)
        self.timed.prepare(inputs, None if noise is None else noise.to(device), self.policy.pruner, report)

    def __call__(self) -> Timed:
        chunk = self.policy.infer(self.observation, self.noise, session="bench")
        ms = chunk.timings_ms
        stages = {stage: ms[stage] for stage in STAGES if stage in ms and stage != "total"}
        return Timed(ms["total"], self.timed.ms, stages)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the last inference: before pruning, and what the backbone's last layer saw."""
        assert self.timed.last is not None
        return int(self.timed.last.mask.sum()), int(self.timed.last.post_lengths.sum())

    @property
    def padding(self) -> float:
        """Slots that its prefill had beyond the tokens, as a share of them."""
        assert self.timed.last is not None and self.timed.last.prefilled is not None
        return self.timed.last.prefilled.cache.prefix.mask.numel() / self.tokens[1] - 1

    @property
    def visual(self) -> int:
        """Patches among the tokens that the backbone's last layer saw."""
        assert self.timed.last is not None
        others = np.setdiff1d(np.arange(len(self.timed.last.layout)), self.timed.last.layout.patch_index)
        return self.tokens[1] - int(self.timed.last.mask[:, torch.from_numpy(others)].sum())


def observation(policy: Policy, views: int | None, prompt: str) -> Observation:
    """Noise as pictures; the first `views` cameras of the robot, None: all."""
    cameras = [names[0] for names in policy.spec.cameras.values() if names]
    needed, count = len(policy.spec.views), len(cameras) if views is None else views
    if not max(1, needed) <= count <= len(cameras):
        raise FoveateError(
            f"views {count}: policy {policy.spec.name!r} takes {max(1, needed)} to {len(cameras)} cameras "
            f"({', '.join(cameras)})"
        )
    chosen = [*policy.spec.views, *(camera for camera in cameras if camera not in policy.spec.views)][:count]
    rng, size = np.random.default_rng(0), policy.spec.image_size
    pictures = {camera: rng.integers(0, 256, (size, size, 3), np.uint8) for camera in chosen}
    return Observation(pictures, np.zeros(policy.spec.state_dim, np.float32), prompt)


def made_up_calibration(policy: Policy) -> Calibration:
    """Scales of random weights, which have no data: every layer in float8, whatever its error, for time alone."""
    seen = [policy.example(seed) for seed in range(LEAST_OBSERVATIONS)]
    inputs = [policy.processor.inputs([one]).to(policy.device) for one in seen]
    return Calibration("", len(seen), math.inf, *calibrate(policy.engine.model, inputs, Fp8()))


def variants_of(config: LatencyConfig, policy: Policy) -> list[Variant]:
    """The rows, the one that others are compared with first."""
    pruning = config.pruning or (("none", CHECKPOINT) if has_pruner(policy) else ("none",))
    views = config.views or ((2,) if config.random_weights else (None,))
    return matrix(policy, [*engines_of(config.engines, config)], pruning, config.denoising_steps, views)


def measure_latency(config: LatencyConfig, report: Reporter = SILENT) -> MeasuredLatency:
    """Run the benchmark.

    Raises:
        FoveateError: an engine, a pruning or a number of cameras that is not there, and what loading raises.
    """
    with report.status("loading the model"):
        policy = (
            untrained_policy(config.random_weights, device=config.device, dtype=config.dtype)
            if config.random_weights
            else replace(config, engine=Eager()).load(environ={})
        )
    presets, planned = engines_of(config.engines, config), {}
    scales: dict[str, Calibration | None] = {}
    if config.policy:
        folder = find_policy(config.policy)
        planned = read_plans(folder)
        presets = {name: replace(config, engines=(), engine=one).settled_engine({}) for name, one in presets.items()}
        scales = {name: calibration_of(one, folder) for name, one in presets.items()}
    elif any(one.rounds_to_float8 for one in presets.values()):
        made_up = made_up_calibration(policy)
        scales = dict.fromkeys(presets, made_up)
    variants = variants_of(config, policy)
    before = conditions(config.device)
    engines: dict[tuple[str, str, int | None], Engine] = {}
    runners: dict[Variant, Runner] = {}
    ready: dict[Variant, float] = {}
    for variant in variants:
        report.line(f"preparing {variant.name}")
        start = time.perf_counter()
        key = variant.engine, variant.pruning, variant.views
        if key not in engines:
            engines[key] = make_engine(
                policy.engine.model,
                presets[variant.engine],
                planned=planned,
                calibration=scales.get(variant.engine),
            )
        runners[variant] = Runner(policy, engines[key], variant, config.prompt)
        # Of an engine that is there as well: another number of steps may be another graph.
        runners[variant].prepare(report)
        runners[variant]()
        ready[variant] = time.perf_counter() - start
    work = {v: count_work(runner.policy, runner.observation) for v, runner in runners.items()}
    with report.status("measuring what this machine can do"):
        seconds = SECONDS / 5 if config.quick else SECONDS
        peak = measure_peak(_all(work.values()), _dtype(config), config.device, seconds)
    memory = {v: peak_memory(runner, config.device) for v, runner in runners.items()}
    rounds = Rounds(6, 6, warmup=1) if config.quick else Rounds(min(15, config.max_rounds), config.max_rounds)
    with report.bar("bench latency", "rounds", rounds.most) as bar:
        taken = sample(
            {v.name: runner for v, runner in runners.items()},
            lambda timed: timed.policy_ms,
            rounds,
            lambda done, widest: bar.advance(int(done > 0), f"noise {percent(widest, 1)}"),
        )
    medians = {v: float(np.median([t.policy_ms for t in taken[v.name]])) for v in variants}
    rows = [_row(runners[v], taken[v.name], work[v], peak, medians, ready=ready[v], memory=memory[v]) for v in variants]
    first = runners[variants[0]]
    model, width = first.policy.engine.model, _dtype(config).itemsize
    base = Base.of(rows[0], first.visual, work[variants[0]], peak, model.flops, width)
    facts = {
        "device": config.device,
        "dtype": config.dtype,
        "threads": torch.get_num_threads(),
        "conditions": {"before": before, "after": conditions(config.device)},
        "drift": drift([t.policy_ms for t in taken[variants[0].name]]),
        "settled": all(row.uncertainty <= rounds.share for row in rows),
        "prompt": config.prompt,
        "engines": [
            {"engine": engine, "pruning": pruning, "views": views, **made.report()}
            for (engine, pruning, views), made in engines.items()
        ],
    }
    return MeasuredLatency(policy.spec.name, rows, peak, advise(base, rows, config.target_hz), facts)


def _row(
    runner: Runner,
    taken: list[Timed],
    work: Mapping[str, Work],
    peak: Peak,
    medians: Mapping[Variant, float],
    *,
    ready: float,
    memory: float | None,
) -> Row:
    variant, (before, after) = runner.variant, runner.tokens
    stages = {stage: spread([t.stages_ms[stage] for t in taken]) for stage in taken[0].stages_ms}
    stages["kv_cache"] = stages["prefill"]
    flop = {stage: work[stage].flop / 1e9 for stage in MODEL_STAGES}
    floor = {stage: 1e3 * peak.floor(work[stage]) for stage in MODEL_STAGES}
    times = [t.policy_ms for t in taken]
    unpruned = replace(variant, pruning="none")
    start = next(iter(medians))
    like = replace(unpruned, engine=start.engine)
    return Row(
        engine=variant.engine,
        pruning=variant.pruning,
        denoising_steps=variant.steps,
        views=len(runner.observation.images),
        tokens_before=before,
        tokens_after=after,
        padding=runner.padding,
        ready_s=ready,
        memory_peak_mb=memory,
        model_ms=spread([t.model_ms for t in taken]),
        engine_ms=spread([t.engine_ms for t in taken]),
        policy_ms=spread(times),
        stages_ms=stages,
        gflop={**flop, "total": sum(flop.values())},
        floor_ms={**floor, "total": sum(floor.values())},
        fraction_of_peak={
            stage: 1e3 * work[stage].flop / stages[stage]["p50"] / peak.rate(work[stage]) for stage in MODEL_STAGES
        },
        speedup=medians[like if like in medians else start] / medians[variant],
        loses_time=variant.pruning != "none" and medians.get(unpruned, float("inf")) < medians[variant],
        runs=len(times),
        uncertainty=uncertainty(times),
    )


def _all(works: Iterable[Mapping[str, Work]]) -> dict[str, Work]:
    """All stages of all variants under names of their own."""
    return {f"{i} {stage}": work for i, stages in enumerate(works) for stage, work in stages.items()}


def _dtype(config: LatencyConfig) -> torch.dtype:
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
