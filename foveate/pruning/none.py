"""No pruning: the full set of patches, as a method like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foveate.pruning.base import TokenPruner
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class NoPruning:
    """Keep every patch; the reference that all methods are compared with."""

    def build(self) -> NoPruner:
        return NoPruner()


class NoPruner(TokenPruner):
    """Keeps every patch of every camera that is there; padding is dropped, which changes no result."""

    enabled = False

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        return self.selection(prefix, KeepSet(valid, prefix.layout, valid=valid))
