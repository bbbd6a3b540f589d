"""How the mixed set words its sentences and questions; the held-out wordings recombine words of the others."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Form = Literal["which", "is", "is not"]
Wordings = tuple[tuple[str, ...], tuple[str, ...]]
"""Of every split, and those that only the test split has."""


@dataclass(frozen=True)
class Phrases:
    """The wordings of one slot: `{v}` is a value, `{p}` the place of a letter."""

    says: Wordings
    denies: Wordings
    which: Wordings = ((), ())
    is_: Wordings = ((), ())
    is_not: Wordings = ((), ())


def _of_color(thing: str) -> Phrases:
    return Phrases(
        which=(
            (
                f"what color is {thing}?",
                f"which color does {thing} have?",
                f"name the color of {thing}.",
                f"what color does {thing} have?",
                f"which is the color of {thing}?",
            ),
            (f"what is the color of {thing}?", f"which color is {thing}?"),
        ),
        is_=(
            (
                f"is {thing} {{v}}?",
                f"does {thing} have the color {{v}}?",
                f"is {{v}} the color of {thing}?",
                f"is {{v}} the color {thing} has?",
            ),
            (f"is the color of {thing} {{v}}?",),
        ),
        is_not=(
            (
                f"is {thing} not {{v}}?",
                f"does {thing} not have the color {{v}}?",
                f"is the color of {thing} not {{v}}?",
                f"is {{v}} not the color {thing} has?",
            ),
            (f"is {{v}} not the color of {thing}?",),
        ),
        says=(
            (
                f"{thing} is {{v}}.",
                f"{thing} has the color {{v}}.",
                f"{{v}} is the color of {thing}.",
                f"the color {thing} has is {{v}}.",
            ),
            (f"the color of {thing} is {{v}}.",),
        ),
        denies=(
            (
                f"{thing} is not {{v}}.",
                f"{thing} does not have the color {{v}}.",
                f"{{v}} is not the color of {thing}.",
                f"the color {thing} has is not {{v}}.",
            ),
            (f"the color of {thing} is not {{v}}.",),
        ),
    )


PHRASES = {
    "background color": _of_color("the background"),
    "shape color": _of_color("the shape"),
    "shape kind": Phrases(
        which=(
            (
                "what shape is it?",
                "which shape is in the picture?",
                "name the shape.",
                "what is the shape?",
                "name the shape in the picture.",
                "which shape is there?",
            ),
            ("which shape is it?", "what shape is in the picture?"),
        ),
        is_=(
            (
                "is it a {v}?",
                "is there a {v} in the picture?",
                "is the shape a {v}?",
                "is the shape in the picture a {v}?",
                "is a {v} the shape?",
            ),
            ("is a {v} in the picture?",),
        ),
        is_not=(
            (
                "is it not a {v}?",
                "is there not a {v} in the picture?",
                "is the shape in the picture not a {v}?",
                "is a {v} not the shape?",
            ),
            ("is the shape not a {v}?",),
        ),
        says=(
            ("the shape is a {v}.", "it is a {v}.", "the shape in the picture is a {v}.", "a {v} is the shape."),
            ("there is a {v} in the picture.",),
        ),
        denies=(
            (
                "the shape is not a {v}.",
                "it is not a {v}.",
                "the shape in the picture is not a {v}.",
                "a {v} is not the shape.",
            ),
            ("there is not a {v} in the picture.",),
        ),
    ),
    "letter": Phrases(
        which=(
            (
                "what letter is {p}?",
                "which letter is written {p}?",
                "name the letter {p}.",
                "what is the letter {p}?",
                "name the letter written {p}.",
                "which is the letter {p}?",
            ),
            ("which letter is {p}?", "what letter is written {p}?"),
        ),
        is_=(
            (
                "is the letter {p} {v}?",
                "is {v} the letter {p}?",
                "is there a {v} {p}?",
                "is a {v} written {p}?",
                "is {v} the letter written {p}?",
            ),
            ("is the letter written {p} {v}?",),
        ),
        is_not=(
            (
                "is the letter {p} not {v}?",
                "is {v} not the letter {p}?",
                "is a {v} not written {p}?",
                "is {v} not the letter written {p}?",
            ),
            ("is there not a {v} {p}?",),
        ),
        says=(
            (
                "the letter {p} is {v}.",
                "{v} is the letter {p}.",
                "the letter written {p} is {v}.",
                "a {v} is written {p}.",
            ),
            ("there is a {v} {p}.",),
        ),
        denies=(
            (
                "the letter {p} is not {v}.",
                "{v} is not the letter {p}.",
                "the letter written {p} is not {v}.",
                "a {v} is not written {p}.",
            ),
            ("there is not a {v} {p}.",),
        ),
    ),
    "size": Phrases(
        says=(
            ("the shape is {v}.", "it is a {v} shape.", "the shape in the picture is {v}.", "there is a {v} shape."),
            ("a {v} shape is in the picture.",),
        ),
        denies=(
            (
                "the shape is not {v}.",
                "it is not a {v} shape.",
                "the shape in the picture is not {v}.",
                "there is not a {v} shape.",
            ),
            ("a {v} shape is not in the picture.",),
        ),
    ),
}


class Wording:
    """Draws the wordings of one item: held-out ones wherever there are any, or none."""

    def __init__(self, rng: random.Random, held: bool) -> None:
        self.rng = rng
        self._held = held

    def ask(self, kind: str, form: Form, place: str, value: str) -> str:
        of = PHRASES[kind]
        return self._draw({"which": of.which, "is": of.is_, "is not": of.is_not}[form], place, value)

    def say(self, kind: str, place: str, value: str, negated: bool = False) -> str:
        of = PHRASES[kind]
        return self._draw(of.denies if negated else of.says, place, value)

    def guess(self, kind: str, place: str, value: str) -> str:
        """A statement that may be wrong."""
        return f"maybe {self.say(kind, place, value)}"

    def every(self, letter: str) -> str:
        return self._draw((("every letter is {v}.",), ()), "", letter)

    def not_every(self, letter: str) -> str:
        return self._draw((("not every letter is {v}.",), ()), "", letter)

    def _draw(self, pair: Wordings, place: str, value: str) -> str:
        return self.rng.choice(pair[1] if self._held and pair[1] else pair[0]).format(v=value, p=place)
