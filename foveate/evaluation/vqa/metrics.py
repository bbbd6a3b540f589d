"""Answers to questions, scored as the benchmarks score them.

    value, parsed = score_answer(sample, "The answer is B.")      # 1.0, True

The rules are those of the VQA challenge (normalisation, soft accuracy over ten annotators), of MMMU (letters and open
answers) and of MMBench (letters, circular evaluation). One thing differs on purpose: where MMMU draws a letter at
random because none can be read off, the answer is wrong here, and unparsed. Held to `vqa/` of the golden data.
"""

from __future__ import annotations

import math
import re
import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from foveate.types import VQASample

LETTERS = string.ascii_uppercase

_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""The VQA challenge's contractions, as they should be; an answer may have lost one apostrophe."""
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {w: str(n) for n, w in enumerate(_NUMBER_WORDS)}
_NUMBERS["none"] = "0"
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
"""As the challenge has it: the first group was meant to look behind and does not, so only a digit after it counts."""


def _restored() -> dict[str, str]:
    """`dont` -> `don't`, `couldnt've` and `couldn'tve` -> `couldn't've`."""
    found = {}
    for word in _APOSTROPHES.split():
        for at in (i for i, c in enumerate(word) if c == "'"):
            found[word[:at] + word[at + 1 :]] = word
    # The challenge's table has this one the wrong way round.
    return {**found, "somebody'd": "somebodyd"}


_CONTRACTIONS = _restored()
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands before an open answer, by MMMU's rules."""


def normalise(answer: str) -> str:
    """An answer as the VQA challenge compares it: case, punctuation, articles, number words, lost apostrophes."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in _PUNCTUATION:
        # A mark beside a space goes; one between two characters becomes a space.
        beside = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", bare).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy of the VQA challenge and TextVQA: the mean, over the annotators, of min(1, n / 3), where n of the
    *other* annotators gave the prediction. In [0, 1]."""
    said = normalise(prediction)
    agree = [normalise(answer) == said for answer in answers]
    return sum(min(1.0, (sum(agree) - own) / 3) for own in agree) / len(agree)


def parse_mmmu_choice(response: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses, by MMMU's rules; None where they would draw one at random.

    In this order: `(B)`; `B` before a space; `B.`; in an answer of more than five words, the text of an option. Of
    several the last one counts.
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    letters = LETTERS[: len(options)]
    for pattern, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if pattern.format(letter) in response]
        if found:
            return _last(found, [response.rfind(place.format(letter)) for letter in found])
    if len(response.split()) > 5:
        text = response.lower()
        named = [(letter, o.lower()) for letter, o in zip(letters, options, strict=True) if o.lower() in text]
        if named:
            return _last([letter for letter, _ in named], [text.rfind(option) for _, option in named])
    return None


def _last(letters: Sequence[str], places: Sequence[int]) -> str:
    """The letter at the largest place; of equals the first."""
    return letters[max(range(len(letters)), key=lambda i: places[i])]


