"""A config field that is one of several dataclasses: `pruner: PrunerConfig | None`.

The choice is made by name before the parser is built, so that the parser knows the options of the chosen
dataclass alone: its help shows them, and an option of another method is an unknown option.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveate.errors import FoveateError, unknown

TAGS = ("name", "class_path")
"""Keys that hold the name of the choice, in a file and in a flag (`--pruner.name X` is `--pruner X`)."""


def _fold(name: str) -> str:
    """`LightVLA`, `light_vla` and `foveate.pruning.LightVLA` are one name."""
    return name.rpartition(".")[2].replace("_", "").replace("-", "").lower()


def _descendants(cls: type) -> list[type]:
    children: list[type] = cls.__subclasses__()
    return [found for child in children for found in (child, *_descendants(child))]


def _candidates(member: type) -> dict[str, type]:
    """Name -> dataclass: from `CONFIGS` of the defining package where it has one, else by class name."""
    package = sys.modules.get(member.__module__.rpartition(".")[0])
    registered = {n: c for n, c in getattr(package, "CONFIGS", {}).items() if issubclass(c, member)}
    leaves = [c for c in (member, *_descendants(member)) if not c.__subclasses__()]
    return registered or {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", c.__name__).lower(): c for c in leaves}


@dataclass
class Choice:
    """The candidates of one field, and what the default, the files and the flags have said of it so far."""

    key: str
    candidates: Mapping[str, type]
    optional: bool
    """None is a choice too."""
    name: str | None = None
    """Name of the chosen dataclass; None: none of them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Values for the fields of the chosen dataclass."""

    @classmethod
    def of(cls, spec: dataclasses.Field, hint: Any) -> Choice | None:
        """The choice that a field offers by its type; None for a field of another type."""
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        members = set(typing.get_args(hint) if is_union else (hint,))
        classes = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
        plain = not is_union and classes and not classes[0].__subclasses__()
        if not classes or plain or members - set(classes) - {type(None)}:
            return None
        candidates = {name: c for member in classes for name, c in _candidates(member).items()}
        choice = cls(spec.name, dict(sorted(candidates.items())), type(None) in members)
        default = spec.default_factory() if callable(spec.default_factory) else spec.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            choice.choose(type(default).__name__)
            choice.options = {f.name: getattr(default, f.name) for f in dataclasses.fields(default) if f.init}
        return choice

    @property
    def chosen(self) -> type | None:
        return None if self.name is None else self.candidates[self.name]

    @property
    def names(self) -> list[str]:
        return [*self.candidates, *(["none"] if self.optional and "none" not in self.candidates else [])]

    def choose(self, name: str) -> None:
        """Choose by registry or class name; what was said of the options of another choice is forgotten."""
        by_name = {_fold(c.__name__): n for n, c in self.candidates.items()} | {_fold(n): n for n in self.candidates}
        found = by_name.get(_fold(name))
        if found is None and not (self.optional and _fold(name) in ("none", "null")):
            raise unknown(self.key, name, self.names)
        if found is None or self.name not in (None, found):
            self.options = {}
        self.name = found

    def update(self, said: Any) -> None:
        """Take in what a file says: a name, None, or a mapping of options that may hold the name too."""
        if not isinstance(said, Mapping):
            self.choose("none" if said is None else str(said))
            return
        said = dict(said)
        for tag in TAGS:
            if tag in said:
                self.choose(str(said.pop(tag)))
        said |= said.pop("init_args", None) or {}
        self.options |= said

    def settle(self, flags: Sequence[str]) -> None:
        """All is said: where there are options but no name, the one candidate is meant; among several one is needed.

        Args:
            flags: the options that flags give.
        """
        options = [*flags, *self.options]
        if options and self.name is None:
            if len(self.candidates) > 1:
                raise FoveateError(
                    f"--{self.key}.{options[0]} is given, but no {self.key} is chosen; "
                    f"add --{self.key} NAME with one of {', '.join(self.candidates)}"
                )
            self.name = next(iter(self.candidates))
