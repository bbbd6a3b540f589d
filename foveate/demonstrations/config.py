"""What is recorded, how it is disturbed and stored; one configuration for each simulator with a scripted expert."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

from foveate.demonstrations.demonstrate import Demonstrator, NoiseConfig
from foveate.envs.base import make_env
from foveate.envs.libero.protocol import HELD_OUT, STATES
from foveate.envs.worker import WorkerEnv
from foveate.errors import FoveateError


@dataclass(frozen=True)
class DemosConfig:
    """Record demonstrations of a scripted expert, with disturbed actions and clean labels."""

    env: ClassVar[str]
    """The simulator's name."""
    control_hz: ClassVar[float]
    """Its actions per second."""

    out: str
    """Folder to write (or to go on with, after an interruption)."""
    tasks: str = "foveate"
    """A suite or tasks separated by commas; `TASK:100` asks for 100 episodes of that task."""
    episodes: int = 60
    """Successful episodes per task, where the task does not name its own number."""
    seed: int = 10_000
    """Seed of the first episode."""
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
    """Steps recorded beyond the first success, where the simulator goes on."""
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

    def simulator(self, tasks: tuple[str, ...]) -> Demonstrator:
        """A simulator of these tasks."""
        options = {"tasks": tasks, "image_size": self.image_size, "max_steps": self.max_steps}
        return cast(Demonstrator, make_env(self.env, **options))

    def scene(self, seed: int) -> int:
        """Seed of the scene of an episode with this seed."""
        return seed


@dataclass(frozen=True)
class MetaWorldDemosConfig(DemosConfig):
    """Record demonstrations of Meta-World tasks, with disturbed actions and clean labels. Evaluation uses seeds below
    10000."""

    env = "metaworld"
    control_hz = 80.0


@dataclass(frozen=True)
class LiberoDemosConfig(DemosConfig):
    """Record demonstrations of libero_object and libero_spatial, with disturbed actions and clean labels. They begin
    from initial states 20 to 49; those below are left for evaluation."""

    env = "libero"
    control_hz = 20.0

    tasks: str = "libero_object"
    image_size: int = 256
    store_size: int = 256
    image_every: int = 5
    max_steps: int = 280
    extra_steps: int = 0
    learner_steps: int = 10
    python: str | None = None
    """Interpreter that has LIBERO; None: that of .venv-libero, or this one."""

    def simulator(self, tasks: tuple[str, ...]) -> Demonstrator:
        """In a process of its own, which may have another interpreter."""
        options = {"tasks": tasks, "image_size": self.image_size, "max_steps": self.max_steps}
        return WorkerEnv(self.env, python=self.python, timeout_s=120.0, **options)

    def scene(self, seed: int) -> int:
        """One of the initial states that are recorded from, in turn."""
        return HELD_OUT + seed % (STATES - HELD_OUT)
