"""The mixed set: questions of which some need no look, some a coarse one and some the full picture, so that the right
level is known.

    samples = generate("test", 2000)               # VQASample: context in `hint`, the wording in `question`
    facts_of(samples[0])                           # Facts(need="FULL", told=True, held=False)
    for item in items("train", 100): item.pixels() # the same without the detour over PNG

A question is asked of one slot (colour of the background or the shape, kind of the shape, letter in a corner, letter
behind the shape) and comes with 0 to 3 sentences of context. What decides the level is how the two fit:

- NO: the context says it (the slot itself, a universal "every letter is k", a negation that settles a yes/no question);
  or nobody can see it: the letter *behind* the shape has a random answer, entropy is high and looking does not help.
- COARSE: colours; the kind of a large shape.
- FULL: letters; the kind of a small shape. Half of the shapes' sizes are told by the context; the rest only the
  picture shows (`told` is False), where the best that a reader of the text can do is to play the odds.

The same wording therefore occurs with all levels, and contexts are full of decoys in the same words: other slots, other
corners, negations that leave the question open, guesses ("maybe the shape is red." is right at chance), "not every".
A third of the test split is worded in ways that the other splits do not hold.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.vqa import phrases
from foveate.data.vqa.scene import COLORS, CORNERS, LETTERS, SHAPES, SIZES, Scene, draw, encode_png
from foveate.errors import FoveateError, unknown
from foveate.types import VisionLevel, VQASample

DATASET = "mixed"
SPLITS = {"train": 24_000, "val": 2_000, "test": 3_000}
"""Split -> how many samples it has where nobody asks for another number."""
DEFAULT_SPLIT = "test"
GROUPED = False
KINDS = {
    "background color": 0.14,
    "shape color": 0.14,
    "shape kind": 0.28,
    "corner letter": 0.34,
    "hidden letter": 0.10,
}
"""Category -> its share."""
HELD_SHARE = 1 / 3
"""Share of the test split that is worded in ways which the other splits do not hold."""


@dataclass(frozen=True)
class Slot:
    """Something that can be said and asked of a picture."""

    kind: str
    """A key of `phrases.PHRASES`."""
    place: str = ""
    """Of a letter: `in the top left corner`, `behind the shape`."""


@dataclass(frozen=True)
class Facts:
    """What is known of a question beside its answer."""

    need: VisionLevel
    """The cheapest level that gives what can be had."""
    told: bool
    """The text alone tells `need`."""
    held: bool
    """Worded in a way that the training split does not hold."""


@dataclass(frozen=True)
class MixedItem:
    """One question with its scene; the picture is drawn on demand."""

    id: str
    split: str
    scene: Scene
    context: tuple[str, ...]
    question: str
    answer: str
    """One word."""
    kind: str
    facts: Facts

    def pixels(self) -> np.ndarray:
        """uint8 [64, 64, 3], always the same."""
        return draw(self.scene, random.Random(self.id))

    def sample(self) -> VQASample:
        image = encode_png(self.pixels())
        hint = " ".join(self.context)
        return VQASample(
            self.id, DATASET, self.question, (self.answer,), image, hint=hint, category=self.kind, split=self.split
        )


def facts_of(sample: VQASample) -> Facts:
    """What the id of a sample of the mixed set says.

    Raises:
        FoveateError: the sample is not of the mixed set.
    """
    fields = dict(part.split("=", 1) for part in sample.id.split("/") if "=" in part)
    if sample.dataset != DATASET or not {"need", "told", "phrase"} <= set(fields):
        raise FoveateError(f"sample {sample.id!r} of {sample.dataset!r}: the level is known of the mixed set alone")
    need: VisionLevel = "NO" if fields["need"] == "NO" else "COARSE" if fields["need"] == "COARSE" else "FULL"
    return Facts(need, fields["told"] == "yes", fields["phrase"] == "held")


def generate(split: str, count: int | None = None, seed: int = 0) -> list[VQASample]:
    """The first `count` samples of a split (default: `SPLITS`); a smaller set is the start of a larger one."""
    return [item.sample() for item in items(split, count, seed)]


def load(split: str, root: Path | None) -> Iterator[VQASample]:
    """For `load_vqa`; `root` does not matter."""
    return (item.sample() for item in items(split))


def items(split: str, count: int | None = None, seed: int = 0, start: int = 0) -> Iterator[MixedItem]:
    """Items `start` to `start + count - 1` of a split, each drawn from (seed, split, index) alone.

    Raises:
        FoveateError: there is no such split.
    """
    if split not in SPLITS:
        raise unknown("split of the mixed set", split, SPLITS)
    for index in range(start, start + (SPLITS[split] if count is None else count)):
        yield _make(split, index, seed)


def _make(split: str, index: int, seed: int) -> MixedItem:
    rng = random.Random(f"{DATASET} {seed} {split} {index}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    slot = _slot(kind, rng)
    answered = rng.random() < 0.36
    # A small shape's colour is on the border of what a coarse look shows: it is asked only where the context says it.
    size = "large" if kind == "shape color" and not answered else rng.choice(SIZES)
    universal = kind != "hidden letter" and (answered or kind != "corner letter") and rng.random() < 0.2
    scene = _scene(split, size, universal, rng)
    truth = _truths(scene, scene.letters[0] if universal else rng.choice(LETTERS))
    held = split == "test" and rng.random() < HELD_SHARE
    words = phrases.Wording(rng, held)

    form: phrases.Form = rng.choice(("which", "which", "is", "is not"))
    asked = truth[slot]
    if form != "which" and rng.random() < 0.5:
        asked = rng.choice([v for v in _values(slot) if v != truth[slot] and v not in _ruled_out(slot, scene)])
    right = asked == truth[slot]
    if form == "which":
        answer = truth[slot]
    else:
        answer = "yes" if right == (form == "is") else "no"

    context = []
    if answered:
        context.append(_settle(words, slot, truth, None if form == "which" or right else asked, universal))
    told = True
    if kind == "shape kind" and not answered:
        told = rng.random() < 2 / 3
        if told:
            context.append(_say_size(words, scene.size))
    length = rng.choice((1, 1, 2, 2, 3) if answered else (0, 0, 1, 1, 2, 2, 3))
    context += _decoys(words, slot, asked, truth, max(0, length - len(context)), universal)
    rng.shuffle(context)

    need = _need(kind, answered, scene)
    facts = Facts(need, told, held)
    marks = f"need={need}/told={'yes' if told else 'no'}/phrase={'held' if held else 'seen'}"
    name = f"{DATASET}/{split}/{seed}/{index:06d}/{marks}"
    return MixedItem(
        name, split, scene, tuple(context), words.ask(slot.kind, form, slot.place, asked), answer, kind, facts
    )


def _need(kind: str, answered: bool, scene: Scene) -> VisionLevel:
    if answered or kind == "hidden letter":
        return "NO"
    if kind == "corner letter" or (kind == "shape kind" and scene.size == "small"):
        return "FULL"
    return "COARSE"


def _scene(split: str, size: str, universal: bool, rng: random.Random) -> Scene:
    """A scene of this split: scenes are shared out by their hash, so that no two splits have one in common."""
    while True:
        background, color = rng.sample(list(COLORS), 2)
        first, *rest = (rng.choice(LETTERS) for _ in CORNERS)
        letters = (first,) * 4 if universal else (first, rest[0], rest[1], rest[2])
        if len(set(letters)) == 1 and not universal:
            continue
        scene = Scene(background, color, rng.choice(SHAPES), size, letters)
        bucket = zlib.crc32(repr(scene).encode()) % 10
        if split == ("test" if bucket < 2 else "val" if bucket == 2 else "train"):
            return scene


def _slot(kind: str, rng: random.Random) -> Slot:
    if kind == "corner letter":
        return Slot("letter", f"in the {rng.choice(CORNERS)} corner")
    return Slot("letter", "behind the shape") if kind == "hidden letter" else Slot(kind)


def _truths(scene: Scene, hidden: str) -> dict[Slot, str]:
    """The value of every slot; nothing in the picture shows the hidden letter."""
    return {
        Slot("background color"): scene.background,
        Slot("shape color"): scene.color,
        Slot("shape kind"): scene.shape,
        Slot("size"): scene.size,
        Slot("letter", "behind the shape"): hidden,
        **{Slot("letter", f"in the {c} corner"): v for c, v in zip(CORNERS, scene.letters, strict=True)},
    }


def _values(slot: Slot) -> tuple[str, ...]:
    return {"letter": LETTERS, "shape kind": SHAPES, "size": SIZES}.get(slot.kind, tuple(COLORS))


def _ruled_out(slot: Slot, scene: Scene) -> set[str]:
    """Shape and background differ in colour: what is said of one must not answer what is asked of the other."""
    return {scene.background, scene.color} if slot.kind.endswith("color") else set()


def _settle(words: phrases.Wording, slot: Slot, truth: dict[Slot, str], refuted: str | None, universal: bool) -> str:
    """A sentence that answers the question.

    Args:
        refuted: the wrong value that a yes/no question asks of.
    """
    if refuted is not None and words.rng.random() < 0.4:
        return words.say(slot.kind, slot.place, refuted, negated=True)
    if slot.kind == "letter" and universal:
        return words.every(truth[slot])
    return words.say(slot.kind, slot.place, truth[slot])


def _say_size(words: phrases.Wording, size: str) -> str:
    if words.rng.random() < 0.4:
        return words.say("size", "", next(s for s in SIZES if s != size), negated=True)
    return words.say("size", "", size)


def _decoys(
    words: phrases.Wording, slot: Slot, asked: str, truth: dict[Slot, str], count: int, universal: bool
) -> list[str]:
    """True sentences, and guesses, that leave the question as open as it was."""
    rng = words.rng
    own = [words.guess(slot.kind, slot.place, rng.choice(_values(slot)))]
    if slot.kind == "letter" and not universal and rng.random() < 0.5:
        own.append(words.not_every(rng.choice(LETTERS)))
    else:
        # One denial at most: several would leave a single value.
        other = [v for v in _values(slot) if v not in (truth[slot], asked)]
        own.append(words.say(slot.kind, slot.place, rng.choice(other), negated=True))
    rng.shuffle(own)
    # The size of a shape decides how closely to look for its kind.
    others = [s for s in truth if s != slot and not (s.kind == "size" and slot.kind == "shape kind")]
    rng.shuffle(others)
    return [
        own.pop() if own and rng.random() < 0.5 else _aside(words, others.pop(), truth, universal) for _ in range(count)
    ]


def _aside(words: phrases.Wording, slot: Slot, truth: dict[Slot, str], universal: bool) -> str:
    """A sentence about something that is not asked: mostly a fact, else a guess or a denial."""
    rng = words.rng
    wrong = [v for v in _values(slot) if v != truth[slot]]
    luck = rng.random()
    if luck < 0.15:
        return words.guess(slot.kind, slot.place, rng.choice(_values(slot)))
    if luck < 0.3:
        return words.say(slot.kind, slot.place, rng.choice(wrong), negated=True)
    if slot.kind == "letter" and universal:
        return words.every(truth[slot])
    return words.say(slot.kind, slot.place, truth[slot])
