"""Keep the patches with the largest norm: a score that costs nothing and knows nothing of the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.pruning.base import FixedBudget, TokenPruner, keep_top, patch_index
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class TopKNorm(FixedBudget):
    """Keep the patches whose embeddings have the largest L2 norm."""

    def build(self) -> TopKNormPruner:
        return TopKNormPruner(self)


class TopKNormPruner(TokenPruner):
    """Per view, the patches of the largest L2 norm (float32); equal norms: the first patch."""

    within_budget = True

    def __init__(self, config: TopKNorm) -> None:
        super().__init__()
        self.config = config

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        patches = prefix.embeds[:, patch_index(prefix.layout, prefix.embeds.device)].detach()
        norms = torch.linalg.vector_norm(patches, dim=-1, dtype=torch.float32)
        keep = keep_top(norms, valid, self.config, prefix.layout)
        return self.selection(prefix, KeepSet(keep, prefix.layout, scores=norms.masked_fill(~valid, 0.0), valid=valid))
