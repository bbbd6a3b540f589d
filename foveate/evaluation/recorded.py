"""Observations out of recordings of any format, spread over tasks and over the moments of an episode.

for one in stratified(open_source("sets/push"), policy.processor.robot, count=16):
    one.observation, one.task, one.episode, one.row
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from foveate.data.conversion.base import Recording, Source
from foveate.errors import FoveateError
from foveate.models.common.columns import Columns, find_columns
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation

MOST_EPISODES = 64
"""Episodes that are looked at, evenly spaced over the recordings."""


@dataclass(frozen=True)
class Recorded:
    """One moment."""

    observation: Observation
    task: str
    episode: int
    row: int


def columns_of(source: Source, robot: RobotMapping) -> Columns:
    """Which columns of the recordings are the robot's.

    Raises:
        FoveateError: they are of another robot: a camera, the state or the actions do not fit.
    """
    cameras = [name for name, feature in source.features.items() if feature.is_camera]
    sizes = {name: feature.size for name, feature in source.features.items() if not feature.is_camera}
    return find_columns(robot, source.name, cameras, sizes)


def stratified(source: Source, robot: RobotMapping, count: int) -> list[Recorded]:
    """So many moments: tasks take turns, and moments go from the beginning of episodes to their end.

    Raises:
        FoveateError: the recordings do not fit the robot, hold no episode, or a state is not finite.
    """
    columns = columns_of(source, robot)
    episodes = np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST_EPISODES)).astype(int)).tolist()
    by_task: defaultdict[str, list[int]] = defaultdict(list)
    for number in episodes:
        if tasks_of := source.read(number).tasks:
            by_task[tasks_of[0]].append(number)
    if not by_task:
        raise FoveateError(f"{source.name}: holds no episode")
    chosen, tasks = [], sorted(by_task)
    for index in range(count):
        of_task = by_task[tasks[index % len(tasks)]]
        number = of_task[index // len(tasks) % len(of_task)]
        recording = source.read(number)
        row = int((index + 0.5) / count * len(recording))
        chosen.append(
            Recorded(_observation(source, columns, recording, number, row), recording.tasks[row], number, row)
        )
    return chosen


def _observation(source: Source, columns: Columns, recording: Recording, episode: int, row: int) -> Observation:
    state = columns.state_of({name: recording.columns[name][row : row + 1] for name in columns.state})[0]
    if not np.isfinite(state).all():
        raise FoveateError(f"{source.name}: the state of episode {episode}, row {row} is not finite: {state.tolist()}")
    pictures = {
        view: next(itertools.islice(recording.pictures[camera], row, None)) for view, camera in columns.cameras.items()
    }
    return Observation(pictures, state, recording.tasks[row])
