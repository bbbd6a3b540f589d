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

from foveate.data.vqa.files import Row, find_files, picture, read_rows, text_of
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
        FoveateError: several files fit, a column or the split is missing.
    """
    tables = (f"*mmbench*{split}_en*.tsv", f"*mmbench*{split}*.tsv", f"en/{split}-*.parquet", f"{split}-*.parquet")
    files = find_files("mmbench", root, tables, REPO)
    if len(files) > 1 and files[0].suffix == ".tsv":
        raise FoveateError(
            f"mmbench, split {split}: {', '.join(f.name for f in files)} are in {files[0].parent}; set data.root to "
            "one of the files"
        )
    needed = NEEDED if split == "test" else (*NEEDED, "answer")
    rows = [row for file in files for row in read_rows(file, needed, OTHERS)]
    named = sorted({text_of(row.get("split")) for row in rows} - {""})
    if named and split not in named:
        raise FoveateError(f"{files[0]}: expected rows of split {split!r}, found {', '.join(named)}")
    pictures = {text_of(row["index"]): row["image"] for row in rows}
    for row in rows:
        if text_of(row.get("split")) in ("", split):
            yield _sample(row, split, pictures)


def _sample(row: Row, split: str, pictures: dict[str, object]) -> VQASample:
    index, cell = text_of(row["index"]), row["image"]
    if isinstance(cell, str) and cell.strip() in pictures:
        cell = pictures[cell.strip()]
    options = [text_of(row.get(letter)) for letter in string.ascii_uppercase if letter in row]
    while options and not options[-1]:
        options.pop()
    answer = text_of(row.get("answer"))
    return VQASample(
        id=f"mmbench/{split}/{index}",
        dataset="mmbench",
        question=text_of(row["question"]),
        answers=(answer,) if answer else (),
        image=picture(cell),
        choices=tuple(options),
        hint=text_of(row.get("hint")),
        category=text_of(row.get("category")),
        split=split,
    )