def parse_mmbench_choice(response: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses, by MMBench's rules of exact matching; None where it would ask a judge model.

    One letter stands alone among the last words (an `A` in a sentence of more than three words may be the article), or
    the text of exactly one option occurs in an answer that is not much longer than the options.
    """
    letters = LETTERS[: len(options)]
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()
    present = [letter for letter in letters if letter in words]
    if len(present) == 1 and not ("A" in words and len(words) > 3) and words.index(present[0]) > len(words) - 5:
        return present[0]
    text = response.lower()
    if len(text) > 2 * sum(map(len, options)):
        return None
    named = [letter for letter, o in zip(letters, options, strict=True) if o and o.lower() in text]
    return named[0] if len(named) == 1 else None


def mmmu_open_correct(response: str, golds: Sequence[str]) -> bool:
    """Does an open answer hold one of the accepted ones, by MMMU's rules? Numbers are compared rounded to 0.01."""
    accepted = [form for gold in golds for form in _open_forms(gold)]
    for said in _open_answers(response):
        if isinstance(said, str):
            if any(isinstance(form, str) and form in said for form in accepted):
                return True
        elif said in accepted:
            return True
    return False


def _open_answers(response: str) -> list[str | float]:
    """What an open answer may mean to say: of each line the shortest end behind "is", "so", "=" ..., or all of it; and
    the numbers in that."""
    text = response.strip().strip(".").lower()
    lines = text.split("\n")
    keys = []
    for number, line in enumerate(lines):
        shortest = ""
        for lead in (*_LEADS, "=") if number == len(lines) - 1 else _LEADS:
            if lead in line:
                end = line.split(lead)[-1].strip()
                shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest not in ("", *":,.!?;'"):
            keys.append(shortest)
    return [form for key in keys or [text] for part in (key, *_numbers(key)) for form in _open_forms(part)]


def _numbers(text: str) -> list[str]:
    """Numbers with commas, in scientific notation, and plain ones."""
    patterns = (
        r"-?\b\d{1,3}(?:,\d{3})+\b",
        r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
        r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
    )
    return [number for pattern in patterns for number in re.findall(pattern, text)]


def _open_forms(text: str) -> list[str | float]:
    """A number as a number; one character with a space on either side, so that it matches as a word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def chosen_letter(sample: VQASample, text: str, choice_logprobs: Sequence[float] | None = None) -> str | None:
    """The letter of a multiple choice: the likeliest option where options were scored, else read off the text."""
    if choice_logprobs:
        return LETTERS[max(range(len(choice_logprobs)), key=lambda i: choice_logprobs[i])]
    parse = parse_mmbench_choice if sample.dataset == "mmbench" else parse_mmmu_choice
    return parse(text, sample.choices)


def score_answer(sample: VQASample, text: str, choice_logprobs: Sequence[float] | None = None) -> tuple[float, bool]:
    """The score of one answer, in [0, 1], and whether an answer could be read off the text.

    Multiple choice by the letter; ten annotators by soft accuracy; MMMU's open questions by its rules; anything else is
    right where it equals an accepted answer after normalisation. NaN where the right answer is not public.
    """
    if sample.choices:
        letter = chosen_letter(sample, text, choice_logprobs)
        return (float(letter in sample.answers) if sample.answers else math.nan), letter is not None
    parsed = bool(text.strip())
    if not sample.answers:
        return math.nan, parsed
    if not parsed:
        return 0.0, False
    if len(sample.answers) == 10:
        return vqa_accuracy(text, sample.answers), True
    if sample.dataset == "mmmu":
        return float(mmmu_open_correct(text, sample.answers)), True
    return float(normalise(text) in {normalise(answer) for answer in sample.answers}), True


def score_row(sample: VQASample, row: Mapping[str, Any]) -> tuple[float, bool]:
    """`score_answer` of one line of the cache (`text`, `choice_logprobs`)."""
    return score_answer(sample, row["text"], row.get("choice_logprobs"))


def circular_index(sample: VQASample) -> int | None:
    """What the orders of one MMBench question share: their index modulo a million; None: of another set."""
    index = sample.id.rpartition("/")[2]
    return int(index) % 1_000_000 if sample.dataset == "mmbench" and index.isdigit() else None


def circular_accuracy(samples: Sequence[VQASample], scores: Sequence[float]) -> float | None:
    """MMBench's circular evaluation: a question counts as right if it is right under every order of its options.

    Rotations of one question have the same index modulo a million; there are as many as it has options, and a question
    of which some are missing (a part of the set, a broken picture) does not count. None: no question is whole.
    """
    groups: defaultdict[int, list[float]] = defaultdict(list)
    orders: dict[int, int] = {}
    for sample, value in zip(samples, scores, strict=True):
        index = circular_index(sample)
        if index is None:
            return None
        groups[index].append(value)
        orders[index] = sum(map(bool, sample.choices))
    whole = [min(values) for question, values in groups.items() if len(values) >= max(2, orders[question])]
    return sum(whole) / len(whole) if whole else None
