"""The preset `textvqa`: questions about text in pictures, with the answers of ten people.

Either the published JSON and picture folders, or the parquet form of the hub:

    TextVQA_0.5.1_val.json            {"data": [{"question_id", "question", "image_id", "answers": [10], ...}]}
                                      (TextVQA_Rosetta_OCR_v0.2_val.json beside it holds no questions)
    train_images/IMAGE_ID.jpg         pictures of train and val (or .jpeg, .png, .webp);  test_images/ those of test
    data/validation-00000-of-00003.parquet     the same columns, with `image`

The answers of `test` are not public; of the others they must be there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foveate.data.vqa.check import checked
from foveate.data.vqa.files import SUFFIXES, Row, check_columns, find_files, picture, read_rows, text_of
from foveate.errors import FoveateError
from foveate.types import VQASample
from foveate.util.files import read_text

SPLITS = ("train", "validation", "test")
DEFAULT_SPLIT = "validation"
GROUPED = True
REPO = "lmms-lab/textvqa"
NEEDED = ("question_id", "question", "image_id")


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split.

    Raises:
        FoveateError: the JSON or a question has another form, or the picture folder is missing.
    """
    short = "val" if split == "validation" else split
    patterns = (f"TextVQA_[0-9]*_{short}.json", f"{split}-*.parquet", f"data/{split}-*.parquet")
    files = find_files("textvqa", root, patterns, REPO)
    needed = NEEDED if split == "test" else (*NEEDED, "answers")
    if files[0].suffix.lower() != ".json":
        for file in files:
            for where, row in read_rows(file, (*needed, "image"), ("answers",)):
                yield checked(_sample(row, split, picture(row["image"], file.parent), where), where)
        return
    file = files[-1]
    pictures = _pictures(_picture_folder(file.parent, "test" if split == "test" else "train"))
    for number, row in enumerate(_read_json(file)):
        where = f"{file}, data[{number}]"
        if not isinstance(row, dict):
            raise FoveateError(f"{where}: expected an object, got {str(row)[:60]!r}")
        named = check_columns(file, list(row), needed, ("answers",))
        row = dict(zip(named, row.values(), strict=True))
        yield checked(_sample(row, split, pictures(text_of(row["image_id"])), where), where)


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path))
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


def _pictures(folder: Path) -> Callable[[str], str]:
    """Image id -> its file, whatever its kind; of a picture that is not there, where it should be."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            files.setdefault(path.stem, path)
    return lambda name: str(files.get(name, folder / f"{name}.jpg"))


def _sample(row: Row, split: str, image: bytes | str | None, where: str) -> VQASample:
    # The accuracy counts ten annotators, also one who wrote nothing; of `test` all ten are empty.
    answers = _answers(row.get("answers"), where)
    answers = answers if any(answers) else ()
    name = f"textvqa/{split}/{text_of(row['question_id'])}"
    return VQASample(name, "textvqa", text_of(row["question"]), answers, image, split=split)


def _answers(given: Any, where: str) -> tuple[str, ...]:
    """Texts, or objects with an `answer` each, as VQAv2 has them."""
    if given is not None and not isinstance(given, list):
        raise FoveateError(f"{where}: answers: expected a list of texts, got {str(given)[:60]!r}")
    found = []
    for answer in given or ():
        answer = answer.get("answer", answer) if isinstance(answer, dict) else answer
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
            raise FoveateError(
                f"{where}: answers: expected texts, or objects with a text `answer`, got {str(answer)[:60]!r}"
            )
        found.append("" if answer is None else str(answer).strip())
    return tuple(found)
