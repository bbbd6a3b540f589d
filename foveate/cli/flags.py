"""The words of a command line: flags, their values, and bare words. What they mean is `config.py`'s matter."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from foveate.errors import FoveateError, unknown

SWITCH = {"true": "true", "false": "false", "yes": "true", "no": "false", "null": "null", "none": "null"}
"""What may follow a true/false flag, and what it means."""


def plain_flag(word: str, aliases: Mapping[str, str]) -> str:
    """`--trace-out-dir=x` -> `--trace_out_dir=x`; other names of a field become its own."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    name = name.replace("-", "_").replace(".init_args.", ".")
    return f"--{aliases.get(name, name)}{equals}{value}"


def take(words: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The command line without `--flag VALUE` and `--flag=VALUE`, and those values in order."""
    rest: list[str] = []
    values: list[str] = []
    pending = iter(words)
    for word in pending:
        if word == f"--{flag}":
            value = next(pending, None)
            if value is None or value.startswith("--"):
                raise FoveateError(f"--{flag} needs a value")
            values.append(value)
        elif word.startswith(f"--{flag}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    return rest, values


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def read_flags(words: Sequence[str], known: Mapping[str, Any], positional: Sequence[str]) -> dict[str, Any]:
    """What the flags and bare words say: dotted key -> text, or a list of texts.

    Args:
        known: dotted key -> type of every option.
        positional: keys that bare words fill, in order.
    """
    said: dict[str, Any] = {}
    bare = iter(positional)
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not word.startswith("--"):
            key = next(bare, "")
            if not key:
                raise FoveateError(f"unexpected word {word!r}: options start with `--`")
            said[key] = word
            continue
        key, equals, value = word[2:].partition("=")
        if key not in known:
            raise unknown("option", f"--{key}", [f"--{k}" for k in (*known, "config", "help")])
        taken = [value] if equals else _following(words[at:], known[key])
        at += 0 if equals else len(taken)
        said[key] = _value(key, taken, known[key])
    return said


def sequence_of(hint: Any) -> Any:
    """The tuple or list type in a hint; None without one."""
    return next((m for m in members(hint) if typing.get_origin(m) in (tuple, list, Sequence)), None)


def _following(words: Sequence[str], hint: Any) -> list[str]:
    """The words after a flag that belong to it: one, for a sequence all, for a switch only true or false."""
    end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    if bool in members(hint):
        end = min(end, 1) if words and words[0].lower() in SWITCH else 0
    elif sequence_of(hint) is None:
        end = min(end, 1)
    return list(words[:end])


def _value(key: str, taken: list[str], hint: Any) -> str | list[str]:
    if bool in members(hint):
        return SWITCH.get(taken[0].lower(), taken[0]) if taken else "true"
    if not taken:
        raise FoveateError(f"--{key} needs a value")
    sequence = sequence_of(hint)
    if sequence is None or taken[0].startswith("[[") or taken[0] in ("null", "none"):
        return " ".join(taken)
    items = [item.strip(" '\"") for text in taken for item in text.strip("[]").split(",") if item.strip()]
    return items if str in members(typing.get_args(sequence)[0]) else f"[{', '.join(items)}]"
