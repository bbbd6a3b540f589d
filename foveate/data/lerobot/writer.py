"""Writer of LeRobot data sets v2.1 and v3.0, readable by the lerobot package; an interrupted one goes on.

    with LeRobotWriter(root, "v3.0", fps=20, features=features, source="where it comes from") as writer:
        for number in range(writer.done, count):
            writer.add(columns, pictures, tasks)
        writer.finish()

An episode is written into `.parts/episode_000012/` and becomes part of the set when it is whole. In v2.1 that is at
once: its files are moved to their places and its lines are appended. In v3.0 whole groups of episodes are joined, rows
as row groups and videos by copying their packets, until one of the group's files would outgrow lerobot's limits; a
group counts from the moment its `meta/episodes` file is there. `meta/info.json` comes last: before `finish` nobody
takes the folder for a data set. `meta/writing.json` says what is being written, so that nothing else goes on with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.parquet import read_table
from foveate.data.lerobot.parts import (
    SCALARS,
    encode_picture,
    encode_video,
    join_rows,
    join_videos,
    tasks_table,
    write_rows,
)
from foveate.data.lerobot.stats import Stats, aggregate, as_json, picture_stats, vector_stats
from foveate.errors import FoveateError
from foveate.util.files import (
    JsonLines,
    draft,
    draft_folder,
    json_lines,
    one_process,
    read_json,
    write_json,
    write_text,
)

Version = Literal["v2.1", "v3.0"]
CHUNK = 1000
"""Episodes per folder in v2.1, files per folder in v3.0."""
DATA_MB, VIDEO_MB = 100, 200
"""Sizes that lerobot's own files do not outgrow."""
PATHS: dict[Version, tuple[str, str]] = {
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class LeRobotWriter:
    """One data set in the making; holds its folder while it is open.

    Attributes:
        done: episodes that are written, those of interrupted runs included; the next one gets this index.
    """

    def __init__(
        self,
        root: str | Path,
        version: Version,
        fps: float,
        features: Mapping[str, Feature],
        *,
        robot_type: str | None = None,
        source: str = "",
        data_mb: float = DATA_MB,
        video_mb: float = VIDEO_MB,
    ) -> None:
        """
        Args:
            features: columns of the set without the index columns; dtypes `video`, `image` (PNG in the parquet file),
                or of numbers.
            source: what the set is made of; one that is interrupted goes on from the same source alone.
            data_mb, video_mb: sizes at which v3.0 begins new files, in MB.
        Raises:
            FoveateError: the folder holds something else, a feature cannot be written, or another process writes there.
        """
        self.root, self.version, self.fps, self.features = Path(root), version, float(fps), dict(features)
        self._limits = data_mb * 1e6, video_mb * 1e6
        self._parts = self.root / ".parts"
        self._robot_type = robot_type
        for feature in self.features.values():
            _check_feature(feature)
        self._identity: dict[str, Any] = {
            "source": source,
            "version": version,
            "fps": self.fps,
            "features": {name: _declared(feature, self.fps) for name, feature in self.features.items()},
        }
        self._logs: dict[str, JsonLines] = {}
        """Of v2.1: a line per episode in each."""
        self._held = ExitStack()
        self._held.enter_context(one_process(self.root, "writing a LeRobot data set"))
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def _begin(self) -> None:
        record, info = self.root / "meta" / "writing.json", self.root / "meta" / "info.json"
        if record.exists():
            if (found := read_json(record)) != json.loads(json.dumps(self._identity)):
                differs = [key for key in self._identity if found.get(key) != self._identity[key]]
                raise FoveateError(
                    f"{self.root}: holds a data set of other {', '.join(differs)} ({found.get('source')}, "
                    f"{found.get('version')}); name another folder"
                )
        elif info.exists() or any(path.name not in (".lock", ".lock.holder") for path in self.root.iterdir()):
            raise FoveateError(
                f"{self.root}: is not empty, and no data set that was being written; name another folder"
            )
        self.complete = info.exists()
        write_json(record, self._identity)
        self._lines = self._written()
        for folder in sorted(self._parts.glob("episode_*")):
            line = read_json(folder / "episode.json")
            if line["episode_index"] < len(self._lines):
                shutil.rmtree(folder)
            elif self.version == "v2.1":
                self._place(folder, line)
        self._waiting = [read_json(path) for path in sorted(self._parts.glob("episode_*/episode.json"))]
        self.done = len(self._lines) + len(self._waiting)
        self._tasks: dict[str, int] = {}
        for line in (*self._lines, *self._waiting):
            number_tasks(self._tasks, line["tasks"])

    def add(
        self,
        columns: Mapping[str, np.ndarray],
        pictures: Mapping[str, Iterable[np.ndarray]],
        tasks: str | Sequence[str],
        timestamps: np.ndarray | None = None,
    ) -> None:
        """Write one episode.

        Args:
            columns: feature -> [T, ...], every numeric feature.
            pictures: camera -> its T pictures, uint8 [H, W, 3], taken one at a time.
            tasks: the instruction, or one for each row.
            timestamps: float [T], s; None: row / fps.
        Raises:
            FoveateError: a feature is missing, of another shape or not finite, a camera has too few pictures, or the
                disk is full.
        """
        index, length = self.done, len(next(iter(columns.values()), ()))
        texts = [tasks] * length if isinstance(tasks, str) else list(tasks)
        if not length or len(texts) != length:
            raise FoveateError(
                f"episode {index}: {length} rows and {len(texts)} instructions; expected as many, 1 at least"
            )
        known = dict(self._tasks)
        numbers = number_tasks(known, texts)
        arrays = {name: self._checked(index, f, columns.get(name), length) for name, f in self._numeric().items()}
        arrays["timestamp"] = np.arange(length) / self.fps if timestamps is None else np.asarray(timestamps)
        first = sum(line["length"] for line in (*self._lines, *self._waiting))
        arrays |= {
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(first, first + length),
            "task_index": np.array(numbers),
        }
        arrays = {name: values.astype(self._dtype(name)) for name, values in arrays.items()}
        stats: Stats = {name: vector_stats(values) for name, values in arrays.items()}
        folder = self._parts / f"episode_{index:06d}"
        with draft_folder(folder, "the episode") as begun:
            stored: dict[str, Sequence[bytes]] = {}
            for name, feature in self.features.items():
                if feature.is_camera:
                    seen = _Pictures(index, feature, pictures.get(name), length)
                    if feature.dtype == "image":
                        stored[name] = [encode_picture(picture) for picture in seen]
                    else:
                        encode_video(begun / f"{name}.mp4", seen, self.fps)
                    stats[name] = picture_stats(seen.sample)
            write_rows(begun / "data.parquet", self.features, arrays, stored)
            line = {
                "episode_index": index,
                "tasks": list(dict.fromkeys(texts)),
                "length": length,
                "stats": as_json(stats),
            }
            write_json(begun / "episode.json", line, indent=None)
        self.done, self._tasks = self.done + 1, known
        if self.version == "v2.1":
            self._place(folder, line)
        else:
            self._waiting.append(line)
            self._join(everything=False)

    def finish(self) -> None:
        """Write what is left; from now on it is a data set. Without an episode nothing is written.

        Raises:
            FoveateError: there is no episode.
        """
        if not self.done:
            raise FoveateError(f"{self.root}: there is no episode to write")
        if self.version == "v3.0":
            self._join(everything=True)
            self._finish_tables()
        else:
            rows = ({"task_index": i, "task": task} for task, i in self._tasks.items())
            write_text(self.root / "meta" / "tasks.jsonl", json_lines(rows))
        shutil.rmtree(self._parts, ignore_errors=True)
        write_json(self.root / "meta" / "info.json", self._info(), indent=4)
        self.complete = True

    def close(self) -> None:
        """Let go of the folder; what is written stays, and can be gone on with."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _numeric(self) -> dict[str, Feature]:
        return {name: feature for name, feature in self.features.items() if not feature.is_camera}

    def _videos(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    def _dtype(self, name: str) -> str:
        return SCALARS[name] if name in SCALARS else self.features[name].dtype

    def _checked(self, index: int, feature: Feature, values: Any, length: int) -> np.ndarray:
        if values is None:
            raise FoveateError(f"episode {index}: feature {feature.name!r} is missing")
        values = np.asarray(values)
        if values.shape == (length,) and feature.shape == (1,):
            values = values[:, None]
        if values.shape != (length, *feature.shape):
            raise FoveateError(
                f"episode {index}, feature {feature.name!r}: shape {list(values.shape)}, expected "
                f"{[length, *feature.shape]}"
            )
        bad = np.argwhere(~np.isfinite(values.reshape(length, -1).astype(np.float64)))
        if len(bad):
            raise FoveateError(
                f"episode {index}, frame {bad[0][0]}, column {feature.entry(int(bad[0][1]))}: "
                f"{values.reshape(length, -1)[tuple(bad[0])]} is no finite number; mend or leave out the episode"
            )
        return values[:, 0] if feature.shape == (1,) else values

    # v2.1: a file per episode ---------------------------------------------------------------------------------

    def _place(self, folder: Path, line: dict[str, Any]) -> None:
        """Move an episode's files to their places and append its lines; may be done again after a kill."""
        data, video = PATHS["v2.1"]
        place = {"episode_chunk": line["episode_index"] // CHUNK, "episode_index": line["episode_index"]}
        targets = {"data.parquet": data.format(**place)}
        targets |= {f"{name}.mp4": video.format(video_key=name, **place) for name in self._videos()}
        for name, target in targets.items():
            if (folder / name).exists():
                (self.root / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(self.root / target)
        about = {key: line[key] for key in ("episode_index", "stats")}
        short = {key: line[key] for key in ("episode_index", "tasks", "length")}
        # The line that counts comes last.
        for name, row in (("episodes_stats", about), ("episodes", short)):
            if row["episode_index"] >= len(self._logs[name].rows):
                self._logs[name].append([row])
        self._lines.append(short)
        shutil.rmtree(folder)

    # v3.0: episodes joined to larger files --------------------------------------------------------------------

    def _written(self) -> list[dict[str, Any]]:
        """The lines of the episodes that are part of the set."""
        if self.version == "v2.1":
            (self.root / "meta").mkdir(parents=True, exist_ok=True)
            for name in ("episodes_stats", "episodes"):
                self._logs[name] = JsonLines(self.root / "meta" / f"{name}.jsonl", lambda row: row["episode_index"])
                self._held.callback(self._logs[name].close)
            return list(self._logs["episodes"].rows)
        self._groups = sorted((self.root / "meta" / "episodes").glob("*/file-*.parquet"))
        names = ("episode_index", "tasks", "length")
        return [row for path in self._groups for row in read_table(path, lambda name: name in names).to_pylist()]

    def _join(self, everything: bool) -> None:
        """Write groups of waiting episodes, as long as one is full; `everything`: the rest as well."""
        while self._waiting:
            size, count = np.zeros(1 + len(self._videos())), 0
            limits = np.array([self._limits[0], *[self._limits[1]] * len(self._videos())])
            for line in self._waiting:
                folder = self._parts / f"episode_{line['episode_index']:06d}"
                files = [folder / "data.parquet", *(folder / f"{name}.mp4" for name in self._videos())]
                size += [file.stat().st_size for file in files]
                if count and (size > limits).any():
                    break
                count += 1
            else:
                if not everything:
                    return
            self._write_group(self._waiting[:count])
            self._lines += [
                {k: line[k] for k in ("episode_index", "tasks", "length")} for line in self._waiting[:count]
            ]
            for line in self._waiting[:count]:
                shutil.rmtree(self._parts / f"episode_{line['episode_index']:06d}")
            del self._waiting[:count]

    def _write_group(self, lines: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        chunk, file = divmod(len(self._groups), CHUNK)
        place = {"chunk_index": chunk, "file_index": file}
        folders = [self._parts / f"episode_{line['episode_index']:06d}" for line in lines]
        data = self.root / PATHS["v3.0"][0].format(**place)
        data.parent.mkdir(parents=True, exist_ok=True)
        with draft(data, "the rows") as begun:
            join_rows(begun, [folder / "data.parquet" for folder in folders])
        lengths = np.array([line["length"] for line in lines])
        for name in self._videos():
            target = self.root / PATHS["v3.0"][1].format(video_key=name, **place)
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft(target, "the video", suffix=".draft.mp4") as begun:
                join_videos(begun, [folder / f"{name}.mp4" for folder in folders], self.fps)
        rows = []
        ends, first = np.cumsum(lengths), sum(line["length"] for line in self._lines)
        for line, end, length in zip(lines, ends.tolist(), lengths.tolist(), strict=True):
            row = {key: line[key] for key in ("episode_index", "tasks", "length")}
            row |= {f"data/{key}": value for key, value in place.items()}
            row |= {"dataset_from_index": first + end - length, "dataset_to_index": first + end}
            for name in self._videos():
                row |= {f"videos/{name}/{key}": value for key, value in place.items()}
                row |= {f"videos/{name}/from_timestamp": (end - length) / self.fps}
                row |= {f"videos/{name}/to_timestamp": end / self.fps}
            row |= {f"stats/{name}/{key}": v for name, group in line["stats"].items() for key, v in group.items()}
            row |= {f"meta/episodes/{key}": value for key, value in place.items()}
            rows.append(row)
        path = self.root / EPISODES.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path, "the episodes' metadata") as begun:
            pq.write_table(pa.Table.from_pylist(rows), begun)
        self._groups.append(path)

    def _finish_tables(self) -> None:
        import pyarrow.parquet as pq

        with draft(self.root / "meta" / "tasks.parquet") as begun:
            pq.write_table(tasks_table(self._tasks), begun)
        parts: list[Stats] = []
        for path in self._groups:
            for row in read_table(path, lambda name: name.startswith("stats/")).to_pylist():
                stats: Stats = {}
                for key, value in row.items():
                    name, _, kind = key.removeprefix("stats/").rpartition("/")
                    stats.setdefault(name, {})[kind] = np.asarray(value, np.float64)
                parts.append(stats)
        write_json(self.root / "meta" / "stats.json", as_json(aggregate(parts)))

    def _info(self) -> dict[str, Any]:
        data, video = PATHS[self.version]
        about: dict[str, Any] = {
            "codebase_version": self.version,
            "robot_type": self._robot_type,
            "total_episodes": len(self._lines),
            "total_frames": sum(line["length"] for line in self._lines),
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "fps": int(self.fps) if self.fps.is_integer() else self.fps,
            "splits": {"train": f"0:{len(self._lines)}"},
            "data_path": data,
            "video_path": video if self._videos() else None,
            "features": {
                **self._identity["features"],
                **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in SCALARS.items()},
            },
        }
        if self.version == "v3.0":
            return about | {"data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB}
        chunks = -(-len(self._lines) // CHUNK)
        return about | {"total_videos": len(self._lines) * len(self._videos()), "total_chunks": chunks}


def number_tasks(known: dict[str, int], tasks: Iterable[str]) -> list[int]:
    """The tasks' indices; new ones are counted on, in the order in which they come."""
    return [known.setdefault(task, len(known)) for task in tasks]


class _Pictures:
    """The pictures of one camera as they come, checked; keeps a sample of their pixels for the statistics."""

    def __init__(self, episode: int, feature: Feature, pictures: Iterable[np.ndarray] | None, length: int) -> None:
        if pictures is None:
            raise FoveateError(f"episode {episode}: camera {feature.name!r} is missing")
        self._where, self._feature = f"episode {episode}, camera {feature.name!r}", feature
        self._pictures, self._length = pictures, length
        self.sample: list[np.ndarray] = []

    def __iter__(self) -> Any:
        step = max(1, self._length // 100)
        count = 0
        for picture in self._pictures:
            if picture.shape != self._feature.shape or picture.dtype != np.uint8:
                raise FoveateError(
                    f"{self._where}, frame {count}: expected uint8 {list(self._feature.shape)}, got {picture.dtype} "
                    f"{list(picture.shape)}"
                )
            if count % step == 0:
                stride = max(1, min(picture.shape[:2]) // 100)
                self.sample.append(picture[::stride, ::stride].copy())
            count += 1
            yield picture
        if count != self._length:
            raise FoveateError(f"{self._where}: {count} pictures, and {self._length} rows; expected as many")


def _check_feature(feature: Feature) -> None:
    where = f"feature {feature.name!r}"
    if feature.name in SCALARS:
        raise FoveateError(f"{where}: the writer makes this column itself; leave it out")
    if not feature.is_camera:
        if feature.dtype != "bool" and np.dtype(feature.dtype).kind not in "iuf":
            raise FoveateError(f"{where}: dtype {feature.dtype!r} cannot be written; expected numbers, image or video")
    elif len(feature.shape) != 3 or feature.shape[2] != 3:
        raise FoveateError(f"{where}: expected pictures of shape [H, W, 3], got {list(feature.shape)}")
    elif feature.dtype == "video" and (feature.shape[0] % 2 or feature.shape[1] % 2):
        raise FoveateError(
            f"{where}: videos need an even height and width, got {feature.shape[0]} x {feature.shape[1]}; store the "
            "pictures as `image`, or crop them"
        )


def _declared(feature: Feature, fps: float) -> dict[str, Any]:
    """As `info.json` has it."""
    names: list[str] | None = list(feature.names) or None
    about: dict[str, Any] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
    if feature.is_camera:
        about["names"] = ["height", "width", "channels"]
    if feature.dtype == "video":
        height, width, _ = feature.shape
        about["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": int(fps) if fps.is_integer() else fps,
            "video.channels": 3,
            "has_audio": False,
        }
    return about
