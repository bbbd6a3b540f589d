"""Questions in the user's own JSONL: one object per line (or one JSON list, as LLaVA's files are).

    {"image": "a.jpg", "question": "what brand is it?", "answer": "nokia", "category": "text"}
    {"image": "b.jpg", "question": "which one?", "choices": ["red", "blue"], "answer": "B", "hint": "look left"}
    {"image": "c.jpg", "conversations": [{"from": "human", "value": "<image>\\nwhat is it?"}, {"from": "gpt", ...}]}

`image` is a path (relative to the file), base64 (`data:image/png;base64,...`, or bare), or absent; `answers` may hold
several; `choices` a list, or an object {"A": ..., "B": ...}; the answer of a multiple choice is its letter or its text.
`id`, `dataset`, `split`, `hint` and `category` are optional. A field of another form is an error: what `str` would make
of it looks like an answer. A conversation is a question for each of its human turns that is answered; all share the
picture. Where it stands in the prompt is the template's matter: an `<image>` in a question is taken out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.data.vqa.check import LETTERS, checked
from foveate.data.vqa.files import picture_bytes
from foveate.errors import FoveateError
from foveate.types import VQASample
from foveate.util.files import read_text

GROUPED = True
SUFFIXES = (".jsonl", ".json")
"""How a name ends that is a file of one's own, and not that of a data set."""
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""How PNG, JPEG, GIF and WebP begin in base64."""
FIELDS = ("question", "image", "answer", "answers", "choices", "hint", "category", "id", "split", "dataset")


def load(split: str | None, path: Path, images: Path | None = None) -> Iterator[VQASample]:
    """The questions of a file; with a split, those of its lines that name it.

    Args:
        images: folder of the pictures; None: that of the file.
    Raises:
        FoveateError: the file is missing, a line is no question, or no line is of the split.
    """
    rows = list(read_lines(path))
    if split is not None and rows:
        named = sorted({str(row["split"]) for _, row in rows if row.get("split")})
        if not named:
            raise FoveateError(
                f"{path}: split {split!r} is asked for, but no line has a field 'split'; add it to the lines, or "
                "leave data.split out"
            )
        if split not in named:
            raise FoveateError(f"{path}: expected lines of split {split!r}, found {', '.join(named)}")
    seen = set()
    for number, row in rows:
        if split is None or str(row.get("split")) == split:
            for sample in samples_of(path, number, row, images or path.parent):
                if sample.id in seen:  # LLaVA's files name the picture there, once for each of its conversations
                    sample = dataclasses.replace(sample, id=f"{sample.id}/{number}")
                seen.add(sample.id)
                yield sample


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object); of a JSON list the position in it."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FoveateError(f"{path}: cannot be read: {error}") from error
    listed = text.lstrip().startswith("[")
    try:
        # Not at every line break that Unicode knows: some may stand in a question.
        lines = json.loads(text) if listed else text.split("\n")
    except ValueError as error:
        raise FoveateError(f"{path}: not a JSON list: {error}") from error
    for number, line in enumerate(lines, 1):
        if not listed and not line.strip():
            continue
        try:
            row = line if listed else json.loads(line)
        except ValueError as error:
            raise FoveateError(f"{path}, line {number}: expected one JSON object, got {line[:60]!r}") from error
        if not isinstance(row, dict):
            raise FoveateError(f"{path}, line {number}: expected a JSON object, got a {type(row).__name__}")
        yield number, row


def samples_of(path: Path, number: int, row: Mapping[str, Any], images: Path) -> Iterator[VQASample]:
    """The question of one line, or those of its conversation; other fields than the known ones do not matter.

    Raises:
        FoveateError: it has none, a field is of another form, or the answer is not among the choices.
    """
    where = f"{path}, line {number}"
    row = {name: value for name, value in row.items() if value == value}  # pandas writes NaN for what is not there
    if "conversations" not in row:
        yield checked(_sample(path, number, row, images), where)
        return
    for turn, said in enumerate(_turns(where, row["conversations"]), 1):
        sample = checked(_sample(path, number, {**row, **said}, images), f"{where}, turn {turn}")
        yield sample if turn == 1 else dataclasses.replace(sample, id=f"{sample.id}#{turn}")


def _sample(path: Path, number: int, row: Mapping[str, Any], images: Path) -> VQASample:
    where = f"{path}, line {number}"
    question = _text(where, "question", row.get("question")).replace("<image>", "").strip()
    if not question:
        raise FoveateError(
            f"{where}: field 'question' is missing; expected {', '.join(FIELDS)} (or LLaVA's conversations), "
            f"found {', '.join(row)}"
        )
    name = "answer" if row.get("answers") is None else "answers"
    given: Any = row.get(name)
    given = given if isinstance(given, list) else [given]
    if len(given) > 1 and None in given:
        raise FoveateError(f"{where}: field {name!r}: expected text or a list of texts, got {_short(given)}")
    answers = tuple(_text(where, name, a, "text or a list of texts").strip() for a in given)
    return VQASample(
        id=_text(where, "id", row.get("id")) or f"{path.stem}/{number}",
        dataset=_text(where, "dataset", row.get("dataset")) or path.stem,
        question=question,
        answers=answers if any(answers) else (),
        image=_image(where, images, row.get("image")),
        choices=_choices(where, row.get("choices")),
        hint=_text(where, "hint", row.get("hint")),
        category=_text(where, "category", row.get("category")),
        split=_text(where, "split", row.get("split")),
    )


def _turns(where: str, turns: Any) -> list[dict[str, str]]:
    """Question and answer of each human turn that is answered, in order."""
    try:
        said = [(turn["from"], turn["value"].strip()) for turn in turns if turn["from"] != "system"]
    except (TypeError, KeyError, AttributeError):
        said = []
    while said and said[0][0] == "gpt":  # some conversations are published without their beginning
        said = said[1:]
    pairs = list(zip(said[::2], said[1::2], strict=False))
    if not pairs or any((asks, answers) != ("human", "gpt") for (asks, _), (answers, _) in pairs):
        raise FoveateError(
            f'{where}: expected conversations as [{{"from": "human", "value": ...}}, {{"from": "gpt", ...}}], in turns'
        )
    return [{"question": question, "answer": answer} for (_, question), (_, answer) in pairs]


def _short(value: Any) -> str:
    """A value as it stands in the file, cut off where it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _text(where: str, name: str, value: Any, expected: str = "text") -> str:
    """A text or a number; of null, and of a field that is not there, nothing."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise FoveateError(f"{where}: field {name!r}: expected {expected}, got {_short(value)}")
    return str(value)


def _choices(where: str, given: Any) -> tuple[str, ...]:
    """The options in the order of their letters; none: the question is open."""
    if not given:
        return ()
    expected = "a list of options (or an object from letter to text)"
    if isinstance(given, Mapping):
        letters = [letter for letter in LETTERS if letter in given]
        if "".join(letters) != LETTERS[: len(given)]:
            raise FoveateError(f"{where}: field 'choices': expected the letters A, B, ..., got {', '.join(given)}")
        given = [given[letter] for letter in letters]
    if not isinstance(given, list) or None in given:
        raise FoveateError(f"{where}: field 'choices': expected {expected}, got {_short(given)}")
    return tuple(_text(where, "choices", option, expected).strip() for option in given)


def _image(where: str, folder: Path, value: Any) -> bytes | str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FoveateError(
            f"{where}: field 'image': expected one path or data:image/...;base64,..., got {_short(value)}"
        )
    text = value.lstrip()
    if text.startswith("data:") or (text.startswith(BASE64) and "." not in text):
        return picture_bytes(value)
    return str(folder / value)
