"""Files of published question sets: found in a folder or fetched from the hub, read row by row, columns checked."""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import io
import itertools
import json
import re
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from foveate.errors import FoveateError
from foveate.util.pictures import is_file

Row = Mapping[str, Any]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of pictures, in upper or lower case."""
FOREIGN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[^\\'\"nrtxuU]")
"""A backslash before what Python's `repr` never puts behind one."""


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


def read_rows(path: Path, needed: Collection[str], others: Collection[str] = ()) -> Iterator[tuple[str, Row]]:
    """Where each row of a TSV or parquet file stands, and the row under the names that are given here: a file may write
    them in another case.

    Args:
        needed: columns that must be there.
        others: columns that are used where they are there.
    Raises:
        FoveateError: a column of `needed` is missing, or the file is damaged; of a TSV the line is named.
    """
    yield from (_read_tsv if path.suffix.lower() == ".tsv" else _read_parquet)(path, needed, others)


def _read_tsv(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)  # a picture is one field
    where = str(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader((line.replace("\ufeff", "") for line in file), delimiter="\t", strict=True)
            names = check_columns(path, next(rows, ()), needed, others)
            where = f"{path}, line {rows.line_num + 1}"
            for cells in rows:
                if cells:
                    yield where, _row(where, names, cells)
                where = f"{path}, line {rows.line_num + 1}"
    except csv.Error as error:
        raise FoveateError(
            f"{where}: not the tab-separated file that was expected: a quote that opens a cell there is not closed "
            f'({error}); write "" for a quote inside a quoted cell'
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise FoveateError(f"{path}: not the tab-separated file that was expected: {error}") from error


def _row(where: str, names: Sequence[str], cells: Sequence[str]) -> Row:
    """Columns and cells of one row.

    A quote that is not closed there, but by chance in a later row, swallows a row's worth of tabs, and the number of
    cells is right again.
    """
    for name, cell in zip(names, cells, strict=False):
        if "\n" in cell and cell.count("\t") >= len(names) - 1:
            raise FoveateError(f"{where}: column {name!r} holds another row: a quote that opens there is not closed")
    if len(cells) != len(names):
        raise FoveateError(
            f"{where}: expected {len(names)} cells, as in the first line, got {len(cells)}; "
            + ("a cell holds a tab without quotes" if len(cells) > len(names) else "the file may be cut off there")
        )
    return dict(zip(names, cells, strict=True))


def _read_parquet(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = check_columns(path, file.schema_arrow.names, needed, others)
        batches = (batch.rename_columns(names).to_pylist() for batch in file.iter_batches(batch_size=64))
        for number, row in enumerate(itertools.chain.from_iterable(batches), 1):
            yield f"{path}, row {number}", row
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


def picture(value: Any, folder: Path) -> bytes | str | None:
    """The picture of a cell: base64 text, bytes, a path, or the hub's {bytes, path}; None: an empty cell.

    What is there and not understood is no empty cell: it comes back as bytes that are no picture, or as the path of
    none, so that the question is kept and its picture found broken.

    Args:
        folder: that paths count from.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path is None:
            return None
        return _located(folder, str(path)) if not content and path else picture_bytes(content)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return picture(value[0], folder) if len(value) == 1 else str(value)[:60].encode() if value else None
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        return None
    if isinstance(value, str) and value.strip().lower().endswith(SUFFIXES):
        return _located(folder, value.strip())
    return picture_bytes(value)


def _located(folder: Path, path: str) -> str:
    """Beside the file that names it, or where the process runs, as the hub's library has it."""
    beside = str(folder / path)
    return path if is_file(path) and not is_file(beside) else beside


def picture_bytes(value: Any) -> bytes:
    """Encoded bytes, of base64 as people write it: in lines, with spaces, without padding, of either alphabet, behind
    `data:image/png;base64,`. What is not base64 is returned as it stands."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    text = str(value)
    bare = "".join((text.partition(",")[2] if text.lstrip().startswith("data:") else text).split())
    bare = bare.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode(errors="replace")


def text_of(value: Any) -> str:
    """A cell as text; empty for an empty one."""
    return "" if value is None or value != value else str(value).strip()


def note_of(value: Any) -> str:
    """A cell beside the question (hint, category, split) as text; pandas writes `nan` where there is none."""
    text = text_of(value)
    return "" if text.lower() == "nan" else text


def list_in(text: str) -> list[Any] | None:
    """A list that is written as text, by Python or as JSON; None: it is none.

    Texts side by side are none either: NumPy prints `['red' 'blue']`, which Python reads as one text.
    """
    text = text.strip()
    if FOREIGN_ESCAPE.search(text):  # written by hand: `\frac` is no form feed
        text = re.sub(r"\\(?!['\"])", r"\\\\", text)
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
        kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
        if (tokenize.STRING, tokenize.STRING) in itertools.pairwise(kinds):
            return None
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, list) else None
