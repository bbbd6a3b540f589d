"""Scores of answers: the golden cases, and by hand what they do not hold."""

from __future__ import annotations

import json
import math

import pytest

from foveate.evaluation.vqa.metrics import (
    circular_accuracy,
    mmmu_open_correct,
    normalise,
    parse_mmbench_choice,
    parse_mmmu_choice,
    score_answer,
    score_row,
    vqa_accuracy,
)
from foveate.golden.vqa import CHECKS
from foveate.testing.golden import golden_dir
from foveate.types import VQASample


@pytest.mark.parametrize("group", CHECKS)
def test_golden_cases(group: str) -> None:
    cases = json.loads((golden_dir("vqa", "vqa_metrics.json") / "vqa_metrics.json").read_text())[group]
    ours, expected = CHECKS[group]
    assert [ours(case) for case in cases] == [case[expected] for case in cases]


def test_soft_accuracy_by_hand() -> None:
    """Two of ten agree: leaving one of the two out gives 1/3 twice, leaving another out 2/3 eight times."""
    answers = ["red"] * 2 + ["blue"] * 8
    assert vqa_accuracy("Red.", answers) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert vqa_accuracy("blue", answers) == 1.0 and vqa_accuracy("green", answers) == 0.0


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("An apple", "apple"),
        ("10 to 2", "10 to 2"),
    ],
)
def test_normalisation_by_hand(said: str, meant: str) -> None:
    assert normalise(said) == meant


def test_letters_by_mmbench_rules() -> None:
    options = ["a cat", "a dog", "two dogs", "neither"]
    cases = {
        "B": "B",
        "(C)": "C",
        "The answer is B": "B",
        "A": "A",
        "A dog sits here": "B",  # the A is an article there; the text of one option occurs
        "B or C": None,
        "B is the letter that I would rather choose today": None,  # not among the last words, and too long
        "neither": "D",
        "two dogs": "C",
        "": None,
    }
    assert parse_mmbench_choice("dog", ["cat", "", "dog"]) == "C"  # the file lacks option B
    assert {said: parse_mmbench_choice(said, options) for said in cases} == cases


def test_the_last_of_several_letters_counts_for_mmmu() -> None:
    assert parse_mmmu_choice("A and then B ", ["1", "2"]) == "B"
    assert parse_mmmu_choice("E", ["1", "2"]) is None


def test_open_answers_by_mmmu_rules() -> None:
    assert mmmu_open_correct("The result is 1,200 dollars, so x = 1,200", ["1200"])
    assert mmmu_open_correct("it is therefore 3.141", ["3.14", "pi"])
    assert not mmmu_open_correct("x = 31", ["3"])
    # What stands behind "is" is not one mark, so it counts although it says nothing.
    assert not mmmu_open_correct("2.0 is ..,", ["2"]) and mmmu_open_correct("2.0 is .", ["2"])
    assert mmmu_open_correct("the answer is b c", ["C"]) and not mmmu_open_correct("the answer is cb", ["d"])


def sample(dataset: str = "x", answers=("red",), choices=(), number: int = 0) -> VQASample:
    return VQASample(f"{dataset}/dev/{number}", dataset, "?", tuple(answers), None, choices=tuple(choices))


def test_score_by_kind_of_question_and_what_is_unparsed() -> None:
    multiple = sample("mmbench", ("B",), ("x", "y"))
    assert score_answer(multiple, "B") == (1.0, True)
    assert score_answer(multiple, "no idea at all") == (0.0, False)
    assert score_answer(multiple, "no idea", [-3.0, -1.0]) == (1.0, True)
    assert score_answer(sample(), "  Red.\n") == (1.0, True)
    assert score_answer(sample(answers=("red", "scarlet")), "scarlet") == (1.0, True)
    assert score_answer(sample(answers=("a",)), " ") == (0.0, False)
    assert score_answer(sample("textvqa", ("red",) * 3 + ("blue",) * 7), "red")[0] == pytest.approx(0.9)
    assert score_answer(sample("mmmu", ("3.14",)), "so x = 3.14159") == (1.0, True)
    assert score_row(multiple, {"text": "A", "choice_logprobs": None}) == (0.0, True)
    value, parsed = score_answer(sample("mmbench", (), ("x", "y")), "B")
    assert math.isnan(value) and parsed


def test_circular_evaluation_takes_the_worst_rotation() -> None:
    rotations = [sample("mmbench", ("A",), ("x", "y"), n) for n in (7, 1_000_007, 8, 1_000_008)]
    assert circular_accuracy(rotations, [1, 0, 1, 1]) == 0.5
    assert circular_accuracy(rotations[:1], [1]) is None
    # Of the second question one order is missing (a part of the set): only the whole one counts.
    assert circular_accuracy(rotations[:3], [1, 0, 1]) == 0.0 and circular_accuracy(rotations[1:3], [1, 1]) is None
    four = [sample("mmbench", ("A",), "wxyz", 9 + k * 1_000_000) for k in range(4)]
    assert circular_accuracy(four, [1, 1, 1, 1]) == 1.0 and circular_accuracy(four[:3], [1, 1, 1]) is None
    assert circular_accuracy([sample()], [1]) is None
