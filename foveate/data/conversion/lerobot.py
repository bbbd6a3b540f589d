"""LeRobot data sets v2.0, v2.1 and v3.0 as recordings, and recordings as sets of v2.1 and v3.0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from foveate.data.conversion.base import Recording, Source
from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.writer import LeRobotWriter, Version
from foveate.errors import FoveateError


class LeRobotSource:
    """Rows at row / fps, whatever clock the set has; texts and depth pictures are left out.

    Args:
        leave_out: indices of episodes that are not read.
    """

    def __init__(self, source: str | Path, leave_out: Sequence[int] = ()) -> None:
        self._set = LeRobotDataset(source)
        if leave_out:
            there = [episode.index for episode in self._set.episodes]
            if missing := sorted({*leave_out} - {*there}):
                raise FoveateError(f"leave_out: {source} has no episode {missing[0]}; it has {there[0]} to {there[-1]}")
            self._set = LeRobotDataset(source, [index for index in there if index not in leave_out])
        info = self._set.info
        kept = (*info.cameras, *info.vectors)
        without = f" without {sorted(leave_out)}" if leave_out else ""
        self.name, self.fps, self.robot_type = f"lerobot {source}{without}", info.fps, info.robot_type
        self.features = {
            name: dataclasses.replace(feature, dtype="video") if feature.is_camera else feature
            for name, feature in info.features.items()
            if name in kept
        }
        self._set.load([*info.vectors, *(name for name in ("timestamp", "task_index") if name in info.features)])

    def __len__(self) -> int:
        return len(self._set.episodes)

    def read(self, number: int) -> Recording:
        rows = range(int(self._set.starts[number]), int(self._set.starts[number + 1]))
        return Recording(
            columns={name: self._set.column(name)[rows.start : rows.stop] for name in self._set.info.vectors},
            pictures={name: self._pictures(name, rows) for name in self._set.cameras},
            tasks=tuple(self._set.task(row) for row in rows),
        )

    def _pictures(self, camera: str, rows: range) -> Iterator[np.ndarray]:
        for expected, (row, picture) in zip(rows, self._set.pictures(camera, rows), strict=True):
            if row != expected:  # pictures come in the video's order
                raise FoveateError(f"{self._set.root}, camera {camera!r}: the clock runs backwards at row {expected}")
            yield picture


def write_lerobot(source: Source, root: Path, version: Version, images: str, step: Callable[[int, int], None]) -> int:
    """Write, or go on with writing, a set of all recordings; returns their number.

    Args:
        images: `video` or `image`, as PNG in the parquet files.
        step: called with (episodes done, episodes in all).
    """
    features = {n: dataclasses.replace(f, dtype=images) if f.is_camera else f for n, f in source.features.items()}
    name = f"{source.name}, {len(source)} episodes"
    with LeRobotWriter(root, version, source.fps, features, robot_type=source.robot_type, source=name) as writer:
        step(writer.done, len(source))
        while writer.done < len(source):
            recording = source.read(writer.done)
            writer.add(recording.columns, recording.pictures, recording.tasks)
            step(writer.done, len(source))
        if not writer.complete:
            writer.finish()
        return writer.done
