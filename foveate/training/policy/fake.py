"""Made-up demonstrations, for a trial of everything around them: openpi's debug configurations train on such data."""

from __future__ import annotations

import numpy as np

from foveate.data.demos import DemoEpisode
from foveate.models.common.robots import RobotMapping

FAKE = "fake"
"""In place of a data set's path."""
EPISODES, STEPS, SIDE = 2, 32, 64


def fake_episodes(robot: RobotMapping) -> list[DemoEpisode]:
    """Two episodes of noise that fit a robot, the same at each call."""
    draws = np.random.default_rng(0)
    views = [names[0] for names in robot.views.values() if names]
    return [
        DemoEpisode(
            task="be a good robot",
            env_task=FAKE,
            seed=seed,
            success_step=0,
            states=draws.uniform(-1, 1, (STEPS, robot.state_dim)).astype(np.float32),
            actions=draws.uniform(-1, 1, (STEPS, robot.action_dim)).astype(np.float32),
            images={view: draws.integers(0, 256, (STEPS, SIDE, SIDE, 3), dtype=np.uint8) for view in views},
            frames=np.arange(STEPS),
        )
        for seed in range(EPISODES)
    ]
