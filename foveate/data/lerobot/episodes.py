"""Episodes and tasks of a LeRobot data set: which rows and which stretch of which video belong to whom.

v2.x says it in lines of JSON and has a file per episode; v3.0 in `meta/episodes/*/*.parquet`, and several episodes
share a file. Every camera of v3.0 has a file numbering of its own, and so have the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from foveate.data.lerobot.info import Info, fill
from foveate.data.lerobot.parquet import read_table
from foveate.errors import FoveateError
from foveate.util.files import read_json_lines


@dataclass(frozen=True)
class Clip:
    """The stretch of a video file that shows one episode."""

    file: str
    """Path within the data set."""
    start: float = 0.0
    """s, in the file's own time."""
    stop: float | None = None
    """s; None: to the file's end."""


@dataclass(frozen=True)
class Episode:
    """One episode, as the data set's metadata have it."""

    index: int
    length: int
    """Rows."""
    tasks: tuple[str, ...]
    """Instructions, in no order; a row's `task_index` says which one is its own."""
    data_file: str
    """Path within the data set."""
    clips: Mapping[str, Clip]
    """Camera -> its video; empty where the pictures lie in the parquet file."""


def load_episodes(root: Path, info: Info) -> list[Episode]:
    """All episodes in order of their index.

    Raises:
        FoveateError: the metadata are missing, damaged or incomplete.
    """
    episodes = _from_parquet(root, info) if info.version == "v3.0" else _from_json_lines(root, info)
    if not episodes:
        raise FoveateError(f"{root}: the data set holds no episode")
    episodes.sort(key=lambda episode: episode.index)
    doubled = [a.index for a, b in pairwise(episodes) if a.index == b.index]
    if doubled:
        raise FoveateError(f"{root}/meta: episode {doubled[0]} is there twice; write the data set again")
    return episodes


def load_tasks(root: Path, info: Info) -> dict[int, str]:
    """Task index -> instruction.

    The text column of `tasks.parquet` is a pandas index, whose name differs by version (`task`, `__index_level_0__`):
    the one column of texts is taken.
    """
    if info.version != "v3.0":
        path = root / "meta" / "tasks.jsonl"
        return {int(_need(row, "task_index", path)): str(_need(row, "task", path)) for row in _lines(path)}
    path = root / "meta" / "tasks.parquet"
    columns = read_table(path).to_pydict()
    texts = [name for name, values in columns.items() if values and all(isinstance(v, str) for v in values)]
    if "task_index" not in columns or (columns["task_index"] and len(texts) != 1):
        raise FoveateError(f"{path}: expected task_index and one column of texts, found {list(columns)}")
    return dict(zip(columns["task_index"], columns[texts[0]] if texts else [], strict=True))


def _from_json_lines(root: Path, info: Info) -> list[Episode]:
    path = root / "meta" / "episodes.jsonl"
    episodes = []
    for row in _lines(path):
        index = int(_need(row, "episode_index", path))
        place = {"episode_chunk": index // info.chunks_size, "episode_index": index}
        clips = {}
        if info.video_path is not None:
            for camera in (name for name in info.cameras if info.features[name].dtype == "video"):
                clips[camera] = Clip(fill(info.video_path, video_key=camera, **place))
        episodes.append(
            Episode(
                index=index,
                length=int(_need(row, "length", path)),
                tasks=tuple(row.get("tasks") or ()),
                data_file=fill(info.data_path, **place),
                clips=clips,
            )
        )
    return episodes


def _from_parquet(root: Path, info: Info) -> list[Episode]:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise FoveateError(f"{root}: meta/episodes/*/*.parquet is missing; copy the data set again")
    cameras = [name for name in info.cameras if info.features[name].dtype == "video"]
    episodes = []
    for path in paths:
        for row in read_table(path, lambda name: not name.startswith("stats/")).to_pylist():
            episodes.append(
                Episode(
                    index=int(_need(row, "episode_index", path)),
                    length=int(_need(row, "length", path)),
                    tasks=tuple(row.get("tasks") or ()),
                    data_file=fill(info.data_path, **_file_of(row, "data", path)),
                    clips={camera: _clip(info, camera, row, path) for camera in cameras},
                )
            )
    return episodes


def _clip(info: Info, camera: str, row: Mapping[str, Any], path: Path) -> Clip:
    if info.video_path is None:
        raise FoveateError(f"meta/info.json: camera {camera!r} is a video, and video_path is null")
    group = f"videos/{camera}"
    file = fill(info.video_path, video_key=camera, **_file_of(row, group, path))
    return Clip(file, *(float(_need(row, f"{group}/{end}_timestamp", path)) for end in ("from", "to")))


def _file_of(row: Mapping[str, Any], group: str, path: Path) -> dict[str, int]:
    return {name: int(_need(row, f"{group}/{name}", path)) for name in ("chunk_index", "file_index")}


def _need(row: Mapping[str, Any], key: str, path: Path) -> Any:
    if row.get(key) is None:
        raise FoveateError(f"{path}: a row has no {key!r}; copy the file again")
    return row[key]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FoveateError(f"{path}: no such file; copy the data set again")
    return read_json_lines(path)
