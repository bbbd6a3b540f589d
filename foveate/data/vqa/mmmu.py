"""The preset `mmmu`: college questions, from the published parquet files, one folder per subject.

    Accounting/validation-00000-of-00001.parquet   columns: id question options explanation image_1 ... image_7
                                                   img_type answer topic_difficulty question_type subfield

`options` is a list written as text (`"['$6', '$7']"`), empty where the question is open; the answer of an open question
may be a list too. The answers of `test` are not public. A question with several pictures gets them on one sheet, in
their order, since models here look at one; the text keeps its `<image 2>`.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from foveate.data.vqa.files import Row, find_files, picture, read_rows, text_of
from foveate.errors import FoveateError
from foveate.types import VQASample

SPLITS = ("dev", "validation", "test")
DEFAULT_SPLIT = "validation"
GROUPED = True
REPO = "MMMU/MMMU"
NEEDED = ("id", "question", "options", "answer", "question_type", "image_1")
OTHERS = tuple(f"image_{n}" for n in range(2, 8))
GAP = 8
"""Pixels between the pictures of a sheet."""


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split, subject by subject."""
    for file in find_files("mmmu", root, (f"{split}-*.parquet", f"*/{split}-*.parquet"), REPO):
        for row in read_rows(file, NEEDED, OTHERS):
            yield _sample(row, split, file)


def _sample(row: Row, split: str, file: Path) -> VQASample:
    pictures = [p for name in ("image_1", *OTHERS) if (p := picture(row.get(name)))]
    is_open = text_of(row["question_type"]) == "open"
    answer = text_of(row["answer"])
    name = text_of(row["id"])
    return VQASample(
        id=f"mmmu/{split}/{name}",
        dataset="mmmu",
        question=text_of(row["question"]),
        answers=() if answer in ("", "?") else tuple(_accepted(answer) if is_open else [answer]),
        image=on_one_sheet(pictures),
        choices=() if is_open else tuple(_options(row["options"], file)),
        # validation_Art_Theory_3
        category=name.partition("_")[2].rpartition("_")[0].replace("_", " "),
        split=split,
    )


def _options(cell: object, file: Path) -> list[str]:
    """The options, a list or a list that is written as text."""
    found = cell if isinstance(cell, list) else _literal(str(cell))
    if not isinstance(found, list):
        raise FoveateError(f"{file}: expected a list as text, like \"['a', 'b']\", got {cell!r}")
    return [str(item) for item in found]


def _accepted(answer: str) -> list[str]:
    """The accepted answers of an open question: a list that is written as text, or the text (`[0, 2)` is no list)."""
    found = _literal(answer) if answer.startswith("[") else answer
    return [str(item) for item in found] if isinstance(found, list) and found else [answer]


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None


def on_one_sheet(pictures: Sequence[bytes]) -> bytes | None:
    """One encoded picture of several, on white, row by row; of several of which one is broken, that one (so that it is
    found). There are as many in a row as make the sheet's longer side shortest: a budget cuts that side."""
    if len(pictures) < 2:
        return pictures[0] if pictures else None
    images = []
    for encoded in pictures:
        try:
            images.append(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            return encoded
    layouts = [[images[i : i + n] for i in range(0, len(images), n)] for n in range(len(images), 0, -1)]
    rows = min(layouts, key=lambda rows: max(_size(rows)))
    sheet = Image.new("RGB", _size(rows), "white")
    top = 0
    for row in rows:
        left = 0
        for image in row:
            sheet.paste(image, (left, top))
            left += image.width + GAP
        top += max(image.height for image in row) + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _size(rows: Sequence[Sequence[Image.Image]]) -> tuple[int, int]:
    """Width and height of a sheet."""
    width = max(sum(image.width for image in row) + GAP * (len(row) - 1) for row in rows)
    return width, sum(max(image.height for image in row) for row in rows) + GAP * (len(rows) - 1)
