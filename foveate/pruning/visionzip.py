"""VisionZip (Yang et al. 2024, arXiv 2412.04467): keep what the vision tower looks at, merge the rest.

The tower already gathers a picture in a few dominant patches; they stay. The others are merged by likeness into a few
contextual tokens, so that nothing is lost altogether. No text takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import FixedBudget, TokenPruner, blocks, budget_counts, patches_of, top, with_patches
from foveate.pruning.inside import Inside
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class VisionZip(FixedBudget):
    """Keep the patches that the vision tower looks at most, and merge the others into a few."""

    contextual: float = 10 / 64
    """Share of the budget that merged tokens take, in [0, 1); published: 10 of 64."""
    reference: bool = False
    """The published code's numbers: merged tokens are a patch plus a mean, and the last patches are never targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.contextual < 1:
            raise FoveateError(f"VisionZip: contextual must lie in [0, 1), got {self.contextual}; 0 merges nothing")

    def build(self) -> VisionZipPruner:
        return VisionZipPruner(self)


class VisionZipPruner(TokenPruner):
    """Per view: the patches that receive the most attention in the tower's last layer stay; of the rest, evenly spread
    targets take in the others, each the ones whose keys in that layer are nearest (cosine).

    Attention is the class token's where the tower has one (OpenVLA-OFT's DINOv2), as published with CLIP. SigLIP (π0)
    has none: there it is what a patch receives from all patches on average, as the paper proposes.

    A merged token is the mean of target and joined patches, and stands at the target. Patches are merged behind the
    projector: the same as before it where that is linear (π0), and not quite where it is an MLP. `reference`: target
    plus the mean of what joined, about twice as large as a token, and targets every n // contextual patches of the n
    that are left. The class token itself, which the published code keeps too, reaches no policy.
    """

    looks_at = frozenset({"tower"})
    whole_views = True
    within_budget = True

    def __init__(self, config: VisionZip) -> None:
        super().__init__()
        self.config = config

    def select(
        self, prefix: Prefix, queries: Tensor | None = None, *, inside: Inside | None = None, **_: Any
    ) -> Selection:
        valid, tower = self.valid_patches(prefix), None if inside is None else inside.tower
        if tower is None:
            if bool(valid.any()):
                raise FoveateError(
                    "VisionZip: needs the attention of the vision tower, and nothing shows it here; divprune reads "
                    "patches alone"
                )
            return self.selection(prefix, KeepSet(valid, prefix.layout, valid=valid))
        keep, patches, reference = torch.zeros_like(valid), patches_of(prefix), self.config.reference
        sources, merged = torch.full_like(valid, -1, dtype=torch.int64), patches.clone()
        for index in blocks(prefix.layout, "view", valid.device):
            there = valid[:, index]
            counts = budget_counts(self.config, there)
            targets = (counts * self.config.contextual).round().long()
            targets = torch.where(counts < there.sum(-1, keepdim=True), targets, 0)
            with torch.no_grad():
                seen = tower.received[:, index], tower.keys[:, index], there
                zipped = choose(*seen, counts - targets, targets, reference)
            keep[:, index] = zipped.dominant | zipped.targets
            sources[:, index] = torch.where(zipped.joins >= 0, index[:, :1] + zipped.joins, -1)
            merged[:, index] = merge(patches[:, index], zipped, reference)
        choice = KeepSet(keep, prefix.layout, tower.received.masked_fill(~valid, 0.0), valid, sources=sources)
        return self.selection(prefix, choice, embeds=with_patches(prefix, merged, keep))


class Zipped(NamedTuple):
    """A choice among blocks of P patches."""

    dominant: Tensor
    """bool [..., P]."""
    targets: Tensor
    """bool [..., P]."""
    joins: Tensor
    """int64 [..., P]: the target that a patch joins, -1 for none."""


def choose(received: Tensor, keys: Tensor, there: Tensor, counts: Tensor, targets: Tensor, reference: bool) -> Zipped:
    """Dominant patches by attention, targets evenly among the rest, and who joins which.

    Args:
        received: [..., P].
        keys: [..., P, K].
        counts: int64 [..., 1], dominant patches.
        targets: int64 [..., 1], at most what they leave.
    """
    dominant = top(received, there, counts)
    rest = there & ~dominant
    left = rest.sum(-1, keepdim=True)
    order = torch.argsort(~rest, dim=-1, stable=True)  # the rest first, ascending
    i = torch.arange(int(targets.max()) if targets.numel() else 0, device=keys.device)
    many = targets.clamp_min(1)
    # The cells nearest the centres of equal parts, as `centres` has them; published: every n-th from the first on.
    ranks = i * (left // many).clamp_min(1) if reference else ((2 * i + 1) * left + 2 * many - 1) // (2 * many) - 1
    places = order.gather(-1, ranks.clamp(0, there.shape[-1] - 1))
    used = i < targets
    marked = torch.zeros_like(order).scatter_add(-1, places, used.long()) > 0
    unit = F.normalize(keys.float(), dim=-1)
    likeness = unit @ unit.gather(-2, places[..., None].expand(*places.shape, unit.shape[-1])).transpose(-1, -2)
    if not len(i):
        return Zipped(dominant, marked, torch.full_like(order, -1))
    nearest = likeness.masked_fill(~used[..., None, :], -torch.inf).argmax(-1)
    joins = torch.where(rest & ~marked & (targets > 0), places.gather(-1, nearest), -1)
    return Zipped(dominant, marked, joins)


def merge(patches: Tensor, zipped: Zipped, reference: bool) -> Tensor:
    """Patches [..., P, D] with the targets in place of what they took in."""
    joined = (zipped.joins >= 0)[..., None]
    place = zipped.joins.clamp_min(0)[..., None].expand_as(patches)
    total = torch.zeros_like(patches).scatter_add(-2, place, patches * joined)
    count = torch.zeros_like(total[..., :1]).scatter_add(-2, place[..., :1], joined.to(total.dtype))
    if reference:
        changed = patches + total / count.clamp_min(1)
    else:
        changed = (patches + total) / (count + 1)
    return torch.where((count > 0) & zipped.targets[..., None], changed, patches)
