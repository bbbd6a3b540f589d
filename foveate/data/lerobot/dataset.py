"""A LeRobot data set v2.0, v2.1 or v3.0: its rows, windows of them, and its pictures.

    dataset = LeRobotDataset("path/to/set", episodes=[0, 3])
    dataset.column("action")                                     # float32 [N, A]
    dataset.windows("action", [0, 1], range(16))                 # [2, 16, A] and whether a step lies past the end
    dataset.item(5, {"action": range(16)})                       # everything of one instant

A *row* is a place in the chosen episodes, 0 to N - 1; the column `index` has its number in the whole set. Columns of
numbers are read once per file and kept; pictures are decoded when they are asked for. Nothing of lerobot is imported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.lerobot.episodes import Clip, Episode, load_episodes, load_tasks
from foveate.data.lerobot.hub import find_dataset
from foveate.data.lerobot.info import Feature, load_info
from foveate.data.lerobot.parquet import as_array, open_parquet, read_table, row_groups
from foveate.data.lerobot.stats import Stats, load_stats
from foveate.data.lerobot.video import FrameTable, VideoFile, frame_table, told_frames
from foveate.errors import FoveateError, unknown
from foveate.util.pictures import ImageError, read_picture

TOLERANCE = 1e-4
"""s between a row's time and its frame's, as lerobot has it; half a step of the video's clock is added."""
OPEN_VIDEOS = 8
"""Files that stay open, the least recently used one is closed."""
CHECKED_VIDEOS = 10_000
"""Files that `check_videos` looks into, 0.4 ms each where the system has them in memory; others are told when read."""


