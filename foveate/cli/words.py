"""Flags whose values may hold commas: paths and sentences."""

from __future__ import annotations

from collections.abc import Sequence


def take_all(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The command line without `--image a --image b c`, and [a, b, c]: paths may hold commas, which lists may not."""
    rest: list[str] = []
    values: list[str] = []
    inside = False
    for word in argv:
        name, equals, value = word.partition("=")
        if name == f"--{flag}":
            inside = not equals
            values += [value] if equals else []
        elif inside and not word.startswith("--"):
            values.append(word)
        else:
            inside = False
            rest.append(word)
    return rest, values
