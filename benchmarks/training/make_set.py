"""Write a LeRobot v3.0 set for measurements of loaders: two 256 px cameras whose pictures all differ.

    python benchmarks/training/make_set.py SET

A camera glides over a textured plane, with noise; 16 episodes of 140 frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.writer import LeRobotWriter

CAMERAS = ("observation.images.front", "observation.images.wrist")
EPISODES, LENGTH, SIDE, PLANE = 16, 140, 256, 1024


def texture(rng: np.random.Generator) -> np.ndarray:
    """A plane of blocks of several sizes, float32 [PLANE, PLANE, 3] in [0, 255]."""
    plane = np.full((PLANE, PLANE, 3), 128, np.float32)
    for cells in (8, 32, 128, 512):
        coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        plane += np.kron(coarse, np.ones((PLANE // cells, PLANE // cells, 1), np.float32)) * (40 / np.log2(cells))
    return plane.clip(0, 255)


def film(plane: np.ndarray, speed: int, rng: np.random.Generator) -> list[np.ndarray]:
    """What the gliding camera sees."""
    phase, pictures = rng.uniform(0, 2 * np.pi), []
    for frame in range(LENGTH):
        x = int(380 + 300 * np.sin(phase + frame * 0.02 * speed))
        y = int(380 + 300 * np.cos(1.7 * phase + frame * 0.015 * speed))
        noise = rng.normal(size=(SIDE, SIDE, 1)) * 4
        pictures.append((plane[y : y + SIDE, x : x + SIDE] + noise).clip(0, 255).astype(np.uint8))
    return pictures


def main(root: Path) -> None:
    rng = np.random.default_rng(0)
    planes = [texture(rng) for _ in range(4)]
    features = {name: Feature(name, "video", (SIDE, SIDE, 3)) for name in CAMERAS}
    features |= {name: Feature(name, "float32", (4,)) for name in ("observation.state", "action")}
    with LeRobotWriter(root, "v3.0", 10, features, robot_type="test") as writer:
        for episode in range(EPISODES):
            pictures = {
                name: film(planes[(episode + number) % 4], number + 1, rng) for number, name in enumerate(CAMERAS)
            }
            numbers = {
                "observation.state": rng.normal(size=(LENGTH, 4)).astype(np.float32),
                "action": rng.uniform(-1, 1, (LENGTH, 4)).astype(np.float32),
            }
            writer.add(numbers, pictures, "push the puck to the goal")
        writer.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
