"""Do training questions give evaluation away? Pictures and wordings are compared by hash.

A picture is known by its encoded bytes: the same file counts as the same, a re-encoded copy does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.vqa_jsonl import read_lines, sample_of
from foveate.types import VQASample


@dataclass(frozen=True)
class Leakage:
    """How many evaluation questions training has seen, and which."""

    questions: int
    """Evaluation questions that were compared."""
    same_image: tuple[str, ...]
    """Ids of those whose picture occurs in training."""
    same_wording: tuple[str, ...]
    """Ids of those whose wording (with context and options) occurs in training: usual where questions are templates."""
    same_both: tuple[str, ...]
    """Ids of those that occur in training as they are."""

    def __str__(self) -> str:
        return (
            f"of {self.questions} questions, training holds the picture of {len(self.same_image)}, the wording of "
            f"{len(self.same_wording)} and both together of {len(self.same_both)}"
        )


def image_hash(sample: VQASample) -> str:
    """16 hex digits of the encoded picture; empty where there is none, or its file is missing."""
    if isinstance(sample.image, bytes):
        content = sample.image
    else:
        try:
            content = Path(sample.image).read_bytes() if sample.image else b""
        except OSError:
            content = b""
    return hashlib.sha256(content).hexdigest()[:16] if content else ""


def question_hash(sample: VQASample) -> str:
    """16 hex digits of wording, context and options; case and spaces do not matter, nor does the options' order."""
    parts = (sample.question, sample.hint, *sorted(sample.choices))
    text = "\n".join(" ".join(part.lower().split()) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_leakage(train_jsonl: str | Path, samples: Sequence[VQASample]) -> Leakage:
    """Compare with a training file; a line with `image_hash` (`foveate data vqa-train`) saves reading its picture.

    Raises:
        FoveateError: the file cannot be read.
    """
    path = Path(train_jsonl)
    pairs = set()
    for number, line in read_lines(path):
        sample = sample_of(path, number, line, path.parent)
        pairs.add((line.get("image_hash") or image_hash(sample), question_hash(sample)))
    return _compare(pairs, samples)


def leak_warnings(train_jsonl: str | None, sets: Mapping[str, Sequence[VQASample]]) -> list[str]:
    """A sentence for each evaluated set of which the training file holds a picture, or a question without one; none
    without such a file."""
    if not train_jsonl or not Path(train_jsonl).is_file():
        return []
    found = {name: check_leakage(train_jsonl, samples) for name, samples in sets.items()}
    return [
        f"{name} leaks into {train_jsonl}: {leak}" for name, leak in found.items() if leak.same_image or leak.same_both
    ]


def find_leakage(training: Iterable[VQASample], samples: Sequence[VQASample]) -> Leakage:
    """Compare two sets in memory. A question without a picture counts by its wording."""
    return _compare({(image_hash(sample), question_hash(sample)) for sample in training}, samples)


def _compare(pairs: set[tuple[str, str]], samples: Sequence[VQASample]) -> Leakage:
    """Args: pairs: (picture, wording) of the training questions."""
    images = {image for image, _ in pairs if image}
    wordings = {question for _, question in pairs}
    found = [(sample.id, image_hash(sample), question_hash(sample)) for sample in samples]
    return Leakage(
        len(samples),
        tuple(name for name, image, _ in found if image in images),
        tuple(name for name, _, question in found if question in wordings),
        tuple(name for name, image, question in found if (image, question) in pairs),
    )
