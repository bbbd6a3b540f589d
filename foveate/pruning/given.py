"""Patches that somebody else chose, for experiments on what a patch is worth; not a method of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.pruning.base import TokenPruner
from foveate.types import KeepSet, Prefix, Selection


class GivenPatches(TokenPruner):
    """Keeps exactly the patches of a mask.

    Args:
        keep_mask: bool [B, P]; the next inference must have as many samples.
    """

    def __init__(self, keep_mask: Tensor) -> None:
        super().__init__()
        self.keep_mask = keep_mask

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        return self.selection(prefix, KeepSet(valid & self.keep_mask.to(valid.device), prefix.layout, valid=valid))
