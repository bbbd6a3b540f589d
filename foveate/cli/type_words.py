"""Types of options in words, for messages and the help: nobody should have to read `Optional[Literal[...]]`."""

from __future__ import annotations

import argparse
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import jsonargparse

from foveate.cli.flags import members

ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
MANY = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts", Path: "paths"}


def names_of(hint: Any) -> list[str]:
    """The names that `Literal["a", "b"] | None` allows: a, b, null; none for a type without names."""
    names = [str(name) for m in members(hint) if typing.get_origin(m) is typing.Literal for name in typing.get_args(m)]
    return [*names, "null"] if names and NoneType in members(hint) else names


def in_words(hint: Any) -> str:
    """`tuple[float, ...] | None` -> numbers or null."""
    words = ["null" if member is NoneType else _word(member, ONE) for member in members(hint)]
    return " or ".join(words)


def _word(hint: Any, words: dict[Any, str]) -> str:
    if hint in words:
        return words[hint]
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(names_of(hint))}"
    if typing.get_origin(hint) not in (tuple, list, Sequence):
        return getattr(hint, "__name__", None) or str(hint)
    items = typing.get_args(hint)
    several = typing.get_origin(hint) is not tuple or items[-1] is Ellipsis
    inner = f"{'' if several else f'{len(items)} '}{_word(items[0], MANY)}"
    return inner if words is ONE else f"lists of {inner}"


class Help(jsonargparse.DefaultHelpFormatter):
    """jsonargparse's help, without the types whose names stand beside the option already: `--language {en,zh}`."""

    def _expand_help(self, action: argparse.Action) -> str:
        literal = r"type: (?:Optional\[)?Literal\[[^\]]*\]\]?(?: \| null)?"
        return re.sub(rf", {literal}(?=\))|{literal}, ", "", super()._expand_help(action))
