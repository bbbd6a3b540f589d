"""A config field that is one of several dataclasses (`pruner: LightVLA | Random | None`), and their names."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from foveate.errors import FoveateError, unknown

Names = Mapping[str, type | None]
"""Name -> dataclass, or None where the field may hold none."""


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def choices_of(hint: Any) -> Names:
    """What a field of this type may hold, where that is one of several dataclasses, or one or none; else empty."""
    classes = [member for member in members(hint) if member is not types.NoneType]
    if len(members(hint)) == 1 or not all(isinstance(c, type) and dataclasses.is_dataclass(c) for c in classes):
        return {}
    names = dict(sorted((name_of(c), c) for c in classes))
    return names if len(classes) == len(members(hint)) else {**names, "null" if "none" in names else "none": None}


def name_of(choice: type) -> str:
    """`lightvla` for LightVLA: its name in `CONFIGS` of the package that defines it, or else its own in snake case."""
    package = sys.modules.get(choice.__module__.rpartition(".")[0])
    registered = {cls: name for name, cls in getattr(package, "CONFIGS", {}).items()}
    return registered.get(choice) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", choice.__name__).lower()


def named(field: str, said: str, names: Names) -> type | None:
    """The choice that is meant: `lightvla`, `LightVLA`, `light-vla` and `foveate.pruning.LightVLA` are one name.

    Raises:
        FoveateError: none has this name.
    """
    known: dict[str, type | None] = {"none": None, "null": None} if None in names.values() else {}
    known |= {_fold(choice.__name__): choice for choice in names.values() if choice is not None}
    known |= {_fold(name): choice for name, choice in names.items()}
    if _fold(said) not in known:
        raise unknown(field, said, names)
    return known[_fold(said)]


def _fold(name: str) -> str:
    return name.rpartition(".")[2].replace("_", "").replace("-", "").lower()


def from_options(kind: str, cls: type, options: Mapping[str, Any]) -> Any:
    """Build a config dataclass, naming an unknown option and those there are."""
    fields = {f.name for f in dataclasses.fields(cls)}
    if strange := sorted(set(options) - fields):
        raise FoveateError(
            f"{kind}: unknown option {', '.join(map(repr, strange))}; options: {', '.join(sorted(fields))}"
        )
    return cls(**options)
