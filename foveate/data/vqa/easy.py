"""The preset `easy_vqa`: 48,248 questions on 5,000 pictures of 64 px, inside the wheel of PyPI's `easy-vqa`.

The package has two splits, `train` (4,000 pictures) and `test` (1,000). `val` is made here: every tenth picture of
`train`, with all its questions, which `train` then lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from foveate.errors import FoveateError
from foveate.types import VQASample

SPLITS = ("train", "val", "test")
DEFAULT_SPLIT = "test"
GROUPED = True
"""Neighbours are about the same picture."""
VAL_EVERY = 10
"""Every n-th picture of the package's `train` is in `val`."""


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """The questions of one split, in the package's order; `root` does not matter.

    Raises:
        FoveateError: the package is not installed.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise FoveateError('easy_vqa needs the package easy-vqa; pip install "foveate[vlm]"') from error

    if split == "test":
        questions, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    else:
        questions, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    for number, (question, answer, image) in enumerate(zip(*questions, strict=True)):
        if split == "test" or (image % VAL_EVERY == 0) == (split == "val"):
            name = f"easy_vqa/{split}/{number:05d}"
            category = _category(question, answer)
            yield VQASample(name, "easy_vqa", question, (answer,), paths[image], category=category, split=split)


def _category(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no, negated" if " not " in question else "yes or no"
    return "color" if "color" in question else "shape"
