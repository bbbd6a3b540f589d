"""Demonstrations of Meta-World tasks: scripted experts recorded in several simulators at once, resumable.

info = record_demos(MetaWorldDemosConfig(out="demos", tasks="reach:20"))
DemoDataset.load("demos")                                                   # data.demos
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from foveate.data.demos import finished_episodes, write_episode, write_meta
from foveate.demonstrations.experts import Learner, NoiseConfig, demonstrate
from foveate.envs.metaworld.env import CONVENTIONS, MetaWorldEnv, instruction_of
from foveate.envs.suites import resolve_tasks
from foveate.errors import FoveateError
from foveate.util.files import alone_in
from foveate.util.process import die_with_parent
from foveate.util.progress import SILENT, Reporter

ATTEMPTS = 20
SEED_STRIDE = 100_000


@dataclass(frozen=True)
class MetaWorldDemosConfig:
    """Record demonstrations of Meta-World tasks, with disturbed actions and clean labels."""

    out: str
    """Folder to write (or to go on with, after an interruption)."""
    tasks: str = "foveate"
    """A suite or tasks separated by commas; `push:100` asks for 100 episodes of that task."""
    episodes: int = 60
    """Successful episodes per task, where the task does not name its own number."""
    seed: int = 10_000
    """Seed of the first scene; evaluation uses seeds below 10000."""
    workers: int = 2
    """Simulators running in parallel."""
    image_size: int = 224
    """Side of the rendered pictures, in pixels."""
    store_size: int = 112
    """Side of the stored pictures, in pixels; divides `image_size`."""
    image_every: int = 2
    """Store a picture at every n-th step; states and actions are stored at all."""
    max_steps: int = 180
    """Episodes without success after this many steps are dropped and tried with another seed."""
    extra_steps: int = 10
    """Steps recorded beyond the first success."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Disturbance of the executed actions."""
    learner: str | None = None
    """A policy (folder or shipped name) that drives in turn with the expert, who labels every state: DAgger. Its
    failed episodes are kept."""
    learner_share: float = 0.8
    """Share of the chunks that the learner drives, 0 to 1."""
    learner_steps: int = 6
    """Actions that the learner executes before the next decision; a multiple of `image_every`."""

    def __post_init__(self) -> None:
        if min(self.episodes, self.workers, self.image_every, self.store_size) < 1 or self.extra_steps < 0:
            raise FoveateError(
                "episodes, workers, image_every and store_size: expected at least 1; extra_steps at least 0"
            )
        if self.learner is not None and (not 0 <= self.learner_share <= 1 or self.learner_steps % self.image_every):
            raise FoveateError(
                f"learner: expected learner_share in [0, 1], got {self.learner_share}, and learner_steps a multiple of "
                f"image_every ({self.image_every}), got {self.learner_steps}"
            )
        if self.image_size % self.store_size:
            raise FoveateError(f"store_size {self.store_size}: expected a divisor of image_size {self.image_size}")


@dataclass(frozen=True)
class PlannedEpisode:
    """One episode to record; its scene does not depend on the number of workers or on interruptions."""

    index: int
    task: str
    task_index: int
    seed: int
    """Seed of the first attempt."""


def episodes_of(config: MetaWorldDemosConfig) -> list[PlannedEpisode]:
    """All episodes, task by task: to change the task costs a simulator 2 to 3 s, as much as an episode.

    Raises:
        FoveateError: a task or suite that does not exist.
    """
    counts: dict[str, int] = {}
    for part in config.tasks.split(","):
        name, _, number = part.strip().partition(":")
        if number and not number.isdigit():
            raise FoveateError(f"tasks: expected NAME or NAME:EPISODES, got {part.strip()!r}")
        counts |= dict.fromkeys(resolve_tasks(name, "metaworld"), int(number) if number else config.episodes)
    episodes: list[PlannedEpisode] = []
    for task_index, (task, count) in enumerate(counts.items()):
        first = len(episodes)
        episodes += [PlannedEpisode(first + j, task, task_index, config.seed + j) for j in range(count)]
    return episodes


