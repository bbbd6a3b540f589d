"""Files of published question sets: found in a folder or fetched from the hub, read row by row, columns checked."""

from __future__ import annotations

import base64
import binascii
import csv
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from foveate.errors import FoveateError

Row = Mapping[str, Any]


def find_files(preset: str, root: Path | None, patterns: Sequence[str], repo: str) -> list[Path]:
    """The files of one split, sorted; those of the first pattern that finds any, in upper or lower case.

    Args:
        root: a folder that holds the files, directly or in a folder of the set's name; or one file; None: the hub.
        patterns: ends of paths below the folder, with `*`, the preferred one first.
        repo: the hub's data set repository, whose paths the patterns fit too.
    Raises:
        FoveateError: nothing fits, or the hub cannot be reached.
    """
    if root is None:
        root = _fetch(preset, patterns, repo)
    if root.is_file():
        return [root]
    own = sorted(path for path in root.glob("*/") if path.name.lower() == preset)
    folders = [folder for folder in (*own, root) if folder.is_dir()]
    for folder in folders:
        files = {PurePosixPath(path.relative_to(folder).as_posix().lower()): path for path in folder.rglob("*.*")}
        for pattern in patterns:
            if found := sorted(path for name, path in files.items() if name.match(pattern.lower())):
                return found
    if not folders:
        raise FoveateError(f"{preset}: the folder {root} is not there; set data.root to the folder with its files")
    there = sorted(str(path.relative_to(folders[0])) for path in folders[0].rglob("*") if path.is_file())
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    raise FoveateError(
        f"{preset}: expected {' or '.join(patterns)} in {folders[0]}, found {shown or 'no file'}; the hub has them "
        f"in {repo}, and they are fetched from there where data.root is left out"
    )


def _fetch(preset: str, patterns: Sequence[str], repo: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # the hub raises its own, requests' and the system's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FoveateError(
            f"{preset}: its files cannot be fetched from the hub ({repo}: {reason}); download them elsewhere and set "
            "data.root to their folder"
        ) from error


def read_rows(path: Path, needed: Collection[str], others: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a TSV or parquet file, under the names that are given here: a file may write them in another case.

    Args:
        needed: columns that must be there.
        others: columns that are used where they are there.
    Raises:
        FoveateError: a column of `needed` is missing, or the file is damaged.
    """
    yield from (_read_tsv if path.suffix == ".tsv" else _read_parquet)(path, needed, others)


def _read_tsv(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a picture is one field
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t")
            rows.fieldnames = check_columns(path, rows.fieldnames or (), needed, others)
            yield from rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise FoveateError(f"{path}: not the tab-separated file that was expected: {error}") from error


def _read_parquet(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = check_columns(path, file.schema_arrow.names, needed, others)
        for batch in file.iter_batches(batch_size=64):
            yield from batch.rename_columns(names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise FoveateError(f"{path}: not a readable parquet file: {error}") from error


def check_columns(
    where: Path | str, found: Sequence[str], needed: Collection[str], others: Collection[str] = ()
) -> list[str]:
    """The columns of a file as they are called in `needed` and `others`, whatever their case; more keep their names.

    Raises:
        FoveateError: a column of `needed` is missing, in whatever case.
    """
    known = (*needed, *others)
    spelled = {name.lower(): name for name in known if name not in found}
    named = [name if name in known else spelled.pop(name.strip().lower(), name) for name in found]
    if missing := [name for name in needed if name not in named]:
        raise FoveateError(
            f"{where}: column {missing[0]!r} is missing; expected {', '.join(needed)}, "
            f"found {', '.join(found) or 'none'}"
        )
    return named


def picture(value: Any) -> bytes | None:
    """The encoded picture of a cell: base64 text, bytes, or the hub's {bytes, path}; None: an empty cell.

    Text that is not base64 comes back as its own bytes, so that the question is kept and its picture found broken.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, str) and value.strip():
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return value.encode()
    return value if isinstance(value, bytes) and value else None


def text_of(value: Any) -> str:
    """A cell as text; empty for an empty one, and for the `nan` that pandas writes there."""
    return "" if value is None or str(value).strip().lower() == "nan" else str(value).strip()
