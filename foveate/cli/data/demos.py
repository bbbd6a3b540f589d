"""`foveate data metaworld-demos`: record demonstrations from scripted experts in Meta-World."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from foveate.demonstrations.experts import NoiseConfig
from foveate.errors import FoveateError
from foveate.util.progress import ProgressBar

HELP = "record or convert data sets"
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
    """Side of the rendered pictures, pixels."""
    store_size: int = 112
    """Side of the stored pictures, pixels; divides `image_size`."""
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
class Slot:
    """One episode to record; its scene does not depend on the number of workers or on interruptions."""

    index: int
    task: str
    task_index: int
    seed: int


def plan(config: MetaWorldDemosConfig) -> list[Slot]:
    """All episodes, task by task: to change the task costs a simulator 2 to 3 s, as much as an episode."""
    from foveate.envs.suites import resolve_tasks

    counts: dict[str, int] = {}
    for part in config.tasks.split(","):
        name, _, number = part.strip().partition(":")
        if number and not number.isdigit():
            raise FoveateError(f"tasks: expected NAME or NAME:EPISODES, got {part.strip()!r}")
        counts |= dict.fromkeys(resolve_tasks(name, "metaworld"), int(number) if number else config.episodes)
    slots: list[Slot] = []
    first = 0
    for task_index, (task, count) in enumerate(counts.items()):
        slots += [Slot(first + j, task, task_index, config.seed + j) for j in range(count)]
        first += count
    return slots


_env = None
_learner = None


def load_learner(config: MetaWorldDemosConfig):
    """The learner of a configuration, or None; one thread, since every recording process has its own."""
    if config.learner is None:
        return None
    import torch

    from foveate.demonstrations.experts import Learner
    from foveate.policy import load_policy

    torch.set_num_threads(1)
    policy = load_policy(config.learner)
    if policy.spec.action_horizon < config.learner_steps:
        raise FoveateError(
            f"learner_steps: {config.learner} gives {policy.spec.action_horizon} actions at a time, "
            f"got {config.learner_steps}"
        )
    return Learner(lambda observation: policy.infer(observation).actions[: config.learner_steps], config.learner_share)


def record(slot: Slot, config: MetaWorldDemosConfig) -> int:
    """Record one slot in this process; returns the number of attempts."""
    global _env, _learner
    from foveate.data.demos import write_episode
    from foveate.demonstrations.experts import demonstrate
    from foveate.envs.metaworld.env import CONVENTIONS, MetaWorldEnv

    if _env is None:
        _env = MetaWorldEnv(image_size=config.image_size, max_steps=config.max_steps)
        _learner = load_learner(config)
    for attempt in range(ATTEMPTS):
        episode = demonstrate(
            _env,
            slot.task,
            slot.seed + attempt * SEED_STRIDE,
            config.noise,
            config.image_every,
            config.store_size,
            config.extra_steps,
            _learner,
        )
        if episode is not None:
            write_episode(Path(config.out), slot.index, episode, slot.task_index, CONVENTIONS.control_hz)
            return attempt + 1
    raise FoveateError(f"{slot.task}: the expert failed {ATTEMPTS} times from seed {slot.seed}; lower noise.scale")


def record_demos(config: MetaWorldDemosConfig) -> dict:
    """Record what is missing of the plan; returns meta/info.json."""
    from rich.console import Console

    from foveate.data.demos import finished_episodes, write_meta
    from foveate.envs.metaworld.env import CONVENTIONS, instruction_of

    root, slots = Path(config.out), plan(config)
    tasks = {slot.task_index: slot.task for slot in slots}
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "workers")}
    _check_same_settings(root, settings)
    done = finished_episodes(root)
    todo = [slot for slot in slots if slot.index not in done]
    attempts = 0
    with (
        ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn")) as pool,
        ProgressBar(Console(), "recording", "episodes", len(slots), len(slots) - len(todo)) as bar,
    ):
        futures = [pool.submit(record, slot, config) for slot in todo]
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
    return json.loads((root / "meta" / "info.json").read_text())


def _check_same_settings(root: Path, settings: dict) -> None:
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


def metaworld_demos(argv: list[str]) -> int:
    """The verb's entry: parse, record, say what was written."""
    from foveate.cli.config import parse

    config = parse(MetaWorldDemosConfig, argv, "foveate data metaworld-demos")
    info = record_demos(config)
    print(f"{info['total_episodes']} episodes, {info['total_frames']} steps in {config.out}")
    return 0
