"""Which family a checkpoint folder belongs to.

    family, info = detect(folder)
    model, processor = family.load(info, ModelOptions(device="cuda"))

A family joins by one line in `FAMILIES`, or with `register` from outside the package.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from foveate.errors import FoveateError
from foveate.models.base import Family, Info, ModelOptions

FAMILIES: list[Family | str] = ["foveate.models.openvla_oft.load:FAMILY", "foveate.models.pi0.load:FAMILY"]
"""Families, or where they are, imported when a folder is looked at. They are asked in order: π0 comes last, since its
checkpoints name no family and its errors say what a folder lacks."""


def register(family: Family) -> None:
    """Let `detect` know one more family; it is asked before those that are known."""
    FAMILIES.insert(0, family)


def detect(path: str | Path, options: ModelOptions | None = None) -> tuple[Family, Info]:
    """The family of a checkpoint folder, and what can be known of it without reading a tensor.

    Args:
        options: what the folder may not tell (robot, tokenizer, action horizon).
    Raises:
        FoveateError: no such folder, no family knows it, or it is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FoveateError(f"{folder}: no such checkpoint folder")
    families = [_resolve(family) for family in FAMILIES]
    for family in families:
        info = family.detect(folder, options or ModelOptions())
        if info is not None:
            return family, info
    known = ", ".join(family.name for family in families)
    raise FoveateError(f"{folder}: a checkpoint of no family that foveate knows (it knows {known})")


def _resolve(family: Family | str) -> Family:
    if isinstance(family, Family):
        return family
    module, _, name = family.partition(":")
    found: Family = getattr(importlib.import_module(module), name)
    return found
