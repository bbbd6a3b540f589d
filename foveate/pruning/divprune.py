"""DivPrune (Alvar et al. 2025, arXiv 2503.02175): keep the patches that are as far apart as they can be.

The subset of patches with the largest least distance between two of them, chosen greedily: it covers what the picture
shows, whatever is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.pruning.base import FixedBudget, TokenPruner, blocks, budget_counts, patches_of
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class DivPrune(FixedBudget):
    """Keep the patches that are farthest apart by cosine distance; no text, no attention."""

    reference: bool = False
    """The published code's numbers: all views compete, the share rounds half to even, chosen patches may come again."""

    def build(self) -> DivPrunePruner:
        return DivPrunePruner(self)


class DivPrunePruner(TokenPruner):
    """Per view: first the patch whose nearest other one is farthest, then always the one farthest from those chosen.

    Distance is 1 - cosine; of equals the first patch. `reference` differs where patches are equal or the budget is
    larger than their number (a chosen patch is chosen again, so that fewer stay: none is fed twice here) and where a
    patch is zero (its distances are NaN there and 1 here). The published code also takes the first sample's choice for
    a whole batch; here every row has its own in both modes.
    """

    def __init__(self, config: DivPrune) -> None:
        super().__init__()
        self.config = config
        self.within_budget = not config.reference

    @torch.no_grad()
    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid, patches = self.valid_patches(prefix), patches_of(prefix).float()
        keep, reference = torch.zeros_like(valid), self.config.reference
        for index in blocks(prefix.layout, "joint" if reference else "view", valid.device):
            there = valid[:, index]
            counts = budget_counts(self.config.rounded if reference else self.config, there)
            apart = distances(patches[:, index], safe=not reference)
            order = farthest(apart, there, counts, again=reference)[0]
            keep[:, index] = chosen(order, counts, there.shape[-1]) & there
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))


def distances(x: Tensor, safe: bool = True) -> Tensor:
    """1 - cosine of all pairs, [..., P, D] -> [..., P, P]; unless `safe`, that of a zero vector is NaN."""
    unit = F.normalize(x, dim=-1) if safe else x / x.norm(dim=-1, keepdim=True)
    return 1 - unit @ unit.transpose(-1, -2)


def farthest(distance: Tensor, there: Tensor, counts: Tensor, again: bool = False) -> tuple[Tensor, Tensor]:
    """Greedy max-min choice out of distances [..., P, P].

    Args:
        there: bool [..., P], what may be chosen.
        counts: int64 [..., 1], how many each block chooses; the loop runs to the largest.
        again: what was chosen may be chosen again.
    Returns:
        int64 [..., n], in the order of the choice, and float32 [..., n], the distance that decided it; what stands
        behind a block's own count means nothing.
    """
    own = torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
    if again:  # a patch's least distance is its own, so that the second least counts
        among = distance.masked_fill(~there[..., None, :], torch.inf)
        nearest = among.topk(min(2, distance.shape[-1]), largest=False).values[..., -1]
    else:
        nearest = distance.masked_fill(own | ~there[..., None, :], torch.inf).amin(-1)
    free, steps = there.clone(), int(counts.max()) if counts.numel() else 0
    order = distance.new_zeros((*there.shape[:-1], steps), dtype=torch.int64)
    scores = distance.new_zeros(order.shape)
    for step in range(steps):
        scores[..., step], index = nearest.masked_fill(~free, -torch.inf).max(-1)
        order[..., step] = index
        if not again:
            free.scatter_(-1, index[..., None], False)
        row = distance.gather(-2, index[..., None, None].expand(*index.shape, 1, distance.shape[-1])).squeeze(-2)
        nearest = row if step == 0 else torch.minimum(nearest, row)
    return order, scores


def chosen(order: Tensor, counts: Tensor, patches: int) -> Tensor:
    """bool [..., P]: what an order of choice [..., n] holds up to each block's count [..., 1]."""
    within = torch.arange(order.shape[-1], device=order.device) < counts
    marked = order.new_zeros((*order.shape[:-1], patches), dtype=torch.int32)
    return marked.scatter_add(-1, order, within.int()) > 0
