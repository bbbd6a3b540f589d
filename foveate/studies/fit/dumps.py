"""The dumps of a traced run as recordings: what the policy saw and answered at each of its inferences.

Between two inferences the state is interpolated; the actions are those of the chunk that was up. Pictures are those of
the inferences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from foveate.data.conversion.base import ACTION, IMAGES, NEW_PICTURE, STATE, Recording, camera, vector
from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.tracing.record import Record, iter_records
from foveate.util.pictures import read_picture
from foveate.viz.viewer.actions import course


def has_dumps(folder: Path) -> bool:
    return (folder / "dumps").is_dir()


class DumpSource:
    """The episodes of a run folder that were traced with their pictures; a `data.conversion.base.Source`."""

    fps = 1.0
    robot_type = None

    def __init__(self, folder: Path, robot: RobotMapping) -> None:
        self.name, self._robot = f"run {folder}", robot
        episodes: dict[tuple[str, int, int], list[Record]] = {}
        for path, record in iter_records(folder):
            if isinstance(record, FoveateError):
                raise record
            if record.state is None or record.action is None or not any(view.image for view in record.views):
                raise FoveateError(
                    f"{path}: holds no state, actions or pictures, which a policy needs to be asked again; trace with "
                    "--trace_save_policy_images true, or record with --record droid"
                )
            episodes.setdefault(record.episode, []).append(record)
        if not episodes:
            raise FoveateError(f"{folder}: no dump in it; trace a run, or record one with --record droid")
        self._episodes = list(episodes.values())
        first = self._episodes[0][0]
        assert first.state is not None and first.action is not None
        cameras = [camera(name, picture) for name, picture in self._seen(first).items()]
        vectors = [vector(STATE, len(first.state)), vector(ACTION, first.action.shape[1]), vector(NEW_PICTURE, 1)]
        self.features = {feature.name: feature for feature in (*cameras, *vectors)}

    def __len__(self) -> int:
        return len(self._episodes)

    def read(self, number: int) -> Recording:
        records = self._episodes[number]
        steps = [int(record.meta["step"]) for record in records]
        done = course([(step, record.action) for step, record in zip(steps, records, strict=True)])  # type: ignore[misc]
        rows = np.arange(steps[0], steps[-1] + 1)
        states = np.stack([record.state for record in records]).astype(np.float32)  # type: ignore[misc]
        between = np.stack([np.interp(rows, steps, column) for column in states.T], axis=1).astype(np.float32)
        up = np.searchsorted(done.steps, rows, "right") - 1
        shown = np.searchsorted(steps, rows, "right") - 1
        names = list(self._seen(records[0]))
        return Recording(
            columns={STATE: between, ACTION: done.actions[up], NEW_PICTURE: np.isin(rows, steps)[:, None]},
            pictures={f"{IMAGES}{name}": self._pictures(records, name, shown) for name in names},
            tasks=tuple(str(records[i].meta.get("instruction", "")) for i in shown),
        )

    def _pictures(self, records: Sequence[Record], name: str, shown: np.ndarray) -> Iterator[np.ndarray]:
        at, picture = -1, np.empty(0, np.uint8)
        for i in shown.tolist():
            if i != at:
                at, picture = i, self._seen(records[i])[name]
            yield picture

    def _seen(self, record: Record) -> dict[str, np.ndarray]:
        """Name that the robot's mapping knows -> picture."""
        seen = {}
        for view in record.views:
            if view.image:
                known = self._robot.views.get(view.name) or (view.name,)
                seen[known[0]] = read_picture(record.run_dir / view.image)
        return seen
