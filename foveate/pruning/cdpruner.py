"""CDPruner (Zhang et al. 2025, arXiv 2506.10967): keep patches that differ from each other and matter to the text.

A determinantal point process over the patches: its kernel is their similarity, scaled by each patch's relevance to the
instruction; the likeliest subset is found greedily.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import FixedBudget, TokenPruner, at, blocks, budget_counts, patches_of, words_of
from foveate.pruning.divprune import chosen
from foveate.types import KeepSet, Prefix, Selection

EXHAUSTED = 1e-6
"""Gain below which a kernel of values up to 1 has nothing left; far above the rounding of a float64 one."""


@dataclass(frozen=True, kw_only=True)
class CDPruner(FixedBudget):
    """Keep patches that differ from each other and are near to the instruction's words."""

    reference: bool = False
    """The published code's numbers: views scale each other, and what matches the text least is most relevant."""

    def build(self) -> CDPrunerPruner:
        return CDPrunerPruner(self)


class CDPrunerPruner(TokenPruner):
    """Per view: kernel r_i S_ij r_j of cosines S and relevances r in [0, 1], and the greedy choice of most likely sets.

    Relevance is the mean cosine of a patch and the words, scaled to [0, 1] in each view and row; all 1 where the view's
    patches are equally relevant. Published with CLIP's two towers; policies have no text tower, so patches and words
    are compared as the backbone embeds them. When the kernel is exhausted (more patches than its rank) the most
    relevant ones of the rest follow.

    `reference`: relevance is minus the cosine (the code gives no reason; CLIP's patches may need it), its minimum and
    maximum run over all views and rows, 1e-6 stands in the numerator alone, and gains may turn to noise or NaN.
    """

    within_budget = True

    def __init__(self, config: CDPruner) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid, patches = self.valid_patches(prefix), patches_of(prefix).float()
        slots, words_there = words_of(prefix)
        if not slots.shape[1]:
            raise FoveateError("CDPruner: needs text behind the pictures, and the prefix has none; divprune needs none")
        words = at(prefix.embeds, slots).float()
        near = nearness(patches, words, words_there)
        keep, scores = torch.zeros_like(valid), torch.zeros_like(near)
        groups = blocks(prefix.layout, "view", valid.device)
        if self.config.reference:
            near = scaled_by_all(-near, valid)
        for index in groups:
            there = valid[:, index]
            relevance = near[:, index] if self.config.reference else scaled(near[:, index], there)
            counts = budget_counts(self.config, there)
            unit = F.normalize(patches[:, index], dim=-1)
            if not self.config.reference:  # in float32 the rounding of an exhausted kernel would choose
                unit, relevance = unit.double(), relevance.double()
            kernel = relevance[..., None, :] * (unit @ unit.transpose(-1, -2)) * relevance[..., :, None]
            guards = () if self.config.reference else (there, relevance)
            order = most_likely(kernel, counts, *guards)[0]
            keep[:, index], scores[:, index] = chosen(order, counts, there.shape[-1]) & there, relevance.float()
        return self.selection(prefix, KeepSet(keep, prefix.layout, scores=scores.masked_fill(~valid, 0.0), valid=valid))


def nearness(patches: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Mean cosine of each patch [B, P, D] and the words [B, T, D] that are there, [B, P]; 0 without any."""
    share = there / there.sum(-1, keepdim=True).clamp_min(1)
    cosine = F.normalize(patches, dim=-1) @ F.normalize(words, dim=-1).transpose(-1, -2)
    return (cosine * share[:, None]).sum(-1)


def scaled(x: Tensor, there: Tensor) -> Tensor:
    """x [..., P] scaled to [0, 1] over what is there; 1 where all of it is equal."""
    low = x.masked_fill(~there, torch.inf).amin(-1, keepdim=True)
    span = x.masked_fill(~there, -torch.inf).amax(-1, keepdim=True) - low
    return torch.where(span > EXHAUSTED, (x - low) / span.clamp_min(EXHAUSTED), 1.0).masked_fill(~there, 0.0)


def scaled_by_all(x: Tensor, there: Tensor) -> Tensor:
    """As published: over the whole batch, with 1e-6 in the numerator alone."""
    seen = x[there] if bool(there.any()) else x
    return (x - seen.min() + 1e-6) / (seen.max() - seen.min())


def most_likely(
    kernel: Tensor, counts: Tensor, there: Tensor | None = None, relevance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Greedy choice of the likeliest subset of a determinantal process (Chen et al. 2018), kernel [..., P, P].

    Args:
        counts: int64 [..., 1], how many each block chooses.
        there: bool [..., P], what may be chosen; None: as published, without any guard.
        relevance: float [..., P], decides when the kernel is exhausted.
    Returns:
        int64 [..., n] in the order of the choice, and float32 [..., n], the gain of each.
    """
    gain = kernel.diagonal(dim1=-2, dim2=-1).clone()
    if there is not None:
        gain = gain.masked_fill(~there, -torch.inf)
    steps = int(counts.max()) if counts.numel() else 0
    order = kernel.new_zeros((*gain.shape[:-1], steps), dtype=torch.int64)
    gains, made = kernel.new_zeros(order.shape), kernel.new_zeros((*gain.shape[:-1], steps, gain.shape[-1]))
    for step in range(steps):
        by = gain
        if relevance is not None:
            # Behind every gain that is real, the rest by relevance: below 0, above what was chosen.
            by = torch.where(gain > EXHAUSTED, gain, torch.where(gain.isinf(), gain, relevance - 2.0))
        index = by.argmax(-1, keepdim=True)
        order[..., step], best = index[..., 0], gain.gather(-1, index)
        gains[..., step] = best[..., 0]
        row = kernel.gather(-2, index[..., None].expand(*index.shape, kernel.shape[-1])).squeeze(-2)
        before = made[..., :step, :]
        row = row - (before * before.gather(-1, index[..., None, :].expand(*before.shape[:-1], 1))).sum(-2)
        if there is None:
            made[..., step, :] = row / best.sqrt()
        else:
            real = best > EXHAUSTED
            made[..., step, :] = torch.where(real, row / best.clamp_min(EXHAUSTED).sqrt(), 0.0)
        gain = (gain - made[..., step, :].square()).scatter(-1, index, -torch.inf)
    return order, gains