class LeRobotDataset:
    """Not to be shared between processes: every worker opens its own.

    Attributes:
        root: the folder.
        info: what `meta/info.json` says.
        episodes: the chosen ones, in order of their index.
        tasks: task index -> instruction.
        starts: int64 [E + 1], the first row of every episode, and the number of rows.
    """

    def __init__(self, source: str | Path, episodes: Iterable[int] | None = None, revision: str | None = None) -> None:
        """
        Args:
            source: a folder, or `owner/name` of the Hugging Face hub, of which only the files needed are fetched.
            episodes: indices of the episodes to read; None: all.
            revision: of the hub's repository.
        Raises:
            FoveateError: no such set, a version that is not read, damaged metadata, an unknown episode.
        """
        chosen = None if episodes is None else sorted({int(episode) for episode in episodes})
        self.root = find_dataset(source, chosen, revision)
        self.info = load_info(self.root)
        self.episodes = _choose(self.root, load_episodes(self.root, self.info), chosen)
        self.tasks = load_tasks(self.root, self.info)
        self.starts = np.cumsum([0, *(episode.length for episode in self.episodes)])
        self._columns: dict[str, np.ndarray] = {}
        self._owners: dict[str, np.ndarray | None] = {}
        self._places: dict[int, np.ndarray] = {}
        self._frames: dict[tuple[int, str], np.ndarray] = {}
        self._frame_tables: dict[str, FrameTable] = {}
        self._videos: OrderedDict[str, VideoFile] = OrderedDict()
        self._row_groups: dict[str, np.ndarray] = {}
        self._group: tuple[tuple[str, str, int], Any] | None = None

    def __len__(self) -> int:
        """Rows of the chosen episodes."""
        return int(self.starts[-1])

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.info.cameras

    @cached_property
    def stats(self) -> Stats:
        """Feature -> statistic -> array, as the data set brings them; see `stats.load_stats`."""
        return load_stats(self.root, self.info, [episode.index for episode in self.episodes])

    @cached_property
    def episode_of(self) -> np.ndarray:
        """int64 [N]: the place in `episodes` that a row belongs to."""
        return np.repeat(np.arange(len(self.episodes)), np.diff(self.starts))

    def feature(self, name: str) -> Feature:
        if name not in self.info.features:
            raise unknown(f"feature of {self.root}:", name, self.info.features)
        return self.info.features[name]

    def column(self, name: str) -> np.ndarray:
        """[N] or [N, ...]: a column of numbers, as stored; columns of shape [1] are scalars.

        Raises:
            FoveateError: no such column, or an episode's rows are missing or malformed; names the episode.
        """
        if name not in self._columns:
            self.load([name])
        return self._columns[name]

    def load(self, names: Sequence[str]) -> None:
        """Read several columns in one pass over the files; errors as of `column`."""
        parts = [rows for _, rows in self.stream(names)]
        self._columns |= {name: np.concatenate([rows[name] for rows in parts]) for name in names}

    def stream(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Place in `episodes` and its rows of these columns, as `column`; one file is in memory at a time."""
        for file, group in groupby(range(len(self.episodes)), lambda place: self.episodes[place].data_file):
            table = read_table(self.root / file, lambda name: name in names)
            if missing := [name for name in names if name not in table.column_names]:
                raise unknown(f"column of {self.root / file}:", missing[0], self.info.features)
            for place in group:
                here = self._here(place)
                rows = table.slice(here[0], len(here)) if _is_run(here) else table.take(here)
                yield place, {name: self._values(place, name, rows[name]) for name in names}

    def _values(self, place: int, name: str, column: Any) -> np.ndarray:
        where = f"{self.root}, episode {self.episodes[place].index}, column {name!r}"
        try:
            values = as_array(column)
        except ValueError as error:
            raise FoveateError(f"{where}: {error}") from None
        expected = self.info.features[name].shape if name in self.info.features else values.shape[1:]
        if values.shape[1:] != expected and not (values.ndim == 1 and expected == (1,)):
            raise FoveateError(f"{where}: rows of shape {list(values.shape[1:])}, meta/info.json says {list(expected)}")
        return values

    def _here(self, place: int) -> np.ndarray:
        """int64 [T]: where the rows of an episode stand in its file."""
        if place not in self._places:
            self._places[place] = self._find(place)
        return self._places[place]

    def _find(self, place: int) -> np.ndarray:
        episode = self.episodes[place]
        if episode.data_file not in self._owners:
            table = read_table(self.root / episode.data_file, lambda name: name == "episode_index")
            self._owners[episode.data_file] = as_array(table["episode_index"]) if table.num_columns else None
        owner = self._owners[episode.data_file]
        here = np.arange(episode.length) if owner is None else np.flatnonzero(owner == episode.index)
        if len(here) != episode.length:
            raise FoveateError(
                f"{self.root}, episode {episode.index}: {episode.data_file} has {len(here)} rows of it, the metadata "
                f"say {episode.length}; copy the data set again"
            )
        return here

    def vectors(self, name: str) -> np.ndarray:
        """float32 [N, D]: a numeric column that must be finite.

        Raises:
            FoveateError: as `column`; NaN or infinity, naming episode, row and entry.
        """
        values = self.column(name)
        values = values.reshape(len(values), -1)
        for place in np.unique(self.episode_of[~np.isfinite(values).all(1)]):
            self.check_finite(int(place), name, values[self.starts[place] : self.starts[place + 1]])
        return values.astype(np.float32)

    def check_finite(self, place: int, name: str, values: np.ndarray) -> None:
        """Raise a FoveateError that names the first of an episode's entries [T, D] that is NaN or infinite."""
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, entry = bad[0]
            raise FoveateError(
                f"{self.root}, episode {self.episodes[place].index}, frame {row}, column "
                f"{self.feature(name).entry(int(entry))}: {values[row, entry]} is no finite number ({len(bad)} such "
                f"values in this episode); mend or {_leave_out(self.episodes[place])}"
            )

    def windows(self, name: str, rows: Sequence[int], offsets: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Values around each row: [B, O, ...], and bool [B, O], True where an offset leads out of the row's episode.

        There the episode's first or last row is repeated, as lerobot does it.

        Args:
            offsets: in rows; 0 is the row itself.
        """
        targets, is_pad = self.neighbours(rows, offsets)
        return self.column(name)[targets], is_pad

    def neighbours(self, rows: Sequence[int], offsets: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """int64 [B, O]: rows at these offsets, kept within the episode; and bool [B, O], as `windows`."""
        base = np.asarray(rows, np.int64)
        if len(base) and not 0 <= base.min() <= base.max() < len(self):
            raise IndexError(f"{self.root}: rows {base.min()} to {base.max()} wanted, it has {len(self)}")
        first, stop = self.starts[self.episode_of[base]], self.starts[self.episode_of[base] + 1]
        targets = base[:, None] + np.asarray(offsets, np.int64)
        is_pad = (targets < first[:, None]) | (targets >= stop[:, None])
        return np.clip(targets, first[:, None], stop[:, None] - 1), is_pad

    def task(self, row: int) -> str:
        """The instruction of a row."""
        episode = self.episodes[self.episode_of[row]]
        if "task_index" not in self.info.features:
            if len(episode.tasks) != 1:
                raise FoveateError(
                    f"{self.root}, episode {episode.index}: tasks {list(episode.tasks)}, and no task_index"
                )
            return episode.tasks[0]
        index = int(self.column("task_index")[row])
        if index not in self.tasks:
            raise FoveateError(f"{self.root}, episode {episode.index}: task_index {index} is not in meta/tasks")
        return self.tasks[index]

    def picture(self, camera: str, row: int) -> np.ndarray:
        """uint8 [H, W, 3], RGB."""
        return next(picture for _, picture in self.pictures(camera, [row]))

    def pictures(self, camera: str, rows: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Row and picture, uint8 [H, W, 3], of each row once, in the order that costs least: by file, then by time.

        Raises:
            FoveateError: no such camera; a video lacks a row's frame, naming episode and frame; a damaged file.
        """
        if not self.feature(camera).is_camera:
            raise unknown(f"camera of {self.root}:", camera, self.cameras)
        wanted = np.unique(np.fromiter(rows, np.int64))
        read = self._decoded if self.feature(camera).dtype == "video" else self._stored
        return read(camera, wanted)

    def item(self, row: int, offsets: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """Everything of one instant: numbers, pictures (uint8 [H, W, 3]) and `task`.

        Args:
            offsets: feature -> rows relative to this one; it becomes a stack [O, ...], and `<feature>_is_pad` bool [O]
                says which of them lie outside of the episode.
        """
        item: dict[str, Any] = {"task": self.task(row)}
        for name, feature in self.info.features.items():
            if feature.dtype == "string" or feature.is_depth:
                continue
            if offsets is None or name not in offsets:
                item[name] = self.picture(name, row) if feature.is_camera else self.column(name)[row]
                continue
            targets, is_pad = self.neighbours([row], offsets[name])
            if feature.is_camera:
                seen = dict(self.pictures(name, targets[0]))
                item[name] = np.stack([seen[int(target)] for target in targets[0]])
            else:
                item[name] = self.column(name)[targets[0]]
            item[f"{name}_is_pad"] = is_pad[0]
        return item

    def check_videos(self, cameras: Iterable[str]) -> None:
        """Hold the frames that each video's header names against the rows that need one, before hours of training.

        Raises:
            FoveateError: as `pictures`, of a video that is missing, damaged or too short.
        """
        shown: dict[tuple[str, str], list[int]] = {}
        for camera in cameras:
            for place, episode in enumerate(self.episodes):
                if camera in episode.clips:
                    shown.setdefault((camera, episode.clips[camera].file), []).append(place)
        for (camera, file), places in islice(shown.items(), CHECKED_VIDEOS):
            frames = told_frames(self.root / file)
            if frames is not None and frames < sum(self.episodes[place].length for place in places):
                for place in places:
                    self.clip_frames(place, camera)

    def clip_frames(self, place: int, camera: str) -> np.ndarray:
        """int64 [T]: the number of each row's frame in the video file of an episode.

        The nearest frame in time counts, where all rows have one within the tolerance. Where they have not, the rows
        carry another clock than the video (a camera's own, or seconds since 1970), and go with the frames of the
        episode's stretch one by one, if there are as many.

        Raises:
            FoveateError: a row has no frame; names episode and frame.
        """
        episode = self.episodes[place]
        key = (episode.index, camera)
        if key not in self._frames:
            clip = episode.clips[camera]
            table = self._frame_table(clip.file)
            begin, end = _stretch(table, clip)
            rows = slice(self.starts[place], self.starts[place + 1])
            clock = self.column("timestamp")[rows] if "timestamp" in self.info.features else None
            numbers = None if clock is None else _by_time(table, clip.start + clock.astype(np.float64), begin, end)
            if numbers is None and end - begin == episode.length:
                numbers = np.arange(begin, end)
            if numbers is None:
                raise self._lacking(episode, camera, table, begin, end, clock)
            self._frames[key] = numbers
        return self._frames[key]

    def _lacking(
        self, episode: Episode, camera: str, table: FrameTable, begin: int, end: int, clock: np.ndarray | None
    ) -> FoveateError:
        where, count = f"{self.root}, episode {episode.index}, camera {camera!r}", end - begin
        file = episode.clips[camera].file
        if count < episode.length:
            missing = count  # at the end, or where as many rows as there are too few frames have none at their time
            if clock is not None:
                times = episode.clips[camera].start + clock.astype(np.float64)
                alone = np.flatnonzero(~_near(table, _nearest(table.times, times), times))
                missing = int(alone[0]) if len(alone) == episode.length - count else count
            return FoveateError(
                f"{where}: the episode has {episode.length} rows, and its video {file} shows {count} frames: frame "
                f"{missing} is missing; copy the video again, or {_leave_out(episode)}"
            )
        return FoveateError(
            f"{where}: its {episode.length} rows fit the {count} frames of {file} neither by time nor by number; "
            f"{_leave_out(episode)}"
        )

    def _decoded(self, camera: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        by_file: dict[str, dict[int, list[int]]] = {}
        for place in np.unique(self.episode_of[rows]):
            first = self.starts[place]
            numbers = self.clip_frames(int(place), camera)
            here = by_file.setdefault(self.episodes[place].clips[camera].file, {})
            for row in rows[self.episode_of[rows] == place]:  # two rows may share a frame
                here.setdefault(int(numbers[row - first]), []).append(int(row))
        for file, sharing in by_file.items():
            for number, picture in self._video(file).frames(list(sharing)):
                for row in sharing[number]:
                    yield row, picture

    def _frame_table(self, file: str) -> FrameTable:
        if file not in self._frame_tables:
            self._frame_tables[file] = frame_table(self.root / file)
        return self._frame_tables[file]

    def _video(self, file: str) -> VideoFile:
        if file not in self._videos:
            self._videos[file] = VideoFile(self.root / file, self._frame_table(file))
            if len(self._videos) > OPEN_VIDEOS:
                self._videos.popitem(last=False)[1].close()
        self._videos.move_to_end(file)
        return self._videos[file]

    def _stored(self, camera: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures in the parquet files: struct {bytes, path}; without bytes, `path` is a file of the set."""
        for row in map(int, rows):
            place = int(self.episode_of[row])
            episode = self.episodes[place]
            frame = row - int(self.starts[place])
            cell = self._cell(episode.data_file, camera, int(self._here(place)[frame]))
            where = f"{self.root}, episode {episode.index}, camera {camera!r}, frame {frame}"
            if not cell or (cell.get("bytes") is None and not cell.get("path")):
                raise FoveateError(f"{where}: no picture; {_leave_out(episode)}")
            try:
                yield row, read_picture(cell["bytes"] if cell.get("bytes") is not None else self.root / cell["path"])
            except ImageError as error:
                raise FoveateError(f"{where}: {error}; copy {episode.data_file} again") from error

    def _cell(self, file: str, camera: str, row: int) -> Any:
        """One picture's struct; the row group that it stands in is kept for the next one."""
        if file not in self._row_groups:
            self._row_groups[file] = row_groups(self.root / file)
        bounds = self._row_groups[file]
        group = int(np.searchsorted(bounds, row, "right")) - 1
        if self._group is None or self._group[0] != (file, camera, group):
            with open_parquet(self.root / file) as opened:
                self._group = (file, camera, group), opened.read_row_group(group, columns=[camera])[camera]
        return self._group[1][row - int(bounds[group])].as_py()

    def close(self) -> None:
        """Close the videos; they are opened again when they are needed."""
        while self._videos:
            self._videos.popitem()[1].close()


def _choose(root: Path, episodes: list[Episode], chosen: Sequence[int] | None) -> tuple[Episode, ...]:
    known = {episode.index: episode for episode in episodes}
    if chosen is None:
        return tuple(episodes)
    if missing := [index for index in chosen if index not in known]:
        raise FoveateError(f"{root}: no episode {missing[0]}; it has {len(known)}, {min(known)} to {max(known)}")
    if not chosen:
        raise FoveateError(f"{root}: no episode is chosen; it has {len(known)}")
    return tuple(known[index] for index in chosen)


def _leave_out(episode: Episode) -> str:
    return f"leave out the episode (`foveate data convert SET NEW_SET --leave_out {episode.index}`)"


def _is_run(rows: np.ndarray) -> bool:
    """Whether rows follow one another without a gap."""
    return bool(len(rows)) and int(rows[-1]) - int(rows[0]) == len(rows) - 1


def _nearest(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64: the place in `ascending` that is nearest to each value."""
    right = np.clip(np.searchsorted(ascending, values), 1, max(len(ascending) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(ascending) - 1)
    return np.where(values - ascending[left] <= ascending[right] - values, left, right)


def _stretch(table: FrameTable, clip: Clip) -> tuple[int, int]:
    """First frame of a clip, and the one after its last: its ends are rounded to the nearest frame."""
    times = table.times
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    bounds = np.append(times, times[-1] + gap)
    begin = int(_nearest(bounds, np.array([clip.start]))[0]) if clip.start else 0
    end = len(times) if clip.stop is None else int(_nearest(bounds, np.array([clip.stop]))[0])
    return begin, end


def _by_time(table: FrameTable, times: np.ndarray, begin: int, end: int) -> np.ndarray | None:
    """The frames nearest in time, where all are within the tolerance and of the clip."""
    numbers = _nearest(table.times, times)
    right = _near(table, numbers, times) & (numbers >= begin) & (numbers < end)
    return numbers if bool(right.all()) else None


def _near(table: FrameTable, numbers: np.ndarray, times: np.ndarray) -> np.ndarray:
    """bool: whether the frames are shown at these times, within the tolerance."""
    return np.abs(table.times[numbers] - times) <= TOLERANCE + table.time_base / 2
