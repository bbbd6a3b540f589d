"""Errors that a user can act on: the command line prints their text alone, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FoveateError(Exception):
    """Names the thing, what was expected, what came, and what to do next."""


class ActionsNotFinite(FoveateError):
    """A policy answered NaN or infinity."""

    def __init__(self, text: str, chunks: list[Any]) -> None:
        """
        Args:
            chunks: all that it answered, for who can use those that are finite.
        """
        super().__init__(text)
        self.chunks = chunks


def reason_of(error: BaseException) -> str:
    """What an error says; with its kind, where it is none of foveate's own."""
    return str(error) if isinstance(error, FoveateError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def unknown(kind: str, name: str, choices: Iterable[str], other: str = "") -> FoveateError:
    """An unknown name, with the nearest known ones or the list of all.

    Args:
        other: what may be named beside the choices: `a file that ends with .jsonl`.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?" + (f" Otherwise name {other}" if other else "")
    else:
        hint = f"choices: {', '.join([*choices, *([other] if other else [])])}"
    return FoveateError(f"unknown {kind} {name!r}; {hint}")
