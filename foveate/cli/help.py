"""Options in words: their types in error messages, and the help of a verb."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from foveate.util.choices import choices_of, members

ONE = {int: "a whole number", float: "a number", str: "text", Path: "a path", NoneType: "null"}
MANY = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}


class Field(NamedTuple):
    """A field that a dataclass is built from, by its dotted name; without a default (MISSING) it must be given."""

    key: str
    kind: Any
    default: Any
    owner: type


def items_of(kind: Any) -> tuple[Any, ...]:
    """What a sequence holds: (float,) for `tuple[float, ...] | None`; empty for other types."""
    sequences = [m for m in members(kind) if typing.get_origin(m) in (tuple, list, Sequence)]
    return members(typing.get_args(sequences[0])[0]) if sequences else ()


def names_of(kind: Any) -> list[str]:
    """The words that a type allows: a, b, null for `Literal["a", "b"] | None`; none for a type without such."""
    names = [str(name) for m in members(kind) if typing.get_origin(m) is typing.Literal for name in typing.get_args(m)]
    names += ["true", "false"] if bool in members(kind) else []
    return [*names, "null"] if names and NoneType in members(kind) else names


def in_words(kind: Any, words: Mapping[Any, str] = ONE) -> str:
    """`tuple[float, ...] | None` -> numbers or null: nobody should have to read types."""
    items = typing.get_args(kind)
    if len(members(kind)) > 1:
        return " or ".join(in_words(member) for member in members(kind))
    if kind in words or not items:
        return words.get(kind, getattr(kind, "__name__", str(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, items))}"
    count = f"{len(items)} " if typing.get_origin(kind) is tuple and items[-1] is not Ellipsis else ""
    return f"{'' if words is ONE else 'lists of '}{count}{in_words(items[0], MANY)}"


def print_help(
    prog: str,
    description: str,
    fields: Collection[Field],
    aliases: Mapping[str, str],
    positional: Sequence[str],
    whole: Collection[str] = (),
) -> None:
    """Print the options in groups, one per dataclass.

    Args:
        fields: of a field that is a choice, `default` is the dataclass that is chosen now.
        aliases: other name of a flag -> its field.
        positional: fields that bare words fill; those that may be left out stand in brackets.
        whole: fields whose words no comma divides.
    """
    needed = [field.key for field in fields if field.default is MISSING]
    words = [key.upper() if key in needed else f"[{key.upper()}]" for key in positional]
    usage = " ".join([prog, *words, "[--OPTION VALUE ...]"])
    parser = argparse.ArgumentParser(usage=usage, description=description, add_help=False)
    groups = {"": parser.add_argument_group("options")}
    groups[""].add_argument("-h", "--help", action="store_true", help="show this help and leave")
    groups[""].add_argument("--config", metavar="FILE", help="a YAML file of these options; repeatable, later ones win")
    # What is needed comes first, whatever class it was inherited from.
    for key, kind, default, owner in sorted(fields, key=lambda field: field.default is not MISSING):
        section, _, name = key.rpartition(".")
        note = notes(owner).get(name, "")
        if choices := choices_of(kind):
            groups[key] = parser.add_argument_group(note.rstrip(".") or key)
            now = next((name for name, choice in choices.items() if choice is default), "none")
            text = f"one of {', '.join(choices)} (now: {now}); `--{key} NAME --help` lists its options"
            groups[key].add_argument(f"--{key}", metavar="NAME", help=text)
            for name, choice in choices.items():
                if choice is not None and len(choices) > 2:
                    about_it = headline(choice).replace("%", "%%")
                    groups[key].add_argument(f"--{key} {name}", action="store_true", help=about_it)
            continue
        if section not in groups:
            groups[section] = parser.add_argument_group(headline(owner).rstrip(".") or section)
        flags = [f"--{flag}" for flag in (key, *aliases) if aliases.get(flag, flag) == key]
        names = names_of(kind)
        several = "A B ..." if key in whole else "A,B,..."
        metavar = f"{{{','.join(names)}}}" if names else several if items_of(kind) else name.upper()
        facts = [] if names or kind is str else [in_words(kind)]
        facts += ["required" if default is MISSING else f"default: {_written(default)}"]
        text = f"{note} ({', '.join(facts)})".replace("%", "%%")
        groups[section].add_argument(*flags, metavar=metavar, help=text)
    parser.print_help()


def _written(value: Any) -> str:
    """As in YAML; text without its quotes."""
    return json.dumps(value, default=str) if not isinstance(value, str) else value or "empty"


def about(cls: type) -> str:
    """The docstring of a dataclass; nothing where @dataclass wrote it."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return "" if text.startswith(f"{cls.__name__}(") else text


def headline(cls: type) -> str:
    """The docstring's first paragraph."""
    return " ".join(about(cls).partition("\n\n")[0].split())


@functools.cache
def notes(cls: type) -> dict[str, str]:
    """Field -> its docstring, inherited fields too."""
    import docstring_parser

    parsed = [docstring_parser.parse_from_object(owner) for owner in reversed(cls.__mro__[:-1])]
    return {param.arg_name: " ".join((param.description or "").split()) for doc in parsed for param in doc.params}
