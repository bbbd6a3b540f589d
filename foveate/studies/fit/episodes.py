"""Recorded episodes as a policy would have seen them, whatever wrote them.

    source = open_episodes("sets/pick", policy.processor.robot)
    columns = columns_of(source, policy.processor.robot)
    episode = read_episode(source, 0, columns, apart=5, most=16)

A LeRobot data set, foveate's demonstrations, LIBERO's HDF5 and DROID-format trees come through the door of `data
convert`; a run folder of `foveate eval sim` through its own recording (`--record droid`) or its dumps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.conversion.base import NEW_PICTURE, Source
from foveate.data.conversion.convert import open_source
from foveate.errors import FoveateError
from foveate.models.common.columns import Columns
from foveate.models.common.robots import RobotMapping
from foveate.studies.fit.dumps import DumpSource, has_dumps
from foveate.types import Observation
from foveate.util.files import fault_of
from foveate.viz.plots import spread


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode."""

    number: int
    task: str
    """The instruction of its first step."""
    states: np.ndarray
    """float32 [T, S], in the robot's units."""
    actions: np.ndarray
    """float32 [T, A], in the robot's units: what was recorded, not what the policy would do."""
    keyframes: tuple[int, ...]
    """Steps at which the policy is asked, ascending."""
    observations: tuple[Observation, ...]
    """At the keyframes."""


def open_episodes(path: str, robot: RobotMapping) -> Source:
    """The recordings at a path, or of the hub, whatever their format.

    Raises:
        FoveateError: no format that is known, or a run that left no pictures.
    """
    folder = Path(path).expanduser()
    if (folder / "droid").is_dir():
        return open_source(str(folder / "droid"))
    if has_dumps(folder):
        return DumpSource(folder, robot)
    if (folder / "episodes.jsonl").exists():
        raise FoveateError(
            f"{path}: a run that left no pictures; play it with --record droid, or traced, with --trace_out_dir RUN"
        )
    return open_source(path)


def first_observation(source: Source, columns: Columns) -> Observation:
    """What the policy sees at the beginning of the first episode that can be read.

    Raises:
        FoveateError: none can.
    """
    told = f"{source.name}: no episode in it"
    for number in range(len(source)):
        try:
            return read_episode(source, number, columns, 1, 1).observations[0]
        except Exception as error:
            told = fault_of(error, f"episode {number}") if number == 0 else told
    raise FoveateError(told)


def read_episode(source: Source, number: int, columns: Columns, apart: int, most: int) -> RecordedEpisode:
    """One episode, with pictures at its keyframes alone.

    Args:
        apart: steps between two keyframes at least.
        most: keyframes at most, evenly over the episode.
    Raises:
        FoveateError: it is damaged or empty, or holds numbers that are not finite.
    """
    recording = source.read(number)
    if not len(recording):
        raise FoveateError(f"{source.name}, episode {number}: no step in it")
    states, actions = columns.state_of(recording.columns), columns.actions_of(recording.columns)
    for name, values in (("state", states), ("actions", actions)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise FoveateError(f"{source.name}, episode {number}, step {row}: {name} {values[row].tolist()} not finite")
    new = recording.columns.get(NEW_PICTURE)
    there = np.arange(len(recording)) if new is None else np.flatnonzero(np.ravel(new))
    keyframes = spread(_apart(there, apart), most)
    seen = {view: recording.pictures[camera] for view, camera in columns.cameras.items()}
    return RecordedEpisode(
        number,
        recording.tasks[0],
        states,
        actions,
        tuple(keyframes),
        tuple(
            Observation(images, states[step], recording.tasks[step])
            for step, images in zip(keyframes, _pictures(seen, keyframes), strict=True)
        ),
    )


def _apart(steps: np.ndarray, least: int) -> list[int]:
    """The first step, and then always the next one that is at least so far behind."""
    chosen: list[int] = []
    for step in steps.tolist():
        if not chosen or step - chosen[-1] >= least:
            chosen.append(step)
    return chosen


def _pictures(seen: Mapping[str, Iterable[np.ndarray]], steps: list[int]) -> Iterator[dict[str, np.ndarray]]:
    """View -> picture at each of these steps; others are decoded and passed over."""
    wanted, last = set(steps), steps[-1] if steps else -1
    for step, pictures in enumerate(zip(*seen.values(), strict=True)):
        if step in wanted:
            yield dict(zip(seen, pictures, strict=True))
        if step == last:
            return
