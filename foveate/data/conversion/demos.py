"""foveate's demonstrations as recordings, and recordings as demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.conversion.base import ACTION, IMAGES, NEW_PICTURE, STATE, Recording, Source, camera, vector
from foveate.data.demos import DemoEpisode, episode_path, finished_episodes, read_episode, write_episode, write_meta
from foveate.errors import FoveateError
from foveate.util.files import one_process, read_json, write_json


class DemosSource:
    """Where pictures are kept at every n-th step, the rows between show the last one again (`picture_is_new`)."""

    def __init__(self, root: Path) -> None:
        info = read_json(root / "meta" / "info.json")
        self._root, self._indices = root, sorted(finished_episodes(root))
        if not self._indices:
            raise FoveateError(f"{root}: holds no episode")
        first = self._episode(0)
        self.name, self.fps, self.robot_type = f"demos {root}", float(info["fps"]), info.get("robot_type")
        cameras = [camera(view, pictures[0]) for view, pictures in first.images.items()]
        vectors = [vector(STATE, first.states.shape[1]), vector(ACTION, first.actions.shape[1]), vector(NEW_PICTURE, 1)]
        self.features = {feature.name: feature for feature in (*cameras, *vectors)}

    def __len__(self) -> int:
        return len(self._indices)

    def _episode(self, number: int) -> DemoEpisode:
        return read_episode(episode_path(self._root, self._indices[number]))

    def read(self, number: int) -> Recording:
        episode = self._episode(number)
        if len(episode.frames) and episode.frames[0] != 0:
            raise FoveateError(f"{self._root}, episode {self._indices[number]}: the first row has no picture")
        shown = np.searchsorted(episode.frames, np.arange(len(episode)), "right") - 1
        is_new = np.isin(np.arange(len(episode)), episode.frames).astype(np.float32)
        return Recording(
            columns={STATE: episode.states, ACTION: episode.actions, NEW_PICTURE: is_new[:, None]},
            # A generator would look p up when it runs: every camera would show the last one's pictures.
            pictures={f"{IMAGES}{view}": map(p.__getitem__, shown) for view, p in episode.images.items()},
            tasks=(episode.task,) * len(episode),
            about={"env_task": episode.env_task, "seed": episode.seed, "success_step": episode.success_step},
        )


def write_demos(source: Source, root: Path, step: Callable[[int, int], None]) -> int:
    """Write, or go on with writing, demonstrations of all recordings; returns their number."""
    for name in (STATE, ACTION):
        if name not in source.features:
            vectors = [n for n, f in source.features.items() if not f.is_camera]
            raise FoveateError(f"{source.name}: demonstrations need a column {name!r}; it has {', '.join(vectors)}")
    record, about = root / "meta" / "writing.json", {"source": f"{source.name}, {len(source)} episodes"}
    with one_process(root, "converting"):
        if (root / "meta" / "info.json").exists() and not record.exists():
            raise FoveateError(f"{root}: holds demonstrations of another origin; name another folder")
        if record.exists() and read_json(record) != about:
            raise FoveateError(f"{root}: holds demonstrations of {read_json(record)['source']}; name another folder")
        write_json(record, about)
        done = finished_episodes(root)
        tasks = {line["tasks"][0]: None for _, line in sorted(done.items())}
        for number in range(len(source)):
            if number not in done:
                recording = source.read(number)
                tasks.setdefault(recording.tasks[0])
                episode = _episode(recording, number)
                write_episode(root, number, episode, list(tasks).index(recording.tasks[0]), source.fps)
            step(number + 1, len(source))
        write_meta(root, list(tasks), source.fps, 1, {"complete": True})
    return len(source)


def _episode(recording: Recording, number: int) -> DemoEpisode:
    is_new = recording.columns.get(NEW_PICTURE)
    frames = np.arange(len(recording)) if is_new is None else np.flatnonzero(is_new.ravel())
    about: dict[str, Any] = {"env_task": recording.tasks[0], "seed": number, "success_step": len(recording)}
    return DemoEpisode(
        task=recording.tasks[0],
        states=np.asarray(recording.columns[STATE], np.float32),
        actions=np.asarray(recording.columns[ACTION], np.float32),
        images={name.removeprefix(IMAGES): _taken(pictures, frames) for name, pictures in recording.pictures.items()},
        frames=frames,
        **{**about, **{key: value for key, value in recording.about.items() if key in about}},
    )


def _taken(pictures: Any, frames: np.ndarray) -> np.ndarray:
    wanted = set(frames.tolist())
    kept: Iterator[np.ndarray] = (picture for row, picture in enumerate(pictures) if row in wanted)
    return np.stack(list(kept))
