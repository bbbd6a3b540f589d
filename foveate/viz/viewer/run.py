"""What is known of a run folder without opening a dump: its episodes, their inferences, and the numbers of its logs.

    run = ViewedRun(Path("runs/try"))
    for episode in run.episodes(): ...

File names tell which dumps there are; `episodes.jsonl`, `queries.jsonl` and `report/tokens.jsonl` tell the rest, as far
as they are there. Everything is looked at again when it has changed, so that a run can be viewed while it is written.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from foveate.errors import FoveateError
from foveate.tracing.record import Record, place_of, read_record
from foveate.util.words import plural
from foveate.viz.report.data import Row, read_rows

RECORDS = 256
"""Dumps that are kept in memory, read."""
FRESH_S = 1.0
"""For so long the folder is not looked at again for the sake of one inference."""
Stamp = tuple[int, ...]
"""Changes when a file or a folder does."""


@dataclass(frozen=True)
class Moment:
    """One inference of an episode."""

    step: int
    """Environment step; where neither a file name nor a log tells it, the place in the order of names."""
    dump: Path | None
    """None: it was logged and not traced."""
    row: Row
    """Its line of `queries.jsonl`, or of the token log; empty: it has none."""


@dataclass
class Episode:
    """One episode, traced or not."""

    key: str
    """Tells it from others of its run: `3.1` is episode 1 of task 3; else its folder under `dumps`."""
    task_id: int | None = None
    number: int | None = None
    task: str = ""
    row: Row = field(default_factory=dict)
    """Its line of `episodes.jsonl`; empty: it has none, or goes on."""
    moments: list[Moment] = field(default_factory=list)

    @property
    def seed(self) -> int | None:
        """Of the scene."""
        rows = (self.row, *(moment.row for moment in self.moments[:1]))
        return next((int(row["seed"]) for row in rows if row.get("seed") is not None), None)

    @property
    def traced(self) -> int:
        """Inferences with a dump."""
        return sum(moment.dump is not None for moment in self.moments)


class ViewedRun:
    """One run folder. Methods may be called from several threads.

    Raises:
        FoveateError: the folder is none of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise FoveateError(f"{folder}: {'a file, no' if folder.exists() else 'no such'} run folder")
        if not _is_run(folder):
            runs = ", ".join(str(path) for path in sorted(folder.iterdir())[:100] if _is_run(path))
            raise FoveateError(
                f"{folder}: no run folder; expected dumps/taskXXX/epYYY/*.pt or episodes.jsonl in it, as "
                f"`foveate eval sim --trace_out_dir ...` writes them{f'; it holds runs: {runs}' if runs else ''}"
            )
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[Stamp, list[str], list[str]]] = {}
        self._logs: dict[str, tuple[Stamp, list[Row]]] = {}
        self._looked = -FRESH_S
        self._told: dict[int, str] = {}
        self._built: tuple[object, dict[str, Episode]] = (None, {})
        self._records: OrderedDict[tuple[Path, Stamp], Record] = OrderedDict()
        self.warnings: dict[str, list[str]] = {}
        """Log -> what was passed over in it."""

    def episodes(self) -> list[Episode]:
        """All of them as they are now, in order of task and number."""
        return list(self._look().values())

    def episode(self, key: str) -> Episode:
        """One of them, as it was a second ago at most; raises FoveateError where there is none of this key."""
        found = self._built[1] if time.monotonic() - self._looked < FRESH_S else self._look()
        if key not in found:
            raise FoveateError(f"{self.folder}: no episode {key[:80]!r} in it; it has {plural(len(found), 'episode')}")
        return found[key]

    def record(self, moment: Moment) -> Record:
        """Its dump, read; the last ones stay in memory.

        Raises:
            FoveateError: it was not traced, its dump is gone, or cannot be read.
        """
        if moment.dump is None:
            raise FoveateError(f"step {moment.step}: this inference was not traced, so there is nothing to show of it")
        if not moment.dump.resolve().is_relative_to(self.folder.resolve()):
            raise FoveateError(f"{moment.dump}: lies outside the run folder, and is not read; copy it to its place")
        place = moment.dump, _stamp(moment.dump)
        with self._lock:
            if place in self._records:
                self._records.move_to_end(place)
                return self._records[place]
        record = read_record(moment.dump, self.folder)
        with self._lock:
            self._records[place] = record
            while len(self._records) > RECORDS:
                self._records.popitem(last=False)
        return record

    def _look(self) -> dict[str, Episode]:
        with self._lock:
            dumps = list(self._dumps())
            logs = {name: self._log(name) for name in ("episodes.jsonl", "queries.jsonl", "report/tokens.jsonl")}
            state = (dumps, [stamp for stamp, _ in self._logs.values()])
            if self._built[0] != state:
                self._built = state, _join(self.folder, self._names(dumps, logs), dumps, *logs.values())
            self._looked = time.monotonic()
            return self._built[1]

    def _dumps(self, relative: str = "dumps") -> Iterator[str]:
        """Paths of all dumps, relative to the run folder, in order; a folder that has not changed is not listed again.

        Links to folders are not followed.
        """
        stamp = _stamp(self.folder / relative)
        if stamp == ():
            return
        if relative not in self._listed or self._listed[relative][0] != stamp:
            try:
                with os.scandir(self.folder / relative) as entries:
                    found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
            except OSError:  # removed meanwhile
                return
            folders = [name for name, is_folder in found if is_folder]
            files = [name for name, is_folder in found if not is_folder and name.endswith(".pt") and name[0] != "."]
            self._listed[relative] = stamp, folders, files
        _, folders, files = self._listed[relative]
        for name in folders:
            yield from self._dumps(f"{relative}/{name}")
        for name in files:
            yield f"{relative}/{name}"

    def _log(self, name: str) -> list[Row]:
        path = self.folder / name
        stamp = _stamp(path)
        if name not in self._logs or self._logs[name][0] != stamp:
            needed = ("task", "episode", "status") if name == "episodes.jsonl" else ("task", "episode", "step")
            warnings: list[str] = []
            try:
                inside = path.resolve().is_relative_to(self.folder.resolve())
                rows = read_rows(path, needed, warnings, growing=True) if stamp and inside else []
            except OSError as error:
                rows, warnings = [], [f"{name} could not be read: {error.strerror}"]
            self.warnings[name] = warnings
            self._logs[name] = stamp, rows
        return self._logs[name][1]

    def _names(self, dumps: Iterable[str], logs: Mapping[str, list[Row]]) -> dict[int, str]:
        """Task number -> name, as logs tell it, or the first dump of the task does."""
        names: dict[int, str] = {}
        for row in (*logs["report/tokens.jsonl"], *logs["episodes.jsonl"]):
            if (number := row.get("task_id", row.get("extra.task_id"))) is not None:
                names.setdefault(int(number), row["task"])
        for relative in dumps:
            number, _, _ = place_of(PurePath(relative))
            if number is not None and number not in names:
                if number not in self._told:
                    self._told[number] = self._task_in(relative)
                names[number] = self._told[number]
        return names

    def _task_in(self, dump: str) -> str:
        """A damaged dump is told of when it is looked at."""
        try:
            return str(read_record(self.folder / dump, self.folder).meta["task"])
        except FoveateError:
            return ""


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("dumps", "episodes.jsonl", "queries.jsonl", "config.yaml"))


