"""Episodes of a policy in simulators: parallel environments, one policy, batched inference.

Each environment has a thread that plays one episode after the other (`play`); whoever needs an action chunk asks
and waits. The caller's thread answers (`rollout`): it gathers those who wait into a batch, infers, and hands out
the chunks. Knows nothing of files or progress bars: what happens is told through callbacks.

Determinism: the noise of an inference depends on (seed, task, episode, query) alone and the scene on
(task, seed + episode), so results depend neither on the number of workers nor on an interruption, and variants are
compared on the same scenes. What remains is rounding: a batch of two may differ from two batches of one in the last
bits of a float32, which closed loops amplify; `max_batch=1` gives bit-equal repetitions.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from foveate.envs.base import EnvCrash, Snapshot, StepResult
from foveate.errors import ActionsNotFinite, FoveateError, reason_of
from foveate.evaluation.sim.latency import Latency
from foveate.types import LEVELS, ActionChunk, EpisodeResult, LeftOver, Observation, Trace
from foveate.util.files import fault_of
from foveate.util.noise import action_noise, stack_noise

if TYPE_CHECKING:
    from foveate.policy import TraceOptions


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    task: str
    task_id: int
    episode: int
    seed: int
    """Seed of the scene."""


class JobQueue:
    """Hands out jobs; a worker stays with its task, for loading another one takes a simulator seconds."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._todo, self._lock = list(jobs), threading.Lock()
        self._playing: list[str] = []

    def __len__(self) -> int:
        return len(self._todo)

    def take(self, last: str | None) -> Job | None:
        """The next job of the worker whose last job was of task `last`; None: there is none left."""
        with self._lock:
            if last is not None:
                self._playing.remove(last)
            if not self._todo:
                return None
            same = [job for job in self._todo if job.task == last]
            fresh = [job for job in self._todo if job.task not in self._playing]
            job = (same or fresh or self._todo)[0]
            self._todo.remove(job)
            self._playing.append(job.task)
            return job


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are played."""

    seed: int = 0
    max_steps: int = 300
    """Steps after which an episode has failed, where the environment does not stop earlier."""
    replan_steps: int = 5
    """Actions of a chunk that are executed before the policy is asked again."""
    max_batch: int = 8
    """Observations per inference at most."""
    window_ms: float = 3.0
    """How long an observation waits for others to share its inference."""
    variant: str = "full"
    latency: Latency | None = None
    """How the simulator goes on while the policy thinks; None: it stands still."""


@dataclass(frozen=True)
class Query:
    """One inference and where in its episode it stands."""

    job: Job
    index: int
    step: int
    observation: Observation
    """As the policy saw it."""
    left_over: LeftOver | None = None
    """What the robot has left of the chunk before, where the policy is told."""


@dataclass(frozen=True)
class Answer:
    """What the policy answered, and how many observations shared the inference."""

    chunk: ActionChunk
    batch: int
    delay_steps: int = 0
    """Steps of the environment that passed before the chunk was there."""


class BatchPolicy(Protocol):
    """What a rollout needs of a policy."""

    def infer_batch(
        self,
        observations: Sequence[Observation],
        noise: np.ndarray | None = None,
        *,
        evidence: TraceOptions | None = None,
        sessions: Sequence[str | None] | None = None,
        left_over: Sequence[LeftOver | None] | None = None,
    ) -> list[ActionChunk]: ...
    def reset(self, session: str | None = None) -> None: ...


class RestartableEnv(Protocol):
    """What a rollout needs of an environment; `foveate.envs.WorkerEnv` in practice."""

    def reset(self, task: str, seed: int) -> Observation: ...
    def step(self, action: np.ndarray, render: bool = True) -> StepResult: ...
    def restart(self) -> None: ...
    def snapshot(self, size: tuple[int, int] | None = None) -> Snapshot | None: ...
    def segment(self, size: tuple[int, int] | None = None) -> dict[str, dict[str, np.ndarray]] | None: ...


class Recorder(Protocol):
    """Takes in every frame of one episode; it may ask the environment what else it knows of it."""

    def add(self, observation: Observation, action: np.ndarray | None, env: RestartableEnv) -> None: ...
    def finish(self, result: EpisodeResult) -> None: ...


@dataclass
class Played:
    """An episode that has ended, and its inferences as rows of `queries.jsonl`."""

    result: EpisodeResult
    queries: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    """What went wrong beside it, where the result stands nevertheless."""


@dataclass
class Progress:
    """What is known of a running episode; filled step by step, so that a crash loses nothing."""

    steps: int = 0
    success: bool = False
    instruction: str = ""
    scene: Mapping[str, Any] = field(default_factory=dict)
    """What the episode began with beside its seed, where the environment tells."""
    answers: list[tuple[Query, Answer]] = field(default_factory=list)


class Stopped(Exception):
    """The rollout is over; a running episode is given up without a trace."""


Ask = Callable[[Query], Answer]
Perceive = Callable[[Observation, str, int], Observation]


def play(
    env: RestartableEnv,
    job: Job,
    ask: Ask,
    perceive: Perceive,
    config: RolloutConfig,
    now: Progress,
    recorder: Recorder | None,
) -> None:
    """One episode in open-loop chunks; ends at the first success, at `done` or after `max_steps`.

    With a latency the world goes on after each picture until its chunk is there; see `latency`.

    Raises:
        EnvCrash: the simulator died or hung, the policy cannot take what it shows, or its actions are not finite.
    """
    observation = env.reset(job.task, job.seed)
    now.scene = dict(getattr(env, "scene", {}))
    now.instruction = observation.prompt
    rest, action = np.empty((0, 0), np.float32), None
    while True:
        before = now.answers[-1][1].chunk if now.answers else None
        left = config.latency.left_over(rest, before) if config.latency else None
        query = Query(job, len(now.answers), now.steps, perceive(observation, job.task, job.episode), left)
        now.instruction = query.observation.prompt
        answer = ask(query)
        waiting, first = config.latency.meanwhile(answer.chunk, rest, action) if config.latency else ([], 0)
        now.answers.append((query, dataclasses.replace(answer, delay_steps=len(waiting))))
        new, rest = np.split(answer.chunk.actions[first:], [config.replan_steps])
        if not np.isfinite(new).all():
            raise EnvCrash(f"the policy answered actions that are not finite, at step {now.steps}, query {query.index}")
        actions = [*waiting, *new]
        for i, action in enumerate(actions):
            if recorder is not None:
                recorder.add(observation, action, env)
            # A picture costs more than a step: it is rendered only for the next inference or for the record.
            last = i == len(actions) - 1
            result = env.step(action, render=last or recorder is not None)
            observation = result.observation or observation
            now.steps += 1
            now.success = result.success
            if result.success or result.done or now.steps >= config.max_steps:
                if recorder is not None:
                    recorder.add(observation, None, env)
                return


def rollout(
    policy: BatchPolicy,
    envs: Sequence[RestartableEnv],
    jobs: Iterable[Job],
    config: RolloutConfig,
    *,
    noise_shape: tuple[int, int] | None,
    on_episode: Callable[[Played], None],
    evidence: TraceOptions | None = None,
    on_inference: Callable[[Query, ActionChunk], None] = lambda query, chunk: None,
    perceive: Perceive = lambda observation, task, episode: observation,
    gflops: Callable[[Trace], float] | None = None,
    recorder: Callable[[Job], Recorder] | None = None,
) -> None:
    """Play all jobs; callbacks run in this thread, except those of `recorder`.

    Args:
        noise_shape: [action_horizon, model action_dim]; None: the policy decodes without noise.
        on_episode: receives each episode as it ends; what it raises ends the rollout.
        evidence: what the trace of every inference shall hold; None: there is none.
        perceive: (observation, task, episode) -> what the policy is shown.
        gflops: cost of one inference from its trace.
        recorder: makes the recorder of an episode; then every frame is rendered.
    Raises:
        FoveateError: an environment cannot be restarted, or the policy cannot infer.
    """
    inbox: queue.Queue[Any] = queue.Queue()
    todo, stop = JobQueue(jobs), threading.Event()

    def episode(env: RestartableEnv, job: Job) -> Played:
        ask = functools.partial(_ask, inbox, stop)
        return _episode(env, job, ask, perceive, config, gflops, recorder)

    playing = min(len(envs), len(todo))
    for i, env in enumerate(envs[:playing]):
        threading.Thread(target=_work, args=(episode, env, todo, inbox, stop), daemon=True, name=f"env-{i}").start()
    taken: Observation | None = None
    try:
        while playing:
            asks: list[tuple[Query, Future[Answer]]] = []
            for event in _gather(inbox, min(config.max_batch, playing), config.window_ms / 1e3):
                if isinstance(event, Played):
                    policy.reset(session_of(event.result.task, event.result.episode))
                    on_episode(event)
                elif isinstance(event, BaseException):
                    raise event
                elif event is None:
                    playing -= 1
                else:
                    asks.append(event)
            if asks:
                queries = [query for query, _ in asks]
                chunks = _infer(policy, queries, config.seed, noise_shape, evidence, taken)
                for (query, future), chunk in zip(asks, chunks, strict=True):
                    if isinstance(chunk, EnvCrash):
                        future.set_exception(chunk)
                        continue
                    taken = query.observation
                    future.set_result(Answer(chunk, len(asks)))
                    on_inference(query, chunk)
    finally:
        stop.set()


def _infer(
    policy: BatchPolicy,
    queries: Sequence[Query],
    seed: int,
    noise_shape: tuple[int, int] | None,
    evidence: TraceOptions | None,
    taken: Observation | None,
) -> list[ActionChunk | EnvCrash]:
    """A chunk per query; a crash of its episode in place of one that the policy cannot take, whatever it raises.

    Args:
        taken: an observation that the policy has taken before. Where it does not take this one either, the policy is at
            fault and not what it was shown, and its error is raised.
    """
    noise = stack_noise([noise_of(seed, query, noise_shape) for query in queries])
    sessions = [session_of(query.job.task, query.job.episode) for query in queries]
    try:
        seen = [query.observation for query in queries]
        left = [query.left_over for query in queries]
        told: dict[str, Any] = {} if all(one is None for one in left) else {"left_over": left}
        return list(policy.infer_batch(seen, noise, evidence=evidence, sessions=sessions, **told))
    except ActionsNotFinite as error:
        return list(error.chunks)  # ends the episodes that they are of, see `play`
    except Exception as error:
        if taken is None:
            raise
        if len(queries) > 1:
            return [part for q in queries for part in _infer(policy, [q], seed, noise_shape, evidence, taken)]
        try:
            with suppress(ActionsNotFinite):
                policy.infer_batch([taken], noise, evidence=evidence, sessions=["known"])
        except Exception:
            raise error from None
        finally:
            policy.reset("known")
        (query,) = queries
        return [EnvCrash(f"the policy cannot take what it is shown at step {query.step}: {reason_of(error)}")]


def session_of(task: str, episode: int) -> str:
    """The name under which a policy remembers an episode."""
    return f"{task}/{episode}"


def noise_of(seed: int, query: Query, shape: tuple[int, int] | None) -> np.ndarray | None:
    """float32 [action_horizon, action_dim], standard normal, the same for the same (seed, task, episode, query)."""
    return action_noise(shape, *noise_key(seed, query.job.task, query.job.episode, query.index))


def noise_key(seed: int, task: str, episode: int, query: int) -> tuple[int, int, int, int]:
    """What the noise of an inference is drawn by."""
    return seed, zlib.crc32(task.encode()), episode, query


def _gather(inbox: queue.Queue[Any], asks: int, window_s: float) -> list[Any]:
    """The next event, and with a request those that follow within the window, up to `asks` requests."""
    events = [inbox.get()]
    deadline = time.monotonic() + window_s
    while sum(isinstance(event, tuple) for event in events) < asks:
        try:
            events.append(inbox.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            break
    return events


def _ask(inbox: queue.Queue[Any], stop: threading.Event, query: Query) -> Answer:
    """Hand a query to the thread that infers, and wait."""
    future: Future[Answer] = Future()
    inbox.put((query, future))
    while not stop.is_set():
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            continue
    raise Stopped


def _work(
    episode: Callable[[RestartableEnv, Job], Played],
    env: RestartableEnv,
    todo: JobQueue,
    inbox: queue.Queue[Any],
    stop: threading.Event,
) -> None:
    """Play jobs until none is left; whatever goes wrong, the inbox hears of it."""
    try:
        task = None
        while not stop.is_set() and (job := todo.take(task)) is not None:
            inbox.put(episode(env, job))
            task = job.task
        inbox.put(None)
    except BaseException as error:
        inbox.put(error)


def _episode(
    env: RestartableEnv,
    job: Job,
    ask: Ask,
    perceive: Perceive,
    config: RolloutConfig,
    gflops: Callable[[Trace], float] | None,
    make_recorder: Callable[[Job], Recorder] | None,
) -> Played:
    """Play one episode; whatever goes wrong in it is part of its result, but for a record that cannot be written."""
    start = time.perf_counter()
    now, error, recorder = Progress(), "", None
    try:
        recorder = make_recorder(job) if make_recorder is not None else None
        play(env, job, ask, perceive, config, now, recorder)
    except Stopped:
        raise
    except Exception as crash:
        error = fault_of(crash)
        try:
            env.restart()
        except Exception as second:
            raise FoveateError(
                f"the environment crashed ({error}) and cannot be started again: {reason_of(second)}"
            ) from crash
    played = _conclude(job, now, error, time.perf_counter() - start, config, gflops)
    if recorder is not None:
        try:
            recorder.finish(played.result)
        except Exception as problem:
            told = f"{job.task} episode {job.episode}: its recording could not be finished: {fault_of(problem)}"
            played.warnings.append(told)
    return played


def _conclude(
    job: Job, now: Progress, error: str, wall_s: float, config: RolloutConfig, gflops: Callable[[Trace], float] | None
) -> Played:
    """Turn what happened into one flat episode and its rows of inferences."""
    variant, latency = config.variant, config.latency
    rows: list[dict[str, Any]] = []
    for query, answer in now.answers:
        trace = answer.chunk.trace
        row = {"variant": variant, "task": job.task, "episode": job.episode, "query": query.index, "step": query.step}
        row |= {"batch": answer.batch, **({"delay_steps": answer.delay_steps} if latency else {}), **_kept(trace)}
        if trace is not None and trace.decision is not None:
            row |= {f"look_{view}": level for view, level in trace.decision.level.items()}
        if trace is not None and "prefix_reused" in trace.seq_lens:
            row["prefix_reused"] = trace.seq_lens["prefix_reused"]
        row |= {f"{stage}_ms": round(ms, 3) for stage, ms in answer.chunk.timings_ms.items()}
        if "prefill_ms" in row:
            row["kv_cache_ms"] = row["prefill_ms"]
        if gflops is not None and trace is not None:
            row["gflops"] = round(gflops(trace), 6)
        rows.append(row)

    def column(name: str) -> list[float]:
        return [row[name] for row in rows if name in row]

    def quantile(name: str, q: float) -> float | None:
        return float(np.percentile(column(name), q)) if column(name) else None

    medians = {
        name.removesuffix("_ms"): quantile(name, 50) for name in (rows[0] if rows else ()) if name.endswith("_ms")
    }
    result = EpisodeResult(
        task=job.task,
        episode=job.episode,
        seed=job.seed,
        variant=variant,
        status="crash" if error else "success" if now.success else "failure",
        steps=now.steps,
        queries=len(rows),
        instruction=now.instruction,
        kept_mean=float(np.mean(column("kept"))) if column("kept") else None,
        patches=int(column("patches")[0]) if column("patches") else None,
        latency_ms_p50=quantile("total_ms", 50),
        latency_ms_p95=quantile("total_ms", 95),
        stages_ms_p50={stage: ms for stage, ms in medians.items() if ms is not None and stage != "total"},
        gflops_mean=float(np.mean(column("gflops"))) if column("gflops") else None,
        wall_s=round(wall_s, 3),
        error=error,
        extra={"task_id": job.task_id, **now.scene},
    )
    if looks := [level for row in rows for name, level in row.items() if name.startswith("look_")]:
        result.extra |= {f"look_{level.lower()}": round(looks.count(level) / len(looks), 6) for level in LEVELS}
    if latency is not None:
        delay_steps = sum(answer.delay_steps for _, answer in now.answers)
        result.extra |= {"inject_latency": latency.inject, "delay_steps": delay_steps}
        if latency.chunking != "queue":
            result.extra["chunking"] = latency.chunking
    return Played(result, rows)


def _kept(trace: Trace | None) -> dict[str, int]:
    """Visual tokens of one inference before (cameras that are there) and after pruning."""
    if trace is None or trace.keep is None:
        return {}
    mask = trace.keep["keep_mask"]
    kept = {f"kept_{view}": int(mask[part].sum()) for view, part in trace.layout.view_slices.items()}
    return {"kept": int(mask.sum()), "patches": int(trace.keep.get("valid", np.ones_like(mask)).sum()), **kept}
