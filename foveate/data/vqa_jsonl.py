"""Questions in the user's own JSONL: one object per line (or one JSON list, as LLaVA's files are).

    {"image": "a.jpg", "question": "what brand is it?", "answer": "nokia", "category": "text"}
    {"image": "b.jpg", "question": "which one?", "choices": ["red", "blue"], "answer": "B", "hint": "look left"}
    {"image": "c.jpg", "conversations": [{"from": "human", "value": "<image>\\nwhat is it?"}, {"from": "gpt", ...}]}

`image` is a path (relative to the file), base64 as `data:image/png;base64,...`, or absent; `answers` may hold several;
`choices` a list, or an object {"A": ..., "B": ...}; the answer of a multiple choice is its letter or its text. `id`,
`dataset`, `split`, `hint` and `category` are optional. Of a conversation the first question and answer count. Where the
picture stands in the prompt is the template's matter: an `<image>` in a question is taken out.
"""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.data.vqa_files import picture
from foveate.errors import FoveateError
from foveate.types import VQASample

GROUPED = True
LETTERS = string.ascii_uppercase
FIELDS = ("question", "image", "answer", "answers", "choices", "hint", "category", "id", "split", "dataset")


def load(split: str | None, path: Path, images: Path | None = None) -> Iterator[VQASample]:
    """The questions of a file; with a split, those of its lines that name it (or all, where no line names any).

    Args:
        images: folder of the pictures; None: that of the file.
    Raises:
        FoveateError: the file is missing, a line is no question, or no line is of the split.
    """
    rows = list(read_lines(path))
    named = sorted({str(row["split"]) for _, row in rows if row.get("split")})
    if split is not None and named and split not in named:
        raise FoveateError(f"{path}: expected lines of split {split!r}, found {', '.join(named)}")
    seen = set()
    for number, row in rows:
        if split is None or not named or row.get("split") == split:
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
        FoveateError: it has none, or its answer is not among its choices.
    """
    where = f"{path}, line {number}"
    if "conversations" in row:
        row = {**row, **_first_turns(where, row["conversations"])}
    question = row["question"].replace("<image>", "").strip() if isinstance(row.get("question"), str) else ""
    if not question:
        raise FoveateError(
            f"{where}: field 'question' is missing; expected {', '.join(FIELDS)} (or LLaVA's conversations), "
            f"found {', '.join(row)}"
        )
    choices = row.get("choices") or ()
    choices = tuple(str(c).strip() for c in (choices.values() if isinstance(choices, Mapping) else choices))
    given = row.get("answer") if row.get("answers") is None else row["answers"]
    answers = [str(a).strip() for a in (given if isinstance(given, list) else [] if given is None else [given])]
    return VQASample(
        id=str(row.get("id", f"{path.stem}/{number}")),
        dataset=str(row.get("dataset", path.stem)),
        question=question,
        answers=tuple(_letter(where, a, choices) if choices else a for a in answers) if any(answers) else (),
        image=_image(images, row.get("image")),
        choices=choices,
        hint=str(row.get("hint") or ""),
        category=str(row.get("category") or ""),
        split=str(row.get("split") or ""),
    )


def _first_turns(where: str, turns: Any) -> dict[str, str]:
    try:
        said = {who: next(t["value"] for t in turns if t["from"] == who) for who in ("human", "gpt")}
    except (TypeError, KeyError, StopIteration) as error:
        raise FoveateError(
            f'{where}: expected conversations as [{{"from": "human", "value": ...}}, {{"from": "gpt", ...}}]'
        ) from error
    return {"question": said["human"], "answer": said["gpt"].strip()}


def _letter(where: str, answer: str, choices: tuple[str, ...]) -> str:
    letters = LETTERS[: len(choices)]
    if answer in letters and len(answer) == 1:
        return answer
    if answer in choices:
        return letters[choices.index(answer)]
    raise FoveateError(
        f"{where}: the answer {answer!r} is neither a letter of {letters} nor one of {', '.join(choices)}"
    )


def _image(folder: Path, value: Any) -> bytes | str | None:
    if not value:
        return None
    if str(value).startswith("data:"):
        return picture(str(value).partition(",")[2]) or str(value).encode()
    return str(folder / str(value))
