"""What every question is held to, wherever it comes from: options that can be told apart, answers that are among them.

sample = checked(sample, "mmbench_dev.tsv, line 5")
"""

from __future__ import annotations

import dataclasses
import re
import string

from foveate.errors import FoveateError
from foveate.types import VQASample

LETTERS = string.ascii_uppercase
LETTER = re.compile(r"[(\[{]?([A-Za-z])[)\]}.:]?")


def checked(sample: VQASample, where: str) -> VQASample:
    """The question, its answers of a multiple choice as letters.

    An answer is the letter of an option that holds text, or that text; case and brackets around it do not matter.

    Raises:
        FoveateError: naming `where`: something is no text, there are not two options or more than 26, or an answer is
            none of them, or more than one.
    """
    for name, texts in (("question", (sample.question,)), ("option", sample.choices), ("answer", sample.answers)):
        for text in texts:
            if not isinstance(text, str):
                raise FoveateError(f"{where}: expected a text as {name}, got {text!r}")
    if not sample.choices:
        return sample
    if len(sample.choices) > len(LETTERS):
        raise FoveateError(f"{where}: expected {len(LETTERS)} options at most, got {len(sample.choices)}")
    answers = tuple(letter_of(answer, sample.choices, where) for answer in sample.answers)
    options = [text for text in sample.choices if text]
    if len(options) < 2:
        raise FoveateError(f"{where}: expected two options at least, got {', '.join(options) or 'none'}")
    return dataclasses.replace(sample, answers=answers)


def letter_of(answer: str, choices: tuple[str, ...], where: str) -> str:
    """The letter that an answer stands for; arguments and errors as of `checked`."""
    options = {letter: text for letter, text in zip(LETTERS, choices, strict=False) if text}
    bare = LETTER.fullmatch(answer.strip())
    # From the letter as it should be to what people write; the first that fits counts.
    for found in (
        [letter for letter in options if letter == answer],
        [letter for letter, text in options.items() if text == answer],
        [letter for letter in options if bare and letter == bare[1].upper()],
        [letter for letter, text in options.items() if _folded(text) == _folded(answer)],
    ):
        if len(found) > 1:
            raise FoveateError(f"{where}: the answer {answer!r} is the text of the options {' and '.join(found)}")
        if found:
            return found[0]
    raise FoveateError(
        f"{where}: the answer {answer!r} is neither a letter of {''.join(options)} nor one of "
        f"{', '.join(options.values())}"
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip("()[]{}")
