"""A config field that is one of several dataclasses (`pruner: LightVLA | Random | None`), and their names."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from typing import Any


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def choices_of(hint: Any) -> dict[str, type]:
    """Name -> dataclass where a field is one of several, or one or None; empty for any other field."""
    classes = [member for member in members(hint) if member is not types.NoneType]
    if len(members(hint)) == 1 or not all(isinstance(c, type) and dataclasses.is_dataclass(c) for c in classes):
        return {}
    return dict(sorted((name_of(c), c) for c in classes))


def name_of(choice: type) -> str:
    """`lightvla` for LightVLA: its name in `CONFIGS` of the package that defines it, or else its own in snake case."""
    package = sys.modules.get(choice.__module__.rpartition(".")[0])
    registered = {cls: name for name, cls in getattr(package, "CONFIGS", {}).items()}
    return registered.get(choice) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", choice.__name__).lower()
