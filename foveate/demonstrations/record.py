"""Demonstrations by an environment's scripted expert, recorded in several simulators at once, resumable.

info = record_demos(MetaWorldDemosConfig(out="demos", tasks="reach:20"))
DemoDataset.load("demos")                                                   # data.demos
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from foveate.data.demos import finished_episodes, write_episode, write_meta
from foveate.demonstrations.config import DemosConfig
from foveate.demonstrations.demonstrate import Demonstrator, Learner, demonstrate
from foveate.envs.suites import resolve_tasks
from foveate.errors import FoveateError
from foveate.util.files import alone_in
from foveate.util.process import die_with_parent
from foveate.util.progress import SILENT, Reporter

ATTEMPTS = 20
SEED_STRIDE = 100_000


@dataclass(frozen=True)
class PlannedEpisode:
    """One episode to record; its scene does not depend on the number of workers or on interruptions."""

    index: int
    task: str
    task_index: int
    seed: int
    """Seed of the first attempt."""


def episodes_of(config: DemosConfig) -> list[PlannedEpisode]:
    """All episodes, task by task: to change the task costs a simulator 2 to 3 s, as much as an episode.

    Raises:
        FoveateError: a task or suite that does not exist.
    """
    counts: dict[str, int] = {}
    for part in config.tasks.split(","):
        name, _, number = part.strip().partition(":")
        if number and not number.isdigit():
            raise FoveateError(f"tasks: expected NAME or NAME:EPISODES, got {part.strip()!r}")
        counts |= dict.fromkeys(resolve_tasks(name, config.env), int(number) if number else config.episodes)
    episodes: list[PlannedEpisode] = []
    for task_index, (task, count) in enumerate(counts.items()):
        first = len(episodes)
        episodes += [PlannedEpisode(first + j, task, task_index, config.seed + j) for j in range(count)]
    return episodes


def load_learner(config: DemosConfig) -> Learner | None:
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
def _equipment(config: DemosConfig) -> tuple[Demonstrator, Learner | None]:
    """The simulator and the learner of a recording process."""
    return config.simulator(tuple(dict.fromkeys(e.task for e in episodes_of(config)))), load_learner(config)


def record(planned: PlannedEpisode, config: DemosConfig) -> int:
    """Record one episode in this process, with its simulator; returns the number of attempts.

    Raises:
        FoveateError: the expert failed in every attempt.
    """
    env, learner = _equipment(config)
    for attempt in range(ATTEMPTS):
        seed = planned.seed + attempt * SEED_STRIDE
        episode = demonstrate(
            env,
            planned.task,
            seed,
            config.noise,
            config.image_every,
            config.store_size,
            config.extra_steps,
            learner,
            config.scene(seed),
        )
        if episode is not None:
            write_episode(Path(config.out), planned.index, episode, planned.task_index, env.conventions.control_hz)
            return attempt + 1
    raise FoveateError(
        f"{planned.task}: the expert failed {ATTEMPTS} times from seed {planned.seed}; lower noise.scale"
    )


@alone_in(lambda config: Path(config.out), "recording")
def record_demos(config: DemosConfig, report: Reporter = SILENT) -> dict[str, Any]:
    """Record what the folder lacks; returns the content of `meta/info.json`.

    Raises:
        FoveateError: the folder was begun with other settings or cannot be written, or a simulator died.
    """
    root, planned = Path(config.out), episodes_of(config)
    tasks = list(dict.fromkeys(episode.task for episode in planned))
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
    told = {line["env_task"]: line["tasks"][0] for line in finished_episodes(root).values()}
    info = {"complete": True, "robot_type": config.env, "settings": settings, "attempts_this_run": attempts}
    write_meta(root, [told[task] for task in tasks], config.control_hz, config.image_every, info)
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
