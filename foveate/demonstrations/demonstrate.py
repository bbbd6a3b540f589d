"""Demonstrations by scripted experts: the executed action is disturbed, the label is not.

A policy that clones undisturbed experts never sees how to come back from a mistake. Here the arm is pushed around
by smooth noise (an AR(1) process whose strength is drawn per episode) and by kicks (a random direction held for a
few steps), and every state is labelled with what the expert would do in it. The expert is the environment's own
(`Env.advise`), which sees the simulator's state.

What noise does not reach are the places where a trained policy gets stuck. There a `Learner` drives in turn with the
expert, who labels every state all the same (DAgger; Ross, Gordon, Bagnell 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foveate.data.demos import DemoEpisode
from foveate.envs.base import Advice, Env
from foveate.errors import FoveateError
from foveate.types import Observation


class Demonstrator(Env, Protocol):
    """An environment with a scripted expert."""

    def advise(self) -> Advice: ...


@dataclass(frozen=True)
class NoiseConfig:
    """Disturbance of the executed action's first three numbers, the move of the hand, in units of the action."""

    scale: float = 0.3
    """Standard deviation of the smooth noise; each episode draws its own from 0 to this."""
    smoothness: float = 0.9
    """Correlation of the noise from one step to the next, 0 (white) to below 1."""
    kick_rate: float = 0.02
    """Probability per step that a kick begins."""
    kick_steps: tuple[int, int] = (3, 8)
    """Shortest and longest kick, in steps; each moves the hand as fast as it can."""

    def __post_init__(self) -> None:
        if self.scale < 0 or not 0 <= self.smoothness < 1 or not 0 <= self.kick_rate <= 1:
            raise FoveateError(f"noise: expected scale >= 0, smoothness in [0, 1), kick_rate in [0, 1], got {self}")
        if not 1 <= self.kick_steps[0] <= self.kick_steps[1]:
            raise FoveateError(f"noise.kick_steps: expected 1 <= shortest <= longest, got {self.kick_steps}")


class Disturbance:
    """The noise of one episode; `apply` is called once per step."""

    def __init__(self, config: NoiseConfig, seed: int) -> None:
        self.config = config
        self.random = np.random.default_rng(seed)
        self.scale = self.random.uniform(0.0, config.scale)
        self.noise = np.zeros(3)
        self.kick = np.zeros(3)
        self.kick_left = 0

    def apply(self, action: np.ndarray) -> np.ndarray:
        """float32 [A] -> float32 [A] in [-1, 1]; rotation and gripper are left to the expert."""
        c = self.config
        self.noise = c.smoothness * self.noise + np.sqrt(1 - c.smoothness**2) * self.scale * self.random.normal(size=3)
        if self.kick_left == 0 and self.random.random() < c.kick_rate:
            self.kick = self.random.normal(size=3)
            self.kick /= np.linalg.norm(self.kick)
            self.kick_left = int(self.random.integers(c.kick_steps[0], c.kick_steps[1] + 1))
        moved = np.array(action, dtype=np.float32)
        if self.kick_left:
            self.kick_left -= 1
            moved[:3] = self.kick
        moved[:3] += self.noise
        return np.clip(moved, -1.0, 1.0)


@dataclass(frozen=True)
class Learner:
    """A policy that drives in turn with the expert."""

    act: Callable[[Observation], np.ndarray]
    """Observation -> actions float32 [n, A] to execute open-loop."""
    share: float = 0.8
    """Probability that the learner drives until the next decision, which falls due when its actions are used up."""


def demonstrate(
    env: Demonstrator,
    task: str,
    seed: int,
    noise: NoiseConfig,
    image_every: int,
    store_size: int,
    extra_steps: int,
    learner: Learner | None = None,
    scene: int | None = None,
) -> DemoEpisode | None:
    """One disturbed episode, labelled by the expert, `extra_steps` beyond its first success or to the end.

    None where the expert failed; with a learner, failures are what is looked for and are kept (`success_step` 0).

    task: as the environment names it.
    seed: of the disturbance.
    store_size: side of the stored pictures; the environment's must be a multiple (blocks of pixels are averaged,
    which for a factor of 2 is what bilinear resizing does).
    scene: seed of the scene, where it is another.
    """
    scene = seed if scene is None else scene
    observation: Observation | None = env.reset(task, scene)
    prompt = observation.prompt  # type: ignore[union-attr]
    disturbance, turns = Disturbance(noise, seed), np.random.default_rng([seed, 1])
    advice, frames = [], []
    images: dict[str, list[np.ndarray]] = {view: [] for view in env.views}
    success_step, decide_at = 0, 0
    driving: list[np.ndarray] = []  # the learner's actions still to be executed
    for step in range(env.max_steps):
        if observation is not None:
            frames.append(step)
            for view in env.views:
                images[view].append(shrink(observation.images[view], store_size))
            if learner is not None and step >= decide_at:
                chunk = learner.act(observation)
                driving = list(chunk) if turns.random() < learner.share else []
                decide_at = step + len(chunk)
        advice.append(env.advise())
        chosen = driving.pop(0) if driving else advice[-1].action
        result = env.step(disturbance.apply(chosen), render=(step + 1) % image_every == 0)
        observation = result.observation
        if result.success and not success_step:
            success_step = step + 1
        if result.done or (success_step and step + 1 >= success_step + extra_steps):
            break
    if not success_step and learner is None:
        return None
    return DemoEpisode(
        task=prompt,
        env_task=task,
        seed=scene,
        success_step=success_step,
        states=np.stack([told.state for told in advice]),
        actions=np.stack([told.action for told in advice]),
        images={view: np.stack(pictures) for view, pictures in images.items()},
        frames=np.array(frames, dtype=np.int64),
    )


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, H, 3] -> uint8 [size, size, 3], the mean over blocks, rounded."""
    side = picture.shape[0]
    if side == size:
        return picture
    if side % size:
        raise FoveateError(f"stored size {size}: pictures of {side} px can only be shrunk by a whole factor")
    k = side // size
    blocks = picture.reshape(size, k, size, k, 3).astype(np.float32)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
