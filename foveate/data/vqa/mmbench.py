"""The preset `mmbench`: multiple choice with a hint, from the published TSV (pictures in base64) or its parquet form.

`mmbench_dev_20230712.tsv`, `mmbench_dev_en_20231003.tsv`, `MMBench_DEV_EN.tsv`, ... with the columns

    index question hint A B C D answer category image source l2-category comment split

English goes before Chinese where both lie there, as on the hub (folders `en`, `cn`). Rows of one question with its
options in another order have the same index modulo 1,000,000 (circular evaluation); their `image` may be the index of
the row that holds the picture. The answers of `test` are not public: `foveate eval vqa` writes a submission file for it
instead of an accuracy; of `dev` the column `answer` must be there.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

from foveate.data.vqa.check import checked
from foveate.data.vqa.files import Row, find_files, note_of, picture, read_rows, text_of
from foveate.errors import FoveateError
from foveate.types import VQASample

SPLITS = ("dev", "test")
DEFAULT_SPLIT = "dev"
GROUPED = True
REPO = "lmms-lab/MMBench"
NEEDED = ("index", "question", "A", "B", "image")
OTHERS = ("hint", "answer", "category", "split", *string.ascii_uppercase)


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split.

    Raises:
        FoveateError: several files fit, a column or the split is missing, or a row is not as it should be.
    """
    tables = (f"*mmbench*{split}_en*.tsv", f"*mmbench*{split}*.tsv", f"en/{split}-*.parquet", f"{split}-*.parquet")
    files = find_files("mmbench", root, tables, REPO)
    if len(files) > 1 and files[0].suffix == ".tsv":
        raise FoveateError(
            f"mmbench, split {split}: {', '.join(f.name for f in files)} are in {files[0].parent}; set data.root to "
            "one of the files"
        )
    needed = NEEDED if split == "test" else (*NEEDED, "answer")
    rows = [(where, row) for file in files for where, row in read_rows(file, needed, OTHERS)]
    named = sorted({note_of(row.get("split")) for _, row in rows} - {""})
    if named and split not in named:
        raise FoveateError(f"{files[0]}: expected rows of split {split!r}, found {', '.join(named)}")
    pictures = {_index(row["index"]): row["image"] for _, row in rows}
    for where, row in rows:
        if note_of(row.get("split")) in ("", split):
            yield checked(_sample(row, split, pictures, files[0]), where)


def _sample(row: Row, split: str, pictures: dict[str, object], file: Path) -> VQASample:
    options = [text_of(row.get(letter)) for letter in string.ascii_uppercase if letter in row]
    answer = text_of(row.get("answer"))
    if answer.lower() == "nan" and answer not in options:
        answer = ""
    # The hub's parquet holds the text `nan` where there is no option; elsewhere `nan` is a text.
    empty = ("",) if file.suffix.lower() == ".tsv" or answer in options else ("", "nan")
    while options and options[-1] in empty and answer != string.ascii_uppercase[len(options) - 1]:
        options.pop()
    return VQASample(
        id=f"mmbench/{split}/{_index(row['index'])}",
        dataset="mmbench",
        question=text_of(row["question"]),
        answers=(answer,) if answer else (),
        image=_image(row["image"], pictures, file),
        choices=tuple(options),
        hint=note_of(row.get("hint")),
        category=note_of(row.get("category")),
        split=split,
    )


def _index(cell: object) -> str:
    """The index of a row; pandas makes `7.0` of 7 in a column that has gaps."""
    text = text_of(cell)
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def _image(cell: object, pictures: dict[str, object], file: Path) -> bytes | str | None:
    """The picture of a cell, or of the row that it names; of a row that is not there, a path that is not there."""
    seen: set[str] = set()
    while isinstance(cell, str | int | float) and (index := _index(cell)):
        if index in seen:
            return f"row {index} of {file.name}, which names itself"
        if index not in pictures:
            return f"row {index} of {file.name}, which is not there" if index.isdigit() else picture(cell, file.parent)
        seen.add(index)
        cell = pictures[index]
    return picture(cell, file.parent)
