"""Files that appear whole or not at all, lines that survive `kill -9`, and JSON.

    write_text(folder / "results.csv", table)
    with draft(folder / "maps.npz") as path:      # any other writer: renamed into place when the block ends
        np.savez(path, **arrays)

A draft is a hidden file beside its target (`.maps.npz.draft`); the next one goes over what a killed process left of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from foveate.errors import FoveateError, reason_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when a disk, a share of it or the size of a file is used up."""
FULL_TEXTS = r"os error (28|122|27)\b|PytorchStreamWriter|inline_container.*unexpected pos|errno = (28|122|27)\b"
"""How writers in other languages say it, without the system's number: safetensors, torch, HDF5."""


def user_cache() -> Path:
    """The folder of what may be made again and is worth keeping, of this user on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foveate"


def try_writing(folder: Path) -> None:
    """Make a folder and a file in it that is gone again.

    Raises:
        OSError: one of them cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class CannotWrite(FoveateError):
    """The disk is full, or a folder or file cannot be written."""

    def __init__(self, path: Path | None, error: OSError, what: str = "") -> None:
        """
        Args:
            path: None: not known.
            what: is written, for the sentence: `the maps`.
        """
        self.path, self.reason, self.is_full = path, error.strerror or str(error), error.errno in FULL
        place = "" if path is None else f"{path}: "
        super().__init__(
            f"{place}the disk is full; free some space and run the same command again"
            if self.is_full
            else f"{place}{what}{' ' if what else ''}cannot be written there ({self.reason}); choose a writable folder"
        )


def full_disk(error: BaseException | None, path: Path | None = None) -> CannotWrite | None:
    """The error that a full disk is behind, whoever has met it; None: it is another matter.

    Args:
        path: what was being written, where the error does not know.
    """
    seen: set[int] = set()  # an error that is raised again and again can be its own context
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, CannotWrite):
            return error
        known = getattr(error, "filename", None)
        place = Path(os.fsdecode(known)) if path is None and isinstance(known, str | bytes) and known else path
        if isinstance(error, OSError) and error.errno in FULL:
            return CannotWrite(place, error)
        if re.search(FULL_TEXTS, str(error), re.DOTALL):
            return CannotWrite(place, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        error = error.__cause__ or error.__context__
    return None


def fault_of(error: Exception, item: str = "") -> str:
    """What went wrong with one item of a job that goes on with the others, whatever was raised.

    Args:
        item: is named where the error is none of foveate's own, which names it itself.
    Raises:
        CannotWrite: the disk is at fault, which is no matter of one item.
    """
    if (disk := full_disk(error)) is not None:
        raise disk
    return f"{item}: {reason_of(error)}" if item and not isinstance(error, FoveateError) else reason_of(error)


@contextlib.contextmanager
def draft(
    path: Path, what: str = "", *, suffix: str = ".draft", shared: bool = False, sync: bool = True
) -> Iterator[Path]:
    """Hand out the path of a draft; it takes the place of `path` when the block ends, and is gone when it fails.

    Args:
        what: is written, for the error: `the maps`.
        suffix: of the draft, for writers that take the format from it.
        shared: other processes may write the same file now: the draft is this process's own.
        sync: wait until the disk has the data; not worth it for what is many and can be made again.
    Raises:
        CannotWrite: an OSError, in the block too.
    """
    own = f".{os.getpid()}" if shared else ""
    begun = path.with_name(f".{path.name}{own}{suffix}")
    try:
        yield begun
        if sync:
            _sync(begun)
        begun.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)
        if disk := full_disk(error, path):
            raise disk from error
        if isinstance(error, OSError):
            raise CannotWrite(path, error, what) from error
        raise


@contextlib.contextmanager
def draft_folder(path: Path, what: str = "") -> Iterator[Path]:
    """As `draft`, for a folder: an empty one is handed out, and takes the place of `path`.

    Raises:
        CannotWrite: an OSError, in the block too.
    """
    begun = path.with_name(f".{path.name}.draft")
    try:
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        yield begun
        for file in begun.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            shutil.rmtree(path)
        begun.rename(path)
    except BaseException as error:
        shutil.rmtree(begun, ignore_errors=True)
        if disk := full_disk(error, path):
            raise disk from error
        if isinstance(error, OSError):
            raise CannotWrite(path, error, what) from error
        raise


def write_text(path: Path, text: str, what: str = "", *, shared: bool = False) -> None:
    """Replace a file at once, in UTF-8; a reader or a crash never meets half of it. A missing folder is made.

    Args:
        shared: as of `draft`; for a file that the user names, in a folder that nobody holds (`one_process`).
    Raises:
        CannotWrite: naming the file and the reason.
    """
    write_bytes(path, text.encode(), what, shared=shared)