def _stamp(path: Path) -> Stamp:
    """Empty: there is nothing."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _join(
    folder: Path, names: Mapping[int, str], dumps: list[str], ended: list[Row], logged: list[Row], traced: list[Row]
) -> dict[str, Episode]:
    """Episodes of the dumps and of the logs. Dumps have task numbers, logs names; `names` joins them."""
    by_dump = {str(row["dump"]): row for row in traced if "dump" in row}
    numbers = {name: number for number, name in names.items()}
    episodes: dict[str, Episode] = {}

    def at(task_id: int | None, number: int | None, task: str, else_key: str) -> Episode:
        key = else_key if task_id is None or number is None else f"{task_id}.{number}"
        if key not in episodes:
            episodes[key] = Episode(key, task_id, number, task)
        return episodes[key]

    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for relative in dumps:
        path = Path(relative)
        task_id, number, step = place_of(path)
        told = by_dump.get(relative, {})
        task_id, number = told.get("task_id", task_id), told.get("episode", number)
        named = names.get(task_id, "") if task_id is not None else str(path.parent.relative_to("dumps"))
        episode = at(task_id, number, str(told.get("task", named)), str(path.parent.relative_to("dumps")))
        place = told.get("step", step)
        files[episode.key][len(files[episode.key]) if place is None else int(place)] = folder / path
    rows: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in (*traced, *({**row, "logged": True} for row in logged)):  # what the run logged goes before
        episode = at(numbers.get(row["task"]), int(row["episode"]), row["task"], f"{row['task']}/{int(row['episode'])}")
        rows[episode.key][int(row["step"])] = {**rows[episode.key].get(int(row["step"]), {}), **row}
    for row in ended:
        at(numbers.get(row["task"]), int(row["episode"]), row["task"], f"{row['task']}/{int(row['episode'])}").row = row
    for key, episode in episodes.items():
        steps = sorted({*files[key], *rows[key]})
        episode.moments = [Moment(step, files[key].get(step), rows[key].get(step, {})) for step in steps]
        if episode.number is None and episode.row:
            episode.number = int(episode.row["episode"])
    return dict(sorted(episodes.items(), key=_order))


def _order(item: tuple[str, Episode]) -> tuple[bool, int, int, str]:
    key, episode = item
    return episode.task_id is None, episode.task_id or 0, episode.number or 0, key
