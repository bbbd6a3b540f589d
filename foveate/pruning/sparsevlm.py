"""SparseVLM (Zhang et al. 2024, arXiv 2410.04417): words that speak of the picture rate patches, in several stages.

Words whose embeddings match the picture are raters; behind a few backbone layers the patches that they attend to stay,
and the best of the dropped are not lost but merged into a few tokens by likeness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import (
    FixedBudget,
    TokenPruner,
    at,
    blocks,
    find_patches,
    keep_tokens,
    patches_of,
    scaled_layer,
    top,
    with_patches,
    words_of,
)
from foveate.pruning.fastv import attention_to_patches, needed
from foveate.pruning.inside import Attention, Inside
from foveate.types import KeepSet, Prefix, Selection
from foveate.util.checks import one_of

Version = Literal["1.0", "2.0"]
STAGES = (2, 6, 15)
"""Layers of 32 behind which patches are dropped, as published."""
HEADS = 14
"""Of 32, that rate in version 2.0."""


@dataclass(frozen=True, kw_only=True)
class SparseVLM(FixedBudget):
    """Let the words that speak of the picture rate patches behind several layers; merge the best of the dropped."""

    layers: tuple[int, ...] | None = None
    """Backbone layers behind which patches are dropped; null: 2, 6, 15 of 32 as published, scaled to the depth."""
    budgets: tuple[int, ...] | None = None
    """Tokens left behind each layer, of all views; null: equal factors down to the budget, per view."""
    version: Version = "1.0"
    """`2.0` (SparseVLM+) rates with attention freed of its rotary decay, by 14 of 32 heads, and merges nothing."""
    reference: bool = False
    """The published code's numbers: views compete, merged tokens exceed the budget, noise breaks ties."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("SparseVLM version", self.version, get_args(Version))
        if self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise FoveateError(f"SparseVLM: layers must ascend, each once, got {list(self.layers)}")
        if self.budgets is not None:
            if self.layers is None or len(self.budgets) != len(self.layers):
                raise FoveateError(
                    f"SparseVLM: budgets {list(self.budgets)} need one layer each; set layers to as many"
                )
            if min(self.budgets) < 1 or list(self.budgets) != sorted(self.budgets, reverse=True):
                raise FoveateError(f"SparseVLM: budgets must fall and be at least 1, got {list(self.budgets)}")

    def build(self) -> SparseVLMPruner:
        return SparseVLMPruner(self)


