"""Questions in the user's own JSONL: one object per line (or one JSON list, as LLaVA's files are).

    {"image": "a.jpg", "question": "what brand is it?", "answer": "nokia", "category": "text"}
    {"image": "b.jpg", "question": "which one?", "choices": ["red", "blue"], "answer": "B", "hint": "look left"}
    {"image": "c.jpg", "conversations": [{"from": "human", "value": "<image>\\nwhat is it?"}, {"from": "gpt", ...}]}

`image` is a path (relative to the file), base64 as `data:image/png;base64,...`, or absent; `answers` may hold several;
`choices` a list, or an object {"A": ..., "B": ...}; the answer of a multiple choice is its letter or its text. `id`,
`dataset`, `split`, `hint` and `category` are optional. A field of another form is an error: what `str` would make of it
looks like an answer. Of a conversation the first question and answer count. Where the
picture stands in the prompt is the template's matter: an `<image>` in a question is taken out.
"""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.data.vqa.files import picture
from foveate.errors import FoveateError
from foveate.types import VQASample

GROUPED = True
LETTERS = string.ascii_uppercase
SUFFIXES = (".jsonl", ".json")
"""How a name ends that is a file of one's own, and not that of a data set."""
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
            sample = sample_of(path, number, row, images or path.parent)
            if sample.id in seen:  # LLaVA's files name the picture there, once for each of its conversations
                sample = dataclasses.replace(sample, id=f"{sample.id}/{number}")
            seen.add(sample.id)
            yield sample


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object); of a JSON list the position in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def sample_of(path: Path, number: int, row: Mapping[str, Any], images: Path) -> VQASample:
    """The question of one line; other fields than the known ones do not matter.

    Raises:
        FoveateError: it has none, a field is of another form, or the answer is not among the choices.
    """
    where = f"{path}, line {number}"
    if "conversations" in row:
        row = {**row, **_first_turns(where, row["conversations"])}
    question = _text(where, "question", row.get("question")).replace("<image>", "").strip()
    if not question:
        raise FoveateError(
            f"{where}: field 'question' is missing; expected {', '.join(FIELDS)} (or LLaVA's conversations), "
            f"found {', '.join(row)}"
        )
    choices = _choices(where, row.get("choices"))
    name = "answer" if row.get("answers") is None else "answers"
    given: Any = row.get(name)
    given = given if isinstance(given, list) else [given]
    if len(given) > 1 and None in given:
        raise FoveateError(f"{where}: field {name!r}: expected text or a list of texts, got {_short(given)}")
    answers = [_text(where, name, a, "text or a list of texts").strip() for a in given]
    return VQASample(
        id=_text(where, "id", row.get("id")) or f"{path.stem}/{number}",
        dataset=_text(where, "dataset", row.get("dataset")) or path.stem,
        question=question,
        answers=tuple(_letter(where, a, choices) if choices else a for a in answers) if any(answers) else (),
        image=_image(where, images, row.get("image")),
        choices=choices,
        hint=_text(where, "hint", row.get("hint")),
        category=_text(where, "category", row.get("category")),
        split=_text(where, "split", row.get("split")),
    )


def _first_turns(where: str, turns: Any) -> dict[str, str]:
    try:
        said = {who: next(t["value"] for t in turns if t["from"] == who) for who in ("human", "gpt")}
        return {"question": said["human"], "answer": said["gpt"].strip()}
    except (TypeError, KeyError, StopIteration, AttributeError) as error:
        raise FoveateError(
            f'{where}: expected conversations as [{{"from": "human", "value": ...}}, {{"from": "gpt", ...}}]'
        ) from error


def _short(value: Any) -> str:
    """A value as it stands in the file, cut off where it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _text(where: str, name: str, value: Any, expected: str = "text") -> str:
    """A text or a number; of null, and of a field that is not there, nothing."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
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
    if len(given) > len(LETTERS):
        raise FoveateError(f"{where}: field 'choices': expected {len(LETTERS)} options at most, got {len(given)}")
    return tuple(_text(where, "choices", option, expected).strip() for option in given)


def _letter(where: str, answer: str, choices: tuple[str, ...]) -> str:
    letters = LETTERS[: len(choices)]
    if answer in letters and len(answer) == 1:
        return answer
    if answer in choices:
        return letters[choices.index(answer)]
    raise FoveateError(
        f"{where}: the answer {answer!r} is neither a letter of {letters} nor one of {', '.join(choices)}"
    )


def _image(where: str, folder: Path, value: Any) -> bytes | str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FoveateError(
            f"{where}: field 'image': expected one path or data:image/...;base64,..., got {_short(value)}"
        )
    if value.startswith("data:"):
        return picture(value.partition(",")[2]) or value.encode()
    return str(folder / value)