def write_bytes(path: Path, content: bytes, what: str = "", *, shared: bool = False, sync: bool = True) -> None:
    """Replace a file at once; a missing folder is made. Arguments and errors as of `draft`."""
    with draft(path, what, shared=shared, sync=sync) as begun:
        path.parent.mkdir(parents=True, exist_ok=True)
        begun.write_bytes(content)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Replace a JSON file at once; what is not finite is null in it (`nan_to_null`)."""
    write_text(path, json.dumps(nan_to_null(content), indent=indent, ensure_ascii=False) + "\n")


def nan_to_null(value: Any, digits: int | None = None) -> Any:
    """JSON values of nested mappings, lists, arrays and NumPy numbers; NaN and infinities become None.

    Args:
        digits: round numbers to so many behind the point.
    """
    if isinstance(value, Mapping):
        return {str(key): nan_to_null(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [nan_to_null(item, digits) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return nan_to_null(value.tolist(), digits)
    if isinstance(value, float):
        return None if not math.isfinite(value) else value if digits is None else round(value, digits)
    return value


class FolderHeld(FoveateError):
    """Another process writes to a folder."""


_HELD: dict[Path, list[str]] = {}
"""Folders that this process holds, and what it does in each."""


@contextlib.contextmanager
def one_process(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder that is written to; the system lets go of it when the process ends, however it ends.

    Whatever a process does there, no other one does anything there meanwhile. In the same process, one thing may be a
    part of another (a training of a whole experiment), but not of itself. A folder that was made for it and stays empty
    is removed.

    Args:
        doing: what is done there, for the message to others: `training`.
    Raises:
        FolderHeld: another process holds it, or this one does the very same there; with its id.
        CannotWrite: the folder cannot be written.
    """
    import filelock

    place, holder = folder.resolve(), folder / ".lock.holder"
    if doing in _HELD.get(place, ()):
        raise _held(folder, f"{os.getpid()} is {doing}")
    lock = None
    made = list(itertools.takewhile(lambda path: not path.exists(), (place, *place.parents)))
    if place not in _HELD:
        lock = filelock.FileLock(place / ".lock", blocking=False, thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            known = holder.read_text().strip() if holder.exists() else ""
            raise _held(folder, known or "? is working") from error
        except OSError as error:
            raise CannotWrite(folder, error) from error
    _HELD.setdefault(place, []).append(doing)
    try:
        if lock is not None:
            write_text(holder, f"{os.getpid()} is {doing}\n")
        yield
    finally:
        _HELD[place].remove(doing)
        if lock is not None:
            del _HELD[place]
            with contextlib.suppress(OSError):
                holder.unlink()
                if made and os.listdir(place) == [".lock"]:
                    (place / ".lock").unlink()
                    for path in made:
                        path.rmdir()
            lock.release()


def _held(folder: Path, holder: str) -> FolderHeld:
    return FolderHeld(
        f"{folder}: process {holder} there; wait for it, end it (processes of a killed torchrun may go on by "
        "themselves), or name another folder"
    )


P = ParamSpec("P")
R = TypeVar("R")


def alone_in(folder_of: Callable[[Any], Path | None], doing: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `one_process`, around a function whose first argument says which folder it writes to (None: none)."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> R:
            folder = folder_of(args[0] if args else next(iter(kwargs.values())))
            with one_process(folder, doing) if folder is not None else contextlib.nullcontext():
                return function(*args, **kwargs)

        return alone

    return around


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the byte-order marks that editors write at its start and concatenation inside.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is of another encoding.
    """
    return path.read_text(encoding="utf-8").replace("\ufeff", "")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a FoveateError that names the file."""
    if path.exists() and not path.is_file():
        raise FoveateError(f"{path}: cannot be read (it is no regular file)")
    try:
        values = json.loads(read_text(path))
    except OSError as error:
        raise FoveateError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise FoveateError(f"{path}: not JSON that can be read (nested too deeply); copy the file again") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise FoveateError(f"{path}: not JSON ({error}); copy the file again") from None
    if not isinstance(values, dict):
        raise FoveateError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line of JSON per row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a torn last line (one without its newline) is passed over.

    Raises:
        FoveateError: a line is not JSON.
    """
    content = path.read_bytes()
    return _parse_lines(content[: content.rfind(b"\n") + 1], path)


class JsonLines:
    """A file of JSON lines that survives `kill -9`: each append is on the disk before it returns.

    Opening an existing file drops a torn last line (one without its newline), and rows whose key has come before.

    Args:
        key_of: what is no row twice; None: rows may be equal.
    Raises:
        FoveateError: the folder is not writable, the disk is full, or a line in the middle is no JSON.
    """

    def __init__(self, path: Path, key_of: Callable[[dict[str, Any]], Hashable] | None = None) -> None:
        self.path = path
        self.dropped: list[dict[str, Any]] = []
        """Rows that were there a second time."""
        try:
            self._file = path.open("a+b")
            self.rows = self._recover()
        except OSError as error:
            raise CannotWrite(path, error) from error
        if key_of is not None:
            self._drop_doubles(key_of)

    def _drop_doubles(self, key_of: Callable[[dict[str, Any]], Hashable]) -> None:
        first: dict[Hashable, dict[str, Any]] = {}
        try:
            self.dropped = [row for row in self.rows if first.setdefault(key_of(row), row) is not row]
        except KeyError as error:
            raise FoveateError(
                f"{self.path}: a line has no {error}; remove that line, or choose another folder"
            ) from None
        if self.dropped:
            self.replace(list(first.values()))

    def _recover(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return _parse_lines(whole, self.path)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows in one piece and wait until the disk has them."""
        added = [dict(row) for row in rows]
        try:
            self._file.write(json_lines(added).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CannotWrite(self.path, error) from error
        self.rows += added

    def replace(self, rows: list[dict[str, Any]]) -> None:
        """Put these rows in place of all others, at once or not at all."""
        self._file.close()
        write_text(self.path, json_lines(rows))
        self._file = self.path.open("a+b")
        self.rows = rows

    def close(self) -> None:
        # What a full disk refused is tried once more here; `append` has told of it already.
        with contextlib.suppress(OSError):
            self._file.close()


def _parse_lines(content: bytes, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__}")
            rows.append(row)
        except ValueError as error:
            raise FoveateError(
                f"{path}, line {number}: expected one JSON object, got {line[:60]!r} ({error}); remove that line, or "
                "choose another folder"
            ) from error
    return rows


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