class SparseVLMPruner(TokenPruner):
    """Raters are the words whose share in the softmax over words of (patch . word), mean over patches, is above the
    mean of all words; chosen once, on the input embeddings, in every row for itself. A patch's score is the raters'
    attention, mean over heads and raters. Where no word is above the mean (a single one), all words rate.

    The budget is what is left behind the last layer, per view, merged tokens included; behind the layers before it
    tokens fall by equal factors. Of the dropped patches three in ten, the best, are clustered around density peaks,
    one for ten of them; a merged token is its cluster's mean and stands at the peak, with its position id.

    `reference`: `budgets` count kept patches of all views and merged tokens come on top; at least one patch goes at
    every stage; a mean divides by the count + 1e-6; merged tokens stand behind the kept ones and position ids are
    counted anew (1.0). Ties of density are many, and uniform noise of 1e-6 decides them there; here the first patch
    wins, in both modes.
    """

    looks_at = frozenset({"attention"})
    late = True

    def __init__(self, config: SparseVLM) -> None:
        super().__init__()
        self.config = config

    def layers(self, depth: int) -> tuple[int, ...]:
        if self.config.layers is not None:
            return self.config.layers
        return tuple(dict.fromkeys(scaled_layer(layer, depth) for layer in STAGES))

    def select(
        self, prefix: Prefix, queries: Tensor | None = None, *, inside: Inside | None = None, **_: Any
    ) -> Selection:
        attention, config = needed(self, inside), self.config
        assert inside is not None
        valid, patches = self.valid_patches(prefix), patches_of(prefix)
        stage = inside.seen["stage"] = inside.seen.get("stage", -1) + 1
        with torch.no_grad():
            if stage == 0:
                inside.seen.update(raters=raters(inside.whole or prefix), there=valid)
            scores = self._scores(prefix, attention, inside.seen["raters"])
        keep, sources = torch.zeros_like(valid), torch.full_like(valid, -1, dtype=torch.int64)
        changed, merged = patches.clone(), torch.zeros_like(valid)
        groups = blocks(prefix.layout, "joint" if config.reference else "view", valid.device)
        for row in range(len(valid)):
            for index in (index for group in groups for index in group):
                here = index[valid[row, index]]
                if not len(here):
                    continue
                left = self._left(stage, int(inside.seen["there"][row, index].sum()), len(inside.layers))
                with torch.no_grad():
                    found = recycle(scores[row, here], patches[row, here].float(), *self._shares(len(here), left))
                keep[row, here[found.kept]] = True
                for number, peak in enumerate(found.peaks.tolist()):
                    members = found.members[found.cluster == number]
                    centre = here[found.members[peak]]
                    count = len(members) + (1e-6 if config.reference else 0)
                    changed[row, centre] = patches[row, here[members]].sum(0) / count
                    merged[row, centre] = True
                    sources[row, here[members]] = centre
        sources = sources.masked_fill(merged, -1)
        choice = KeepSet(keep | merged, prefix.layout, scores.masked_fill(~valid, 0.0), valid, sources=sources)
        positions = _behind(prefix, keep, merged) if config.reference and config.version == "1.0" else None
        return self.selection(prefix, choice, embeds=with_patches(prefix, changed, merged), position_ids=positions)

    def _scores(self, prefix: Prefix, attention: Attention, rating: Tensor) -> Tensor:
        slots, there = words_of(prefix)
        rating = rating & there
        if not self.config.reference:
            rating = torch.where(rating.any(-1, keepdim=True), rating, there)
        if self.config.version == "1.0":
            return attention_to_patches(prefix, attention, slots, rating)
        freed = Undecayed(attention, prefix.position_ids, safe=not self.config.reference)
        rows, (places, present) = freed.rows(slots), find_patches(prefix)
        seen = rows.gather(-1, places[:, None, None].expand(-1, *rows.shape[1:3], -1))
        of_head = torch.einsum("bhrp,br,bp->bh", seen, rating.float(), present.float())
        count = min(HEADS, rows.shape[1]) if self.config.reference else max(1, rows.shape[1] * HEADS // 32)
        best = top(of_head, torch.ones_like(of_head, dtype=torch.bool), count)
        return attention_to_patches(prefix, freed, slots, rating, best / count)

    def _left(self, stage: int, patches: int, depth: int) -> int:
        """Tokens of a block of so many patches that are left behind a stage."""
        if self.config.budgets is not None:
            return self.config.budgets[stage]
        last, stages = self.config.of(patches), len(self.layers(depth))
        return last if stage + 1 >= stages else math.ceil(patches * (last / patches) ** ((stage + 1) / stages) - 1e-9)

    def _shares(self, patches: int, left: int) -> tuple[int, int, int]:
        """How many patches stay, how many of the dropped are clustered, and around how many peaks."""
        if self.config.reference:
            stay = min(left, patches - 1)
            candidates = int(0.3 * (patches - stay)) + 1
            return (stay, candidates, candidates // 10 + 1) if self.config.version == "1.0" else (stay, 0, 0)
        if left >= patches or self.config.version == "2.0":
            return min(left, patches), 0, 0
        candidates = int(0.3 * (patches - left)) + 1
        peaks = candidates // 10 + 1
        return (left - peaks, candidates, peaks) if peaks < left else (left, 0, 0)


def raters(prefix: Prefix) -> Tensor:
    """bool [B, T], over the words behind the pictures: those that speak of the picture."""
    share = rater_scores(prefix)
    there = words_of(prefix)[1]
    mean = share.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp_min(1)
    return there & (share > mean)


def rater_scores(prefix: Prefix) -> Tensor:
    """float32 [B, T]: each word's share in the softmax over words of (patch . word), mean over the patches."""
    slots, there = words_of(prefix)
    patches, present = patches_of(prefix).float(), find_patches(prefix)[1]
    match = (patches @ at(prefix.embeds, slots).float().transpose(-1, -2)).masked_fill(~there[:, None], -torch.inf)
    weight = present / present.sum(-1, keepdim=True).clamp_min(1)
    return (match.softmax(-1).nan_to_num() * weight[..., None]).sum(1)


class Recycled(NamedTuple):
    """What becomes of one block of patches."""

    kept: Tensor
    """int64 [k], ascending."""
    members: Tensor
    """int64 [m]: the dropped patches that are merged, best first."""
    peaks: Tensor
    """int64 [c], into `members`."""
    cluster: Tensor
    """int64 [m], into `peaks`."""


def recycle(scores: Tensor, x: Tensor, stay: int, candidates: int, peaks: int) -> Recycled:
    """The best patches of scores [P], and the next best clustered by likeness of x [P, D]."""
    order = scores.argsort(descending=True, stable=True)
    members = order[stay : stay + candidates]
    if not peaks:
        none = order[:0]
        return Recycled(order[:stay].sort().values, none, none, none)
    distance = torch.cdist(x[members], x[members]) / math.sqrt(x.shape[-1])
    density = density_of(distance, peaks)
    return Recycled(order[:stay].sort().values, members, *density_peaks(distance, density, peaks))


def density_of(distance: Tensor, neighbours: int) -> Tensor:
    """exp(-mean of the squared distances [m, m] to the nearest, itself included), [m]."""
    nearest = distance.topk(min(neighbours, len(distance)), largest=False).values
    return (-nearest.square().mean(-1)).exp()


def density_peaks(distance: Tensor, density: Tensor, peaks: int) -> tuple[Tensor, Tensor]:
    """Clustering by density peaks (Rodriguez and Laio 2014; Du et al. 2016): indices [c] of the peaks, and to which of
    them each point [m] belongs.

    A peak is dense, and far from any point that is denser.
    """
    denser = density[None] > density[:, None]
    apart = distance.masked_fill(~denser, torch.inf).amin(-1)
    apart = torch.where(denser.any(-1), apart, distance.max())
    found = (apart * density).argsort(descending=True, stable=True)[:peaks]
    cluster = distance[found].argmin(0)
    return found, cluster.scatter(0, found, torch.arange(len(found), device=found.device))


@dataclass(frozen=True)
class Undecayed:
    """Attention divided by the mean rotary term of a vector of ones, which falls with distance (version 2.0)."""

    attention: Attention
    position_ids: Tensor
    safe: bool
    """Divide by a tenth of the term at distance 0 at least: in narrow heads the term crosses zero."""

    @property
    def keys(self) -> Tensor:
        return self.attention.keys

    def rows(self, slots: Tensor | None = None) -> Tensor:
        own = self.position_ids if slots is None else self.position_ids.gather(1, slots)
        term = rotary_term(own[..., None] - self.position_ids[:, None], self.keys.shape[-1])
        term = term.clamp_min(0.1 * math.sqrt(self.keys.shape[-1])) if self.safe else term
        return self.attention.rows(slots) / term[:, None]


def rotary_term(distance: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """2 / sqrt(d) * sum over frequencies of cos(distance * frequency), float32, of the shape of `distance`."""
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float32, device=distance.device) / width)
    return (distance[..., None] * frequency).cos().sum(-1) * 2 / math.sqrt(width)


def _behind(prefix: Prefix, keep: Tensor, merged: Tensor) -> Tensor:
    """Position ids counted anew, merged tokens behind the kept patches."""
    mask = prefix.mask & keep_tokens(prefix, keep | merged)
    slots, there = find_patches(prefix)
    last = slots.masked_fill(~there, -1).amax(1, keepdim=True)
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    is_merged = torch.zeros_like(mask)
    row, patch = (merged & there).nonzero(as_tuple=True)
    is_merged[row, slots[row, patch]] = True
    # Kept patches and what is before them, then merged ones, then what stands behind.
    order = (2 * (place > last).long() + is_merged.long()) * mask.shape[1] + place
    order = order.masked_fill(~mask, torch.iinfo(torch.int64).max)
    return order.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
