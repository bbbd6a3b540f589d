"""The preset `textvqa`: questions about text in pictures, with the answers of ten people.

Either the published JSON and picture folders, or the parquet form of the hub:

    TextVQA_0.5.1_val.json            {"data": [{"question_id", "question", "image_id", "answers": [10], ...}]}
                                      (TextVQA_Rosetta_OCR_v0.2_val.json beside it holds no questions)
    train_images/IMAGE_ID.jpg         pictures of train and val;  test_images/ those of test
    data/validation-00000-of-00003.parquet     the same columns, with `image`

The answers of `test` are not public; of the others they must be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from foveate.data.vqa.files import Row, check_columns, find_files, picture, read_rows, text_of
from foveate.errors import FoveateError
from foveate.types import VQASample

SPLITS = ("train", "validation", "test")
DEFAULT_SPLIT = "validation"
GROUPED = True
REPO = "lmms-lab/textvqa"
NEEDED = ("question_id", "question", "image_id")


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split.

    Raises:
        FoveateError: the JSON has another form, or the picture folder is missing.
    """
    short = "val" if split == "validation" else split
    patterns = (f"TextVQA_[0-9]*_{short}.json", f"{split}-*.parquet", f"data/{split}-*.parquet")
    files = find_files("textvqa", root, patterns, REPO)
    needed = NEEDED if split == "test" else (*NEEDED, "answers")
    if files[0].suffix != ".json":
        for file in files:
            for row in read_rows(file, (*needed, "image"), ("answers",)):
                yield _sample(row, split, picture(row["image"]))
        return
    pictures = _picture_folder(files[-1].parent, "test" if split == "test" else "train")
    for row in _read_json(files[-1]):
        named = check_columns(files[-1], list(row), needed, ("answers",))
        row = dict(zip(named, row.values(), strict=True))
        yield _sample(row, split, str(pictures / f"{row['image_id']}.jpg"))


def _read_json(path: Path) -> list[Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoveateError(f"{path}: not the JSON that was expected: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise FoveateError(f"{path}: expected an object with the list `data`, found {found}")
    return content["data"]


def _picture_folder(folder: Path, part: str) -> Path:
    names = (f"{part}_images", f"train_val_images/{part}_images", "images")
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise FoveateError(f"{folder}: expected a folder with the pictures ({' or '.join(names)}), found none of them")


def _sample(row: Row, split: str, image: bytes | str | None) -> VQASample:
    # The accuracy counts ten annotators, also one who wrote nothing; of `test` all ten are empty.
    answers = tuple(str(answer or "").strip() for answer in row.get("answers") or ())
    answers = answers if any(answers) else ()
    name = f"textvqa/{split}/{row['question_id']}"
    return VQASample(name, "textvqa", text_of(row["question"]), answers, image, split=split)
