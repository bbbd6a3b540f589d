"""LeRobot data sets as demonstrations: numbers in memory, pictures decoded ahead by worker processes.

A robot's mapping says which camera is which view and which columns are state and actions; see `models.common.columns`.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.data.conversion.base import NEW_PICTURE
from foveate.data.demos import DemoEpisode
from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.hub import REPO_ID
from foveate.data.lerobot.loader import FrameLoader, Prepare, SetPart, windowed_order
from foveate.models.common.columns import find_columns
from foveate.models.common.images import ResizeKind, model_images, to_uint8
from foveate.models.common.robots import RobotMapping
from foveate.training.config import DataConfig
from foveate.util.files import read_json


@dataclass
class StreamedEpisode(DemoEpisode):
    """An episode whose pictures stay in its data set."""

    root: Path = Path()
    first_row: int = 0
    """Where its rows begin in the whole set."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """View of the observation -> camera."""
    tasks: tuple[str, ...] = ()
    """The instruction of each row."""

    def prompt(self, row: int) -> str:
        return self.tasks[row]


def is_lerobot(path: str) -> bool:
    """Whether a path is a LeRobot data set, or may be one of the hub; foveate's own demonstrations are none."""
    info = Path(path) / "meta" / "info.json"
    if info.exists():
        return "image_every" not in read_json(info)
    return not Path(path).exists() and REPO_ID.fullmatch(path) is not None


def lerobot_episodes(
    paths: Sequence[str], robot: RobotMapping, progress: Callable[[int, int], None] | None = None
) -> list[DemoEpisode]:
    """The episodes of LeRobot data sets; `env_task` is the instruction.

    Raises:
        FoveateError: a set does not fit the robot (camera, state or actions), a number is not finite, or a video is
            shorter than its rows.
    """
    episodes: list[DemoEpisode] = []
    for done, path in enumerate(paths):
        dataset = LeRobotDataset(path)
        info = dataset.info
        columns = find_columns(robot, path, info.cameras, {name: info.features[name].size for name in info.vectors})
        if unused := [camera for camera in info.cameras if camera not in columns.cameras.values()]:
            logging.getLogger("foveate").info("%s: cameras that the robot's mapping does not name: %s", path, unused)
        own = [name for name in ("task_index", NEW_PICTURE) if name in info.features]
        dataset.load([*columns.vectors, *own])
        dataset.check_videos(columns.cameras.values())
        rows = {name: dataset.vectors(name) for name in columns.vectors}
        states, actions = columns.state_of(rows), columns.actions_of(rows)
        # Where pictures were kept at every n-th step, the rows between show an old one: no samples for a policy.
        is_new = dataset.column(NEW_PICTURE).ravel() != 0 if NEW_PICTURE in own else np.ones(len(states), bool)
        for number, episode in enumerate(dataset.episodes):
            here = slice(int(dataset.starts[number]), int(dataset.starts[number + 1]))
            tasks = tuple(dataset.task(row) for row in range(here.start, here.stop))
            episodes.append(
                StreamedEpisode(
                    task=tasks[0],
                    env_task=tasks[0],
                    seed=episode.index,
                    success_step=0,
                    states=states[here],
                    actions=actions[here],
                    frames=np.flatnonzero(is_new[here]),
                    root=dataset.root,
                    first_row=here.start,
                    cameras=columns.cameras,
                    tasks=tasks,
                )
            )
        dataset.close()
        if progress:
            progress(done + 1, len(paths))
    return episodes


class StreamedImages:
    """Stands where a tensor of all pictures would: uint8 [N, V, 3, S, S].

    Attributes:
        shape: of that tensor.
        present: bool [V], False for a view that the robot has no camera for; it is black.
    """

    def __init__(
        self,
        episodes: Sequence[StreamedEpisode],
        robot: RobotMapping,
        prepare: Prepare,
        size: int,
        config: DataConfig,
    ) -> None:
        self._lengths = [len(episode.frames[:: config.frame_stride]) for episode in episodes]
        self.shape = torch.Size((sum(self._lengths), len(robot.views), 3, size, size))
        self._run = config.run_length
        parts = []
        for root in dict.fromkeys(episode.root for episode in episodes):
            mine = [episode for episode in episodes if episode.root == root]
            rows = [episode.first_row + episode.frames[:: config.frame_stride] for episode in mine]
            known = mine[0].cameras
            views = [next((known[name] for name in names if name in known), None) for names in robot.views.values()]
            parts.append(SetPart(root, tuple(views), np.concatenate(rows)))
        self.present = torch.tensor([camera is not None for camera in parts[0].cameras])
        self.loader = FrameLoader(
            parts,
            partial(_on_one_thread, prepare=prepare),
            (size, size, 3),
            memory_gb=config.memory_gb,
            workers=config.decode_workers,
        )
        atexit.register(self.loader.close)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [B, V, 3, S, S] of these samples; on a machine with CUDA in pinned memory."""
        _, views, _, size, _ = self.shape
        out = torch.empty(len(index), views, size, size, 3, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self.loader.get(index.tolist(), out.numpy())
        return out.movedim(-1, -3)

    def order(self, seed: int) -> Tensor:
        """int64 [N]: all samples, in random order within windows that fit into the memory."""
        return torch.from_numpy(windowed_order(self._lengths, self.loader.window, self._run, seed))

    def plan(self, order: Tensor, size: int) -> None:
        """Decode this process's rows of the coming batches of `size` ahead."""
        rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        batches = order[: len(order) // size * size].view(-1, size)
        self.loader.plan(batches[:, rank * size // world : (rank + 1) * size // world].flatten().numpy())


def streamed(episodes: Sequence[DemoEpisode]) -> list[StreamedEpisode]:
    """Those whose pictures stay on disk: all, or none (`load_demos` mixes them with no others)."""
    return [episode for episode in episodes if isinstance(episode, StreamedEpisode)]


def at_size(picture: np.ndarray, size: int, resize: ResizeKind) -> np.ndarray:
    """A picture as the model sees it: uint8 [size, size, 3]."""
    if picture.shape[:2] == (size, size):
        return picture
    return to_uint8(model_images([picture], size, resize))[0]


def _on_one_thread(picture: np.ndarray, prepare: Prepare) -> np.ndarray:
    """In a worker, one of several."""
    torch.set_num_threads(1)
    return prepare(picture)