def load_learner(config: MetaWorldDemosConfig) -> Learner | None:
    """The learner of a configuration, or None; one thread, since every recording process has its own."""
    if config.learner is None:
        return None
    import torch

    from foveate.policy import load_policy

    torch.set_num_threads(1)
    policy = load_policy(config.learner)
    if policy.spec.action_horizon < config.learner_steps:
        raise FoveateError(
            f"learner_steps: {config.learner} gives {policy.spec.action_horizon} actions at a time, "
            f"got {config.learner_steps}"
        )
    return Learner(lambda observation: policy.infer(observation).actions[: config.learner_steps], config.learner_share)


@cache
def _equipment(config: MetaWorldDemosConfig) -> tuple[MetaWorldEnv, Learner | None]:
    """The simulator and the learner of a recording process."""
    return MetaWorldEnv(image_size=config.image_size, max_steps=config.max_steps), load_learner(config)


def record(planned: PlannedEpisode, config: MetaWorldDemosConfig) -> int:
    """Record one episode in this process, with its simulator; returns the number of attempts.

    Raises:
        FoveateError: the expert failed in every attempt.
    """
    env, learner = _equipment(config)
    for attempt in range(ATTEMPTS):
        episode = demonstrate(
            env,
            planned.task,
            planned.seed + attempt * SEED_STRIDE,
            config.noise,
            config.image_every,
            config.store_size,
            config.extra_steps,
            learner,
        )
        if episode is not None:
            write_episode(Path(config.out), planned.index, episode, planned.task_index, CONVENTIONS.control_hz)
            return attempt + 1
    raise FoveateError(
        f"{planned.task}: the expert failed {ATTEMPTS} times from seed {planned.seed}; lower noise.scale"
    )


@alone_in(lambda config: Path(config.out), "recording")
def record_demos(config: MetaWorldDemosConfig, report: Reporter = SILENT) -> dict[str, Any]:
    """Record what the folder lacks; returns the content of `meta/info.json`.

    Raises:
        FoveateError: the folder was begun with other settings or cannot be written, or a simulator died.
    """
    root, planned = Path(config.out), episodes_of(config)
    tasks = {episode.task_index: episode.task for episode in planned}
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "workers")}
    _check_same_settings(root, settings)
    done = finished_episodes(root)
    todo = [episode for episode in planned if episode.index not in done]
    attempts = 0
    with (
        ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn"), die_with_parent) as pool,
        report.bar("recording", "episodes", len(planned), len(planned) - len(todo)) as bar,
    ):
        futures = [pool.submit(record, episode, config) for episode in todo]
        try:
            for future in as_completed(futures):
                attempts += future.result()
                bar.advance()
        except BrokenProcessPool as error:
            raise FoveateError("a simulator process died; run the same command again to go on") from error
        finally:
            pool.shutdown(cancel_futures=True)
    instructions = [instruction_of(tasks[i]) for i in sorted(tasks)]
    info = {"complete": True, "robot_type": "metaworld", "settings": settings, "attempts_this_run": attempts}
    write_meta(root, instructions, CONVENTIONS.control_hz, config.image_every, info)
    found: dict[str, Any] = json.loads((root / "meta" / "info.json").read_text())
    return found


def _check_same_settings(root: Path, settings: dict[str, Any]) -> None:
    """Settings of an earlier run in this folder must be the same: a mixed set would not say what it is."""
    path = root / "meta" / "settings.json"
    text = json.dumps(settings, indent=2) + "\n"
    if path.exists():
        old, new = json.loads(path.read_text()), json.loads(text)
        if different := [f"{k}: {old.get(k)!r} there, {new[k]!r} asked for" for k in new if old.get(k) != new[k]]:
            raise FoveateError(f"{root} was begun with other settings ({'; '.join(different)}); use another folder")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise FoveateError(f"cannot write to {root}: {error.strerror}; choose another --out") from error
