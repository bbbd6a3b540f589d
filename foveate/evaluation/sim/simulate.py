"""A policy against a suite of tasks: configuration, checks before episode 1, and the run itself.

    summary = simulate(SimConfig(policy="metaworld_tiny", out="runs/try"), policy, log)

Joins policy, environments, trace store and recorder; `foveate eval sim` adds the progress bar and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.envs.base import check_simulator
from foveate.envs.libero.protocol import ProtocolName, get_protocol
from foveate.envs.libero.suites import perturbed
from foveate.envs.suites import env_of_suite, resolve_tasks
from foveate.envs.worker import WorkerEnv
from foveate.errors import ActionsNotFinite, FoveateError
from foveate.evaluation.sim import agreement
from foveate.evaluation.sim.collapse import KeepWatch
from foveate.evaluation.sim.controls import Instruction, Perception, Vision, variant_name
from foveate.evaluation.sim.latency import Chunking, Inject, Latency, label
from foveate.evaluation.sim.record import RecordKind, drop_unfinished, make_recorder
from foveate.evaluation.sim.results import RunLog
from foveate.evaluation.sim.rollout import Job, Played, Query, RolloutConfig, rollout
from foveate.policy import LoadOptions, Policy, TraceOptions, at_least_one
from foveate.pruning import label as method_and_budget
from foveate.tracing.store import TraceStore, forget_unfinished
from foveate.types import ActionChunk
from foveate.util.words import plural

if TYPE_CHECKING:
    from foveate.evaluation.sim.remote import RemotePolicy


@dataclass(frozen=True)
class EnvConfig:
    """Which simulator, and how it is run."""

    name: str = "metaworld"
    """`metaworld`, `libero`, or one's own as `module:Class`; `--env NAME` is short for it."""
    python: str | None = None
    """Interpreter of the workers, where the simulator needs other packages; None: this one, or LIBERO's own."""
    timeout_s: float = 60.0
    """A worker that is silent for so long counts as hung: one crashed episode."""
    image_size: int | None = None
    """Side of the rendered pictures in pixels; None: as the simulator's own default."""
    max_steps: int | None = None
    """Steps after which an episode has failed; None: the simulator's own limit."""
    seed: int | None = None
    """LIBERO alone: seed of the simulator, which places fixtures by it; None: the protocol's (openpi's 7)."""

    def __post_init__(self) -> None:
        at_least_one(self, "image_size", "max_steps")
        if not self.timeout_s > 0:
            raise FoveateError(f"env.timeout_s: expected seconds above 0, got {self.timeout_s:g}")

    def options(self) -> dict[str, Any]:
        """What is handed to the environment's constructor."""
        given = {"image_size": self.image_size, "max_steps": self.max_steps, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(LoadOptions):
    """A policy, and what it is played on."""

    env: EnvConfig = field(default_factory=EnvConfig)
    task_suite_name: str = "foveate"
    """A suite (foveate, mt10, libero_spatial ...) or tasks separated by commas."""
    num_trials_per_task: int | None = None
    """Episodes per task; None: 10, in LIBERO 50 or the protocol's, with --quick 3."""
    quick: bool = False
    """Three tasks and three episodes of each: does everything run?"""
    protocol: ProtocolName | None = None
    """LIBERO alone: evaluate as `openpi`, `oft`, `lightvla` or `lerobot` do; None: scenes and limits are openpi's."""
    seed: int = 0
    """Random seed of scenes and noise; episode i plays in scene seed + i, whatever the variant."""
    allow_unchecked: bool = False
    """Run an engine that `foveate engine check` has not compared with eager on this machine; the results say so."""
    replan_steps: int | None = None
    """Actions of a chunk that are executed before the policy looks again; None: 5, or the protocol's."""
    num_workers: int = 2
    """Simulators that run in parallel."""


@dataclass(frozen=True, kw_only=True)
class SimConfig(SuiteConfig):
    """Score a policy in a simulator, traced if asked; the same command again goes on where it was interrupted."""

    out: str | None = None
    """Run folder of a run without trace; default runs/<policy>_<suite>_<variant>."""
    trace_out_dir: str | None = None
    """Run folder of a traced run."""
    trace_max_dumps_per_run: int | None = None
    """Inferences whose dumps are kept, spread over tasks and episodes; None: all."""
    trace_max_plots: int | None = 200
    """Inferences whose overlays are drawn at the end, evenly over the run; None: all. See `foveate trace plot`."""
    trace_save_policy_images: bool = True
    """Save the pictures that the policy saw, which overlays need."""
    trace_dump_routing: bool = True
    """Write what the pruner kept, and its scores."""
    trace_dump_attn: bool = False
    """Write attention of the text over the image patches."""
    trace_attn_layers: tuple[int, ...] = (1, -1)
    """Backbone layers whose attention is written; negative ones count from the last."""
    store_raw_score: bool = False
    """Write the pruner's whole score matrix; large."""
    perturb: tuple[str, ...] | None = None
    """LIBERO alone: play the suite plain and in these forms, full and pruned: swap, lan, task, object."""
    max_batch: int | None = None
    """Observations per inference at most; None: num_workers. 1 makes repetitions bit-equal."""
    variant: str | None = None
    """Name of this run in tables; None: made from pruner and controls."""
    vision: Vision = "normal"
    """`blind` shows grey images: how much is vision needed?"""
    instruction: Instruction = "normal"
    """`shuffled` gives the instruction of another task: how much is language needed?"""
    inject_latency: Inject | None = None
    """The simulator goes on while the policy thinks: `measured`, or this many milliseconds; None: it waits."""
    chunking: Chunking = "queue"
    """Beside --inject_latency: the robot goes on with its old chunk (`queue`), the policy is told what is left of it
    (`real_time`), or the robot holds still until the new one is there (`synchronous`)."""
    record: RecordKind | None = None
    """Record every frame: `droid` as DROID-format folders, `video` as mp4."""
    record_size: tuple[int, int] | None = None
    """Width and height of recorded pictures, as 1280,720, rendered for the record alone; None: what the policy sees."""
    record_masks: bool = False
    """Beside --record droid: record where each object is in the pictures, as the simulator knows it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trace_out_dir:  # `run_libero_eval` says so that nothing is traced
            object.__setattr__(self, "trace_out_dir", None)
        if self.env.name == "metaworld" and env_of_suite(self.task_suite_name) == "libero":
            object.__setattr__(self, "env", replace(self.env, name="libero"))
        if self.perturb is not None:
            perturbed(self.task_suite_name, self.perturb)
        if self.env.name == "metaworld" and (self.protocol is not None or self.env.seed is not None):
            raise FoveateError(
                "protocol and env.seed are LIBERO's; add --task_suite_name libero_spatial, or leave them out"
            )
        protocol = get_protocol(self.protocol)
        trials = 3 if self.quick else protocol.trials if self.env.name == "libero" else 10
        self._fill(num_trials_per_task=trials, replan_steps=protocol.replan_steps)
        at_least_one(self, "num_trials_per_task", "replan_steps", "num_workers", "max_batch", "trace_max_plots")
        if self.seed < 0:
            raise FoveateError(f"seed: expected at least 0, got {self.seed}")
        if self.inject_latency == "measured":
            self._fill(max_batch=1)
            if self.max_batch != 1:
                raise FoveateError(
                    f"inject_latency measured: a robot waits for its own inference alone; leave max_batch "
                    f"{self.max_batch} out, or set it to 1"
                )
        elif self.inject_latency is not None and not 0 <= self.inject_latency < float("inf"):
            raise FoveateError(f"inject_latency: expected milliseconds from 0 on, got {self.inject_latency:g}")
        if self.chunking != "queue" and self.inject_latency is None:
            raise FoveateError(
                f"chunking {self.chunking}: is what happens during a latency; add --inject_latency 50, say"
            )
        if self.record_size is not None and (self.record is None or min(self.record_size) < 16):
            raise FoveateError(
                f"record_size {self.record_size}: expected a width and height of at least 16 pixels, beside --record"
            )
        if self.record_masks and self.record != "droid":
            raise FoveateError("record_masks: masks stand beside the frames of DROID folders; add --record droid")
        if self.out is not None and self.trace_out_dir is not None:
            raise FoveateError(
                f"out ({self.out}) and trace_out_dir ({self.trace_out_dir}) both name the run folder; give one: "
                "trace_out_dir turns the trace on, out leaves it off"
            )

    def _fill(self, **values: Any) -> None:
        """Set what nobody said."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def remote(self) -> bool:
        """Whether the policy is behind a server."""
        return self.policy.startswith(("ws://", "wss://"))

    def jobs(self) -> list[Job]:
        """All episodes, task by task."""
        tasks = resolve_tasks(self.task_suite_name, self.env.name)[: 3 if self.quick else None]
        trials = range(self.num_trials_per_task or 0)
        return [Job(task, i, episode, self.seed + episode) for i, task in enumerate(tasks) for episode in trials]


def pruner_label(policy: Policy | RemotePolicy) -> str | None:
    """Method and budget: `lightvla`, `random_0.25`; None where all tokens are kept."""
    if policy.pruner is None or not policy.pruner.enabled:
        return None
    return method_and_budget(policy.pruner.config)


def name_variant(config: SimConfig, policy: Policy | RemotePolicy) -> str:
    """The name given, or one from method, budget, controls and latency: `full`, `random_0.25_blind` ..."""
    made = variant_name(pruner_label(policy), config.vision, config.instruction)
    if config.looking is not None:
        made += f"_look_{config.looking.label}"
    return config.variant or (
        made if config.inject_latency is None else f"{made}_{label(config.inject_latency, config.chunking)}"
    )


def check_first(config: SimConfig) -> None:
    """What can be told before anything is loaded.

    Raises:
        FoveateError: a task, a traced layer or the simulator is not there.
    """
    config.jobs()
    check_simulator(config.env.name, config.env.python)
    config.check_layers(_trace_options(config).attn_layers, "--trace_attn_layers")


def simulate(
    config: SimConfig,
    policy: Policy | RemotePolicy,
    log: RunLog,
    *,
    variant: str,
    on_episode: Callable[[Played], None] = lambda played: None,
    on_start: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Play the episodes that are not in the log yet; returns warnings.

    Args:
        log: of the run folder `log.folder`, where trace and recordings go too.
        on_start: called when all checks have passed and episode 1 begins.
        tell: receives what is worth a line on the screen: the simulator, the settings.
    Raises:
        FoveateError: before episode 1, where conventions, views or tasks do not fit; later, where results cannot
            be written or the simulator cannot be restarted.
    """
    done = log.done
    jobs = [job for job in config.jobs() if (variant, job.task, job.episode) not in done]
    if not jobs:
        return []
    tasks = tuple(dict.fromkeys(job.task for job in config.jobs()))
    assert config.replan_steps is not None
    if config.replan_steps > policy.spec.action_horizon:
        raise FoveateError(
            f"replan_steps {config.replan_steps}: the policy gives {policy.spec.action_horizon} actions at a time"
        )
    policy.spec.check_layers(_trace_options(config).attn_layers, "--trace_attn_layers")
    if config.chunking == "real_time" and not policy.real_time_chunking:
        raise FoveateError(
            "chunking real_time: this policy can neither be guided (an engine that denoises eagerly can: "
            "--engine.denoise eager) nor was it trained with rtc.max_delay; choose queue"
        )
    with ExitStack() as stack:
        if config.record:
            stack.callback(drop_unfinished, log.folder)  # when all simulators have ended
        envs = _start(config, tasks, min(config.num_workers, len(jobs)), stack)
        environment = agreement.agree(config, envs[0], policy.spec)
        for line in agreement.lines(environment):
            tell(line)
        latency = None
        if config.inject_latency is not None:
            latency = Latency(config.inject_latency, envs[0].conventions, config.chunking)
        perceive = _perception(config, envs[0], tasks)
        # A real observation through the policy: a missing view or a state of another size shows up here, and the
        # first inferences of either size, which are slow, are not measured.
        first = envs[0].reset(jobs[0].task, jobs[0].seed)
        environment["warnings"] += envs[0].examine()
        agreement.write(log.folder, environment)
        for warning in environment["warnings"]:
            tell(f"warning: {warning}")
        if config.record_size is not None and envs[0].snapshot() is None:
            raise FoveateError(
                f"record_size: environment {config.env.name!r} renders no other pictures than the policy's; leave "
                "--record_size out, or choose --env.image_size"
            )
        if config.record_masks and envs[0].segment() is None:
            raise FoveateError(f"record_masks: environment {config.env.name!r} cannot tell objects apart; leave it out")
        for batch in {1, min(len(envs), config.max_batch or config.num_workers)}:
            with suppress(ActionsNotFinite):  # episodes tell of them
                policy.infer_batch([first] * batch, evidence=_trace_options(config), sessions=["warm-up"] * batch)
        policy.reset()
        watch = KeepWatch()
        if config.trace_out_dir is not None:
            task_ids = {job.task: job.task_id for job in config.jobs()}
            ended = {(e.extra.get("task_id", task_ids.get(e.task, 0)), e.episode) for e in log.episodes}
            forget_unfinished(log.folder, ended)
        store = _trace_store(config, log.folder, policy, stack)
        found: list[str] = list(environment["warnings"])

        def on_inference(query: Query, chunk: ActionChunk) -> None:
            trace = chunk.trace
            if trace is None or trace.keep is None:  # a server that does not tell
                return
            watch.add((query.job.task, query.job.episode, query.step), trace.keep, trace.layout.view_slices)
            if store is not None:
                store.submit(trace, query.observation, _meta(config, query, variant), chunk.actions)

        def finish(played: Played) -> None:
            if store is not None:
                store.flush()  # data first: an episode in the log lacks nothing
            found.extend(played.warnings)
            log.add(played.result, played.queries)
            on_episode(played)

        on_start()
        rollout(
            policy,
            envs,
            jobs,
            RolloutConfig(
                seed=config.seed,
                max_steps=envs[0].max_steps,
                replan_steps=config.replan_steps,
                max_batch=config.max_batch or config.num_workers,
                variant=variant,
                latency=latency,
            ),
            noise_shape=policy.spec.noise_shape,
            evidence=_trace_options(config),
            on_episode=finish,
            on_inference=on_inference,
            perceive=perceive,
            gflops=(lambda trace: policy.cost(trace)["total"]) if isinstance(policy, Policy) else None,
            recorder=make_recorder(
                config.record,
                log.folder,
                envs[0].conventions,
                policy.spec.name,
                done,
                config.record_size,
                config.record_masks,
            )
            if config.record
            else None,
        )
    warnings = found + (trace_warnings(store) if store is not None else [])
    if policy.pruner is not None and policy.pruner.enabled:
        warnings += watch.warnings()
    return warnings


def _trace_options(config: SimConfig) -> TraceOptions:
    """Routing evidence is always asked for: the kept tokens stand in every result."""
    traced = config.trace_out_dir is not None
    return TraceOptions(
        routing=True,
        attn_layers=config.trace_attn_layers if traced and config.trace_dump_attn else (),
        raw_score=traced and config.store_raw_score,
    )


def _trace_store(config: SimConfig, folder: Path, policy: Policy | RemotePolicy, stack: ExitStack) -> TraceStore | None:
    if config.trace_out_dir is None:
        return None
    store = TraceStore(
        folder,
        config.trace_max_dumps_per_run,
        config.trace_save_policy_images,
        config.trace_dump_routing,
        config.trace_dump_attn,
        views=policy.spec.cameras,
        model_image_size=policy.spec.image_size,
        model_crop=policy.spec.crop,
    )
    stack.callback(store.close)
    return store


def trace_warnings(store: TraceStore) -> list[str]:
    """What went wrong with the trace, and how many inferences have no dump because of it."""
    became = store.close()
    if not became["failed"]:
        return list(store.warnings)
    without = became["failed"] + became["dropped"]
    return [*store.warnings, f"trace: no dump of {without} of {plural(without + became['written'], 'inference')}"]


def _start(config: SimConfig, tasks: Sequence[str], count: int, stack: ExitStack) -> list[WorkerEnv]:
    """Start the workers at once: a simulator takes seconds to load."""
    options = {"tasks": tuple(tasks), **config.env.options()}
    if config.protocol is not None:
        options["protocol"] = config.protocol

    def start(_: int) -> WorkerEnv:
        env = WorkerEnv(config.env.name, python=config.env.python, timeout_s=config.env.timeout_s, **options)
        stack.callback(env.close)
        return env

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def _perception(config: SimConfig, env: WorkerEnv, tasks: Sequence[str]) -> Perception:
    """The control's filter; where instructions are swapped, each task is asked for its own first."""
    shuffled = config.instruction == "shuffled"
    instructions = {task: env.reset(task, config.seed).prompt for task in tasks} if shuffled else {}
    return Perception(config.vision, config.instruction, instructions, config.seed)


def _meta(config: SimConfig, query: Query, variant: str) -> dict[str, Any]:
    return {
        "task_suite": config.task_suite_name,
        "task": query.job.task,
        "task_id": query.job.task_id,
        "episode": query.job.episode,
        "step": query.step,
        "query": query.index,
        "instruction": query.observation.prompt,
        "checkpoint": config.policy,
        "variant": variant,
        "seed": query.job.seed,
    }
