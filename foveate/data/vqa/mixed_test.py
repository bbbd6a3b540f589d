"""The mixed set: deterministic, disjoint, true, and not to be had by looking up the wording."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from foveate.data.vqa.mixed import SPLITS, MixedItem, facts_of, generate, items
from foveate.data.vqa.scene import COLORS, CORNERS, LETTERS, SHAPES
from foveate.errors import FoveateError
from foveate.types import VQASample


@functools.cache
def some(split: str, count: int) -> tuple[MixedItem, ...]:
    return tuple(items(split, count))


def test_same_seed_same_samples_and_a_smaller_set_is_the_start_of_a_larger() -> None:
    first, again = generate("test", 6), generate("test", 12)
    assert first == again[:6]
    assert generate("test", 6, seed=1) != first
    assert isinstance(first[0].image, bytes) and first[0].image.startswith(b"\x89PNG")
    assert next(items("test", 1, start=5)).sample() == first[5]
    pixels = some("test", 1)[0].pixels()
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, some("test", 1)[0].pixels())


def test_splits_share_no_scene() -> None:
    scenes = {split: {item.scene for item in some(split, 1500)} for split in SPLITS}
    assert not scenes["train"] & scenes["test"] and not scenes["train"] & scenes["val"]
    assert not scenes["val"] & scenes["test"]


def test_ids_tell_the_level_and_other_sets_have_none() -> None:
    for item in some("test", 200):
        assert facts_of(VQASample(item.id, "mixed", "", (), None)) == item.facts
    with pytest.raises(FoveateError, match="the level is known of the mixed set alone"):
        facts_of(VQASample("easy_vqa/test/00000", "easy_vqa", "", (), None))
    with pytest.raises(FoveateError, match="did you mean 'test'"):
        next(items("tset"))


def test_held_out_wordings_are_of_the_test_split_alone_and_have_no_new_word() -> None:
    train, test = some("train", 8000), some("test", 3000)
    assert not any(item.facts.held for item in (*train, *some("val", 500)))
    held = [item for item in test if item.facts.held]
    assert 0.30 < len(held) / len(test) < 0.37
    shapes = {_template(item.question) for item in train}
    assert not {_template(item.question) for item in held} & shapes
    words = {word for item in train for word in _words(item)}
    assert {word for item in test for word in _words(item)} <= words


def test_answers_are_one_word_and_true() -> None:
    """Which-questions about what is visible are answered by the scene; a third of all is yes or no, in balance."""
    counts: Counter[str] = Counter()
    for item in some("train", 8000):
        assert " " not in item.answer
        if item.answer in ("yes", "no"):
            counts[item.answer] += 1
            continue
        if item.kind == "background color":
            assert item.answer == item.scene.background
        elif item.kind == "shape color":
            assert item.answer == item.scene.color
        elif item.kind == "shape kind":
            assert item.answer == item.scene.shape
        elif item.kind == "corner letter":
            corner = next(c for c in CORNERS if c in item.question)
            assert item.answer == item.scene.letters[CORNERS.index(corner)]
    assert abs(counts["yes"] / counts.total() - 0.5) < 0.03


def test_context_answers_exactly_the_questions_that_need_no_look() -> None:
    """A reader of the text who knows the grammar finds the answer where need is NO, and nowhere else."""
    for item in some("train", 3000):
        found = _read(item)
        if item.kind == "hidden letter" and found is None:
            assert item.facts.need == "NO"
        elif item.facts.need == "NO":
            assert found == item.answer, item
        else:
            assert found is None, item


def test_levels_are_those_of_the_scene_and_each_has_its_share() -> None:
    train = some("train", 8000)
    shares = Counter(item.facts.need for item in train)
    assert all(0.2 < shares[need] / len(train) < 0.5 for need in ("NO", "COARSE", "FULL"))
    for item in train:
        if item.kind == "shape kind" and item.facts.need != "NO":
            assert (item.facts.need == "FULL") == (item.scene.size == "small")
            says_size = any(w in " ".join(item.context) for w in ("large", "small"))
            assert item.facts.told == says_size
    untold = [item for item in train if not item.facts.told]
    assert 0.03 < len(untold) / len(train) < 0.10
    assert 0.4 < sum(item.facts.need == "FULL" for item in untold) / len(untold) < 0.6


def test_looking_up_the_wording_does_not_give_the_level() -> None:
    """Of the question, and of the question with its context (backing off to the question): both stay far below what
    the text gives to a reader, which is everything but the untold sizes."""
    train, test = some("train", 8000), some("test", 3000)
    needs = [item.facts.need for item in test]
    reader = np.mean([item.facts.told or item.facts.need == "FULL" for item in test])
    question = _lookup(train, test, lambda item: item.question)
    prompt = _lookup(train, test, lambda item: (item.context, item.question))
    by_question = np.mean([a == b for a, b in zip(question, needs, strict=True)])
    back_off = np.mean([(p or q) == n for p, q, n in zip(prompt, question, needs, strict=True)])
    assert reader > 0.95
    assert by_question < 0.68 and back_off < 0.68
    # The same wording occurs with at least two levels, four of five times.
    levels = defaultdict(set)
    for item in train:
        levels[item.question].add(item.facts.need)
    common = [q for q, n in Counter(item.question for item in train).items() if n >= 10]
    assert np.mean([len(levels[q]) >= 2 for q in common if "behind" not in q]) > 0.8


def _lookup(train, test, key) -> list[str | None]:
    """The majority level of the same string in training; None where it was never seen."""
    seen: defaultdict = defaultdict(Counter)
    for item in train:
        seen[key(item)][item.facts.need] += 1
    return [seen[key(item)].most_common(1)[0][0] if key(item) in seen else None for item in test]


VALUES = (*COLORS, *SHAPES, *LETTERS)
VALUE = re.compile(rf"\b({'|'.join(VALUES)})\b")


def _template(question: str) -> str:
    return VALUE.sub("_", re.sub("|".join(CORNERS), "_", question))


def _words(item: MixedItem) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", " ".join((*item.context, item.question)))


def _subject(text: str) -> str:
    if place := re.search(r"(in the .* corner|behind the shape)", text):
        return place[1]
    if any(color in text for color in COLORS) or "color" in text:
        return "background color" if "background" in text else "shape color"
    return "shape kind"


def _read(item: MixedItem) -> str | None:
    """What the context says in answer to the question; None: nothing."""
    asked = VALUE.findall(item.question)
    value = asked[-1] if item.answer in ("yes", "no") and asked else None
    if value and value not in VALUES:
        value = None
    negated = " not " in item.question
    for sentence in item.context:
        if sentence.startswith(("maybe", "not every")) or "large" in sentence or "small" in sentence:
            continue
        said = VALUE.findall(sentence)[0]
        every = sentence.startswith("every") and _subject(item.question).endswith("corner")
        if not every and (sentence.startswith("every") or _subject(sentence) != _subject(item.question)):
            continue
        if " not " in sentence:
            if value == said:
                return "yes" if negated else "no"
            continue
        if value is None:
            return said
        return "yes" if (said == value) != negated else "no"
    return None
