"""Pruning as an engine does it, for tests of the methods alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.models.base import pack
from foveate.pruning.base import TokenPruner
from foveate.types import KeepSet, Prefix


def prune(pruner: TokenPruner, prefix: Prefix, queries: Tensor | None = None, **options: Any) -> tuple[Prefix, KeepSet]:
    """The prefix as the backbone gets it, packed (in training: at its length, where the method keeps it)."""
    selection = pruner.select(prefix, queries, **options)
    left = selection.apply(prefix)
    return (left if selection.keeps_length else pack(left)), selection.keep
