"""Small LeRobot data sets whose pictures say which episode, camera and frame they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.writer import LeRobotWriter, Version

CAMERAS = ("observation.images.front", "observation.images.wrist")
SIZES = {CAMERAS[0]: (48, 64), CAMERAS[1]: (48, 48)}
LENGTHS = (11, 23, 8)
TASKS = ("pick up the red cube", "push the blue_block to the left")


def picture_of(episode: int, camera: int, frame: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3]: 4 x 4 cells, dark, bright, colour, then bits: 4 of the episode, 2 of the camera, 7 of the frame.

    The pattern of the golden sets, so that `seen_in` reads both.
    """
    bits = f"{episode:04b}{camera:02b}{frame:07b}"
    grey = [32, 224, 0, *(192 if bit == "1" else 64 for bit in bits)]
    cells = np.repeat(np.array(grey)[:, None], 3, 1)
    cells += (0, 30, -30, 15, -15)[(2 * frame + episode) % 5]
    cells[2] = (200, 60, 40)
    whole = cells.reshape(4, 4, 3).astype(np.uint8)
    return whole.repeat(size[0] // 4, 0).repeat(size[1] // 4, 1)


def cells_of(picture: np.ndarray) -> np.ndarray:
    """float [16, 3]: the mean colour of the inner half of each cell."""
    h, w = picture.shape[0] // 4, picture.shape[1] // 4
    inner = picture.reshape(4, h, 4, w, 3)[:, h // 4 : h - h // 4, :, w // 4 : w - w // 4]
    return inner.mean((1, 3)).reshape(16, 3)


def seen_in(picture: np.ndarray) -> tuple[int, int, int]:
    """Episode, camera and frame that a picture shows."""
    grey = cells_of(picture).mean(1)
    bits = "".join("1" if value > grey[:2].mean() else "0" for value in grey[3:])
    return int(bits[:4], 2), int(bits[4:6], 2), int(bits[6:], 2)


def features_of(kind: str = "video", state: int = 4, action: int = 3) -> dict[str, Feature]:
    """Two cameras (`kind`: `video` or `image`), `observation.state` and `action`."""
    cameras = {name: Feature(name, kind, (*size, 3)) for name, size in SIZES.items()}
    vectors = {"observation.state": state, "action": action}
    return cameras | {name: Feature(name, "float32", (size,)) for name, size in vectors.items()}


def rows_of(episode: int, length: int, state: int = 4, action: int = 3) -> dict[str, np.ndarray]:
    """The numbers of an episode; `action[:, 0]` is 100 * episode + frame."""
    rng = np.random.default_rng(episode)
    actions = rng.normal(size=(length, action)).astype(np.float32)
    actions[:, 0] = 100 * episode + np.arange(length)
    return {"observation.state": rng.normal(size=(length, state)).astype(np.float32), "action": actions}


def pictures_of(episode: int, camera: str, length: int) -> list[np.ndarray]:
    """What a camera of `CAMERAS` shows of an episode."""
    return [picture_of(episode, CAMERAS.index(camera), frame, SIZES[camera]) for frame in range(length)]


def write_set(
    root: Path,
    version: Version = "v3.0",
    kind: str = "video",
    lengths: Sequence[int] = LENGTHS,
    fps: float = 20,
    *,
    video_mb: float = 200,
    timestamps: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write a whole set; episode e has the task `TASKS[e % 2]`."""
    with LeRobotWriter(root, version, fps, features_of(kind), robot_type="test", video_mb=video_mb) as writer:
        for episode, length in enumerate(lengths):
            pictures = {name: pictures_of(episode, name, length) for name in CAMERAS}
            clock = None if timestamps is None else timestamps[episode]
            writer.add(rows_of(episode, length), pictures, TASKS[episode % 2], clock)
        writer.finish()
    return root
