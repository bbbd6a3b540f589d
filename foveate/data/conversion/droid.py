"""DROID-format trees as recordings, and recordings as DROID-format trees.

Cameras get the names that openpi's DROID policies know (`exterior_image_1_left`, `wrist_image_left`), unless foveate
recorded them and `calibration.json` says which view of a simulator they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from foveate.data.conversion.base import ACTION, IMAGES, STATE, Recording, Source, camera, vector
from foveate.data.droid.reader import HAND, ROBOT_STATE, SIDES, Episode, find_episodes
from foveate.data.droid.writer import OUTCOMES, DroidWriter
from foveate.errors import FoveateError
from foveate.util.files import one_process, read_json

NAMES = {HAND: "wrist_image_left", SIDES["left"]: "exterior_image_1_left", SIDES["right"]: "exterior_image_2_left"}
STATES = (("state",), ("joint_positions", "gripper_position"), ("cartesian_position", "gripper_position"))
"""Fields of the robot's state that make `observation.state`; the first that are all there."""
ACTIONS = (
    ("command",),
    ("joint_velocity", "gripper_position"),
    ("joint_position", "gripper_position"),
    ("cartesian_velocity", "gripper_velocity"),
    ("cartesian_position", "gripper_position"),
)


class DroidSource:
    """Every episode of a tree; all must have the fields and cameras of the first."""

    def __init__(self, root: Path) -> None:
        self._episodes = find_episodes(root)
        first = self._episodes[0]
        self.name, self.fps, self.robot_type = f"droid {root}", first.control_hz, None
        self._state = _fields(first, ROBOT_STATE, STATES)
        self._action = _fields(first, "action", ACTIONS)
        views = _views(first)
        self._cameras: dict[str, str] = {}
        features = []
        for name in NAMES:
            try:
                picture = next(first.frames(name, [0]))
            except FoveateError:  # a tree need not have all three cameras; one that breaks later is told
                continue
            features.append(camera(views.get(name, NAMES[name]), picture))
            self._cameras[features[-1].name] = name
        if not features:
            raise FoveateError(f"episode {first.key}: none of the cameras {', '.join(NAMES)} has pictures")
        recording = self._columns(first)
        features += [vector(STATE, recording[STATE].shape[1]), vector(ACTION, recording[ACTION].shape[1])]
        self.features = {feature.name: feature for feature in features}

    def __len__(self) -> int:
        return len(self._episodes)

    def _columns(self, episode: Episode) -> dict[str, np.ndarray]:
        return {
            STATE: _joined(episode, ROBOT_STATE, self._state),
            ACTION: _joined(episode, "action", self._action),
        }

    def read(self, number: int) -> Recording:
        episode = self._episodes[number]
        if episode.control_hz != self.fps:
            raise FoveateError(f"episode {episode.key}: {episode.control_hz:g} rows/s, the first has {self.fps:g}")
        rows = range(episode.rows)
        return Recording(
            columns=self._columns(episode),
            pictures={name: episode.frames(camera, rows) for name, camera in self._cameras.items()},
            tasks=(episode.instruction,) * len(rows),
            about={"outcome": episode.outcome},
        )


def write_droid(source: Source, root: Path, step: Callable[[int, int], None]) -> int:
    """Write, or go on with writing, a tree of all recordings; returns their number.

    A recording whose outcome is not known counts as a success. The numbers stand in `observation/robot_state/state` and
    `action/command`, in the source's own units.
    """
    for name in (STATE, ACTION):
        if name not in source.features:
            raise FoveateError(f"{source.name}: a DROID tree needs a column {name!r}")
    views = tuple(name.removeprefix(IMAGES) for name, feature in source.features.items() if feature.is_camera)
    with one_process(root, "converting"):
        writer = DroidWriter(root)
        there = [about for _, about in writer.episodes()]
        if strangers := [about for about in there if about.get("source") != source.name]:
            raise FoveateError(f"{root}: holds episodes of {strangers[0].get('source')}; name another folder")
        done = {about["source_episode"] for about in there}
        for number in range(len(source)):
            if number not in done:
                _write(writer, source, number, views)
            step(number + 1, len(source))
    return len(source)


def _write(writer: DroidWriter, source: Source, number: int, views: tuple[str, ...]) -> None:
    recording = source.read(number)
    episode = writer.begin(views)
    columns = [np.asarray(recording.columns[name], np.float32) for name in (STATE, ACTION)]
    pictures = zip(*recording.pictures.values(), strict=True) if views else itertools.repeat(())
    for row, (state, action, seen) in enumerate(zip(*columns, pictures, strict=bool(views))):
        if not np.isfinite(action).all():
            raise FoveateError(f"{source.name}, episode {number}, frame {row}: action {action.tolist()} is not finite")
        episode.add(dict(zip(views, seen, strict=True)), state, action)
    outcome = recording.about.get("outcome", "success")
    about = {**recording.about, "source": source.name, "source_episode": number}
    kind = outcome if outcome in OUTCOMES else "success"
    episode.finish(kind, recording.tasks[0], source.fps, "unknown", about)


def _views(episode: Episode) -> Mapping[str, str]:
    """Camera -> view, of a tree that foveate recorded."""
    path = episode.folder / "calibration.json"
    about = read_json(path) if path.exists() else {}
    views = {name: value.get("view") for name, value in about.items() if isinstance(value, dict)}
    return {name: str(view) for name, view in views.items() if view}


def _fields(episode: Episode, group: str, choices: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    there = episode.numbers(group)
    for names in choices:
        if all(name in there for name in names):
            return names
    known, has = " or ".join(" + ".join(names) for names in choices), ", ".join(there) or "none"
    raise FoveateError(f"episode {episode.key}: trajectory.h5, {group}: expected {known}, found {has}")


def _joined(episode: Episode, group: str, names: tuple[str, ...]) -> np.ndarray:
    """float32 [T, D]: fields side by side."""
    there = episode.numbers(group)
    if missing := [name for name in names if name not in there]:
        raise FoveateError(f"episode {episode.key}: trajectory.h5 lacks {group}/{missing[0]}, which the first has")
    return np.concatenate([there[name].reshape(len(there[name]), -1) for name in names], axis=1).astype(np.float32)
