"""`meta/info.json` of a LeRobot data set: version, features and where the files lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from foveate.errors import FoveateError
from foveate.util.checks import number, of_type, whole
from foveate.util.files import read_json

VERSIONS = ("v2.0", "v2.1", "v3.0")
MAX_COUNT = 10**12
INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that every data set has, besides its features."""


@dataclass(frozen=True)
class Feature:
    """One column of the data set, as `info.json` declares it."""

    name: str
    dtype: str
    """`video`, `image`, or the numbers' type: `float32`, `int64`, `bool`, `string`."""
    shape: tuple[int, ...]
    """Of one row; of a camera [H, W, 3]."""
    names: tuple[str, ...] = ()
    """Of a vector's entries; empty: not told."""
    is_depth: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether its rows are RGB pictures."""
        return self.dtype in ("image", "video") and not self.is_depth

    @property
    def size(self) -> int:
        """Numbers of one row."""
        return math.prod(self.shape)

    def entry(self, i: int) -> str:
        """How entry `i` of the flattened row is called in messages: `action[6] (gripper)`."""
        label = f" ({self.names[i]})" if len(self.names) == self.size else ""
        return f"{self.name}[{i}]{label}"


@dataclass(frozen=True)
class Info:
    """What `meta/info.json` says."""

    version: str
    fps: float
    features: Mapping[str, Feature]
    data_path: str
    """Template of the parquet files' paths."""
    video_path: str | None
    """Template of the videos' paths; None: the pictures lie in the parquet files."""
    chunks_size: int
    """Episodes per folder in v2.x, files per folder in v3.0."""
    total_episodes: int
    total_frames: int
    robot_type: str | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the features that are RGB pictures."""
        return tuple(name for name, feature in self.features.items() if feature.is_camera)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the numeric features, the index columns left aside."""
        return tuple(
            name
            for name, feature in self.features.items()
            if feature.dtype not in ("image", "video", "string") and name not in INDEX_COLUMNS
        )


def load_info(root: Path) -> Info:
    """Read `meta/info.json`.

    Raises:
        FoveateError: there is none, it is of a version that is not read, or a value has the wrong form.
    """
    path = root / "meta" / "info.json"
    if not path.exists():
        raise FoveateError(f"{root}: no LeRobot data set (meta/info.json is missing)")
    values = read_json(path)
    check_version(path, values.get("codebase_version"))
    try:
        return _parse(values)
    except KeyError as error:
        raise FoveateError(f"{path}: {error} is missing; copy the file again") from None
    except FoveateError as error:
        raise FoveateError(f"{path}: {error}") from None


def check_version(path: Path, said: Any) -> None:
    """Refuse what this reader does not know, naming it."""
    if said in VERSIONS:
        return
    known = ", ".join(VERSIONS)
    try:
        newer = tuple(int(part) for part in str(said).removeprefix("v").split(".")[:2]) > (3, 0)
    except ValueError:
        raise FoveateError(f"{path}: codebase_version is {said!r}; expected one of {known}") from None
    advice = (
        "it was written by a newer lerobot: update foveate, or write the set with an older lerobot"
        if newer
        else "convert it with lerobot's own scripts to v2.1 or v3.0 first"
    )
    raise FoveateError(f"{path}: the data set has codebase version {said}, and {known} are read; {advice}")


def _parse(values: Mapping[str, Any]) -> Info:
    video_path = values.get("video_path")
    features = of_type("features", values["features"], dict)
    return Info(
        version=values["codebase_version"],
        fps=number("fps", values["fps"], 1e-6),
        features={name: _feature(name, of_type(f"feature {name!r}", f, dict)) for name, f in features.items()},
        data_path=_template("data_path", values["data_path"]),
        video_path=_template("video_path", video_path) if video_path else None,
        chunks_size=whole("chunks_size", values.get("chunks_size", 1000), 1, MAX_COUNT),
        total_episodes=whole("total_episodes", values.get("total_episodes", 0), 0, MAX_COUNT),
        total_frames=whole("total_frames", values.get("total_frames", 0), 0, MAX_COUNT),
        robot_type=values.get("robot_type"),
    )


def _feature(name: str, values: Mapping[str, Any]) -> Feature:
    shape = of_type(f"feature {name!r}: shape", values.get("shape") or [1], list)
    shape = [whole(f"feature {name!r}: shape", size, 1, MAX_COUNT) for size in shape]
    about = {**(values.get("info") or {}), **(values.get("video_info") or {})}
    names = values.get("names")
    while isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}, as older sets have it
        names = next(iter(names.values()))
    flat = isinstance(names, list) and all(isinstance(entry, str) for entry in names)
    return Feature(
        name=name,
        dtype=of_type(f"feature {name!r}: dtype", values.get("dtype"), str),
        shape=tuple(shape),
        names=tuple(names) if flat and names else (),
        is_depth=bool(about.get("is_depth_map") or about.get("video.is_depth_map")),
    )


def _template(name: str, text: Any) -> str:
    path = PurePosixPath(of_type(name, text, str))
    if path.is_absolute() or ".." in path.parts:
        raise FoveateError(f"{name}: expected a path within the data set, got {text!r}")
    return str(path)


def fill(template: str, **values: Any) -> str:
    """A path from a template of `info.json`.

    Raises:
        FoveateError: the template asks for something that the data set does not say.
    """
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise FoveateError(
            f"meta/info.json: the path {template!r} cannot be filled ({error}); known: {sorted(values)}"
        ) from None
