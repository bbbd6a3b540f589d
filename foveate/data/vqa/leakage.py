"""Do training questions give evaluation away? Pictures and wordings are compared by hash.

A picture is known by its encoded bytes: the same file counts as the same, a re-encoded copy does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.vqa.jsonl import SUFFIXES, read_lines, samples_of
from foveate.types import VQASample
from foveate.util.pictures import encoded
from foveate.util.words import plural


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
            f"of {plural(self.questions, 'question')}, training holds the picture of {len(self.same_image)}, the "
            f"wording of {len(self.same_wording)} and both together of {len(self.same_both)}"
        )


def image_hash(sample: VQASample) -> str:
    """16 hex digits of the encoded picture; empty where there is none, or its file is missing."""
    content = encoded(sample.image)
    return hashlib.sha256(content).hexdigest()[:16] if content else ""


def question_hash(sample: VQASample) -> str:
    """16 hex digits of wording, context and options; case and spaces do not matter, nor does the options' order."""
    parts = (sample.question, sample.hint, *sorted(sample.choices))
    text = "\n".join(" ".join(part.lower().split()) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


Seen = tuple[str, str, str]
"""Of a question: its id, the hash of its picture, the hash of its wording."""


def seen(sample: VQASample) -> Seen:
    """What is compared of a question; its picture need not be kept."""
    return sample.id, image_hash(sample), question_hash(sample)


def check_leakage(train_jsonl: str | Path, samples: Sequence[VQASample]) -> Leakage:
    """Compare with a training file; a line with `image_hash` (`foveate data vqa-train`) saves reading its picture.

    Raises:
        FoveateError: the file cannot be read.
    """
    return compare(_seen_in(Path(train_jsonl)), [seen(sample) for sample in samples])


def leak_warnings(training: Iterable[str | None], sets: Mapping[str, Sequence[VQASample]]) -> list[str]:
    """A sentence for each evaluated set of which a training file holds a picture, or a question without one.

    Args:
        training: what `data.train_jsonl` was; of data sets, known by their names, the splits are apart anyway.
    """
    files = [name for name in dict.fromkeys(filter(None, training)) if name.endswith(SUFFIXES)]
    there = [name for name in files if Path(name).is_file()]
    warnings = [
        f"whether questions occur in training was not checked: {name} is not there"
        for name in files
        if name not in there
    ]
    asked = {dataset: [seen(sample) for sample in samples] for dataset, samples in sets.items()} if there else {}
    for name in there:
        known = _seen_in(Path(name))
        found = {dataset: compare(known, questions) for dataset, questions in asked.items()}
        leaks = {d: leak for d, leak in found.items() if leak.same_image or leak.same_both}
        warnings += [f"{dataset} leaks into {name}: {leak}" for dataset, leak in leaks.items()]
    return warnings


def _seen_in(path: Path) -> list[Seen]:
    """The questions of a training file; a line's `image_hash` saves reading its picture."""
    found = []
    for number, line in read_lines(path):
        for sample in samples_of(path, number, line, path.parent):
            found.append((sample.id, line.get("image_hash") or image_hash(sample), question_hash(sample)))
    return found


def find_leakage(training: Iterable[VQASample], samples: Iterable[VQASample]) -> Leakage:
    """Compare two sets in memory. A question without a picture counts by its wording."""
    return compare(map(seen, training), [seen(sample) for sample in samples])


def compare(training: Iterable[Seen], asked: Sequence[Seen]) -> Leakage:
    """What of the evaluation questions occurs among the training questions."""
    pairs = {(image, question) for _, image, question in training}
    images = {image for image, _ in pairs if image}
    wordings = {question for _, question in pairs}
    return Leakage(
        len(asked),
        tuple(name for name, image, _ in asked if image in images),
        tuple(name for name, _, question in asked if question in wordings),
        tuple(name for name, image, question in asked if (image, question) in pairs),
    )
