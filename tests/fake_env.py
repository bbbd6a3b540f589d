"""A simulator without physics for the tests of `foveate eval sim`: `fake_env:LineEnv`, with tests/ on the path.

The state drifts by itself towards success, a little faster or slower as the action says, so that every episode ends.
Tasks `crash`, `hang` and `fail` do what they say; `blinks` loses a view at step 10, `grows` gets a longer state.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.envs.base import EnvConventions, Snapshot, StepResult, check_action
from foveate.types import Observation

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parent


def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and the simulators that it starts find `fake_env`."""
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))


class LineEnv:
    conventions = EnvConventions("eef_xyz+gripper", 4, True, "positive_closes", control_hz=80.0)

    def __init__(self, tasks=None, image_size=28, max_steps=30, views="corner,gripperPOV"):
        self.tasks = tuple(tasks or ("go",))
        self.views = tuple(os.environ.get("FAKE_VIEWS", views).split(","))
        self.image_size, self.max_steps = image_size, max_steps
        self.delay = float(os.environ.get("FAKE_DELAY", "0"))

    def reset(self, task, seed):
        self.task, self.rng, self.steps = task, np.random.default_rng(seed), 0
        self.x = self.rng.uniform(0, 0.3)
        return self.observe()

    def step(self, action, render=True):
        action = check_action(action, self.conventions.action_dim)
        time.sleep(self.delay)
        self.steps += 1
        if self.task == "crash" and self.steps == 7:
            os._exit(3)
        if self.task == "hang" and self.steps == 7:
            time.sleep(1000)
        self.x += 0.0 if self.task == "fail" else 0.06 + 0.02 * float(np.tanh(action[0]))
        done = self.steps >= self.max_steps
        return StepResult(self.observe() if render else None, self.x > 1, done)

    def observe(self):
        shape = (self.image_size, self.image_size, 3)
        odd = self.steps == 10
        views = self.views[:1] if odd and self.task == "blinks" else self.views
        images = {view: self.rng.integers(0, 255, shape).astype(np.uint8) for view in views}
        state = [self.x, 0.6, 0.2, 1.0] + [0.0] * (odd and self.task == "grows")
        return Observation(images, np.array(state), f"do the {self.task}")

    def close(self):
        pass


class SeeingEnv(LineEnv):
    """One that can be recorded in detail: grey pictures of any size, joints that count steps."""

    def snapshot(self, size=None):
        images = {} if size is None else {view: np.full((size[1], size[0], 3), 99, np.uint8) for view in self.views}
        robot = {"joint_positions": np.full(7, self.steps), "joint_velocities": np.zeros(7)}
        robot |= {"cartesian_position": np.zeros(6), "gripper_position": np.asarray(0.5)}
        camera = {"intrinsics": np.eye(3), "extrinsics": np.arange(6.0)}
        return Snapshot(images, robot, dict.fromkeys(self.views, camera))

    def segment(self, size=None):
        width, height = size or (self.image_size, self.image_size)
        masks = {"left": np.arange(width) < 4, "robot": np.arange(width) >= width - self.steps}
        return {view: {name: np.tile(row, (height, 1)) for name, row in masks.items()} for view in self.views}


class TableEnv(LineEnv):
    """One with the views, the state and the actions of LIBERO."""

    conventions = EnvConventions("eef_pose+gripper", 7, True, "positive_closes")

    def __init__(self, tasks=None, image_size=64, max_steps=30):
        super().__init__(tasks, image_size, max_steps, views="image,wrist_image")

    def observe(self):
        seen = super().observe()
        return Observation(seen.images, np.array([self.x, 0.2, 0.9, 3.0, 0.1, -0.1, 0.04, -0.04]), seen.prompt)
