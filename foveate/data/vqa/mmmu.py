"""The preset `mmmu`: college questions, from the published parquet files, one folder per subject.

    Accounting/validation-00000-of-00001.parquet   columns: id question options explanation image_1 ... image_7
                                                   img_type answer topic_difficulty question_type subfield

`options` is a list written as text (`"['$6', '$7']"`), empty where the question is open; the answer of an open question
may be a list too. The answers of `test` are not public. A question with several pictures gets them on one sheet, in
their order, since models here look at one; the text keeps its `<image 2>`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from foveate.data.vqa.check import checked
from foveate.data.vqa.files import Row, find_files, list_in, picture, read_rows, text_of
from foveate.errors import FoveateError
from foveate.types import VQASample
from foveate.util.pictures import ImageError, open_picture

SPLITS = ("dev", "validation", "test")
DEFAULT_SPLIT = "validation"
GROUPED = True
REPO = "MMMU/MMMU"
NEEDED = ("id", "question", "options", "answer", "question_type", "image_1")
OTHERS = tuple(f"image_{n}" for n in range(2, 8))
GAP = 8
"""Pixels between the pictures of a sheet."""


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split, subject by subject.

    Raises:
        FoveateError: a column is missing, or a row is not as it should be.
    """
    for file in find_files("mmmu", root, (f"{split}-*.parquet", f"*/{split}-*.parquet"), REPO):
        for where, row in read_rows(file, NEEDED, OTHERS):
            yield checked(_sample(row, split, file, where), where)


def _sample(row: Row, split: str, file: Path, where: str) -> VQASample:
    is_open = text_of(row["question_type"]).lower().startswith("open")
    choices = () if is_open else _options(row["options"], where)
    answer = text_of(row["answer"])
    name, question = text_of(row["id"]), text_of(row["question"])
    return VQASample(
        id=f"mmmu/{split}/{name}",
        dataset="mmmu",
        question=question,
        answers=() if answer in ("", "?") else _accepted(answer, choices),
        image=_image(row, " ".join((question, *choices)), file, where),
        choices=choices,
        # validation_Art_Theory_3
        category=name.partition("_")[2].rpartition("_")[0].replace("_", " "),
        split=split,
    )


def _options(cell: object, where: str) -> tuple[str, ...]:
    """The options, a list or a list that is written as text."""
    found = cell if isinstance(cell, list) else list_in(str(cell))
    if found is None or not all(isinstance(item, str | int | float) for item in found):
        raise FoveateError(f"{where}: options: expected a list as text, like \"['a', 'b']\", got {str(cell)[:80]!r}")
    if len(found) < 2:
        raise FoveateError(f"{where}: options: expected two at least, got {str(cell)[:80]!r}")
    return tuple(str(item) for item in found)


def _accepted(answer: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The accepted answers: a list that is written as text, or the text (`[0, 2)` is no list, `[B]` a letter)."""
    found = list_in(answer) if answer.startswith("[") and answer not in choices else None
    return tuple(str(item) for item in found) if found else (answer,)


def _image(row: Row, text: str, file: Path, where: str) -> bytes | str | None:
    """The question's pictures as one; of one that the text names and the row lacks, a path that is not there."""
    cells = {name: picture(row.get(name), file.parent) for name in ("image_1", *OTHERS)}
    for name in (f"image_{number}" for number in re.findall(r"<image (\d+)>", text)):
        if cells.get(name) is None:
            return f"{name} of {where}, which is empty"
    return on_one_sheet([cell for cell in cells.values() if cell is not None])


def on_one_sheet(pictures: Sequence[bytes | str]) -> bytes | str | None:
    """One encoded picture of several, on white, row by row; of several of which one is broken, that one (so that it is
    found). There are as many in a row as make the sheet's longer side shortest: a budget cuts that side."""
    if len(pictures) < 2:
        return pictures[0] if pictures else None
    images = []
    for source in pictures:
        try:
            images.append(open_picture(source))
        except ImageError:
            return source
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
