"""DART (Wen et al. 2025, arXiv 2502.11494): drop duplicates, whatever their attention.

A few pivots (patches and words with large keys) each pick the patches that are least like them; what is left over is
what the pivots already say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import (
    FixedBudget,
    LooksAt,
    TokenPruner,
    at,
    blocks,
    budget_counts,
    find_patches,
    patch_index,
    top,
    words_of,
)
from foveate.pruning.inside import Inside
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class DART(FixedBudget):
    """Keep a few pivot patches, and the patches that are least like the pivots."""

    layer: int | None = None
    """Backbone layer behind which patches are dropped (published: 1); null: before the backbone, by embeddings."""
    image_pivots: int = 4
    """Patches that pick, per view."""
    text_pivots: int = 4
    """Words that pick."""
    reference: bool = False
    """The published code's numbers: views compete, counts are not the budget, and a Python set orders the pivots."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise FoveateError(
                f"DART: expected at least 1 image pivot and 0 text pivots, got {self.image_pivots} and "
                f"{self.text_pivots}"
            )

    def build(self) -> DARTPruner:
        return DARTPruner(self)


class DARTPruner(TokenPruner):
    """Per view: the pivots' own patches stay; then each pivot, patches first and in the order of their strength, takes
    its share of what is left of the budget: the free patches of the least cosine to it.

    Behind a layer, as published, strength is the L1 norm of a token's keys and likeness is of hidden states behind the
    backbone's final norm; before the backbone both are of the embeddings. Shares are even, the first pivots taking
    what does not divide, so that the budget is met; with fewer words than text pivots, or a budget below the image
    pivots, there are fewer pivots.

    `reference`: all views compete, every pivot takes budget // pivots patches (pivot patches come on top, so that 8
    keep 12), all that stands behind the pictures may be a text pivot, and pivots pick in the iteration order of a
    CPython set of their positions, which depends on where in the sequence the pictures start.
    """

    def __init__(self, config: DART) -> None:
        super().__init__()
        self.config, self.layer = config, config.layer
        self.within_budget = not config.reference

    @property
    def looks_at(self) -> frozenset[LooksAt]:  # type: ignore[override]
        return frozenset({"attention"}) if self.late else frozenset()

    @torch.no_grad()
    def select(
        self, prefix: Prefix, queries: Tensor | None = None, *, inside: Inside | None = None, **_: Any
    ) -> Selection:
        valid = self.valid_patches(prefix)
        states, strength = self._states(prefix, inside)
        slots, _there = find_patches(prefix)
        words, words_there = words_of(prefix, ("text", "state", "action") if self.config.reference else ("text",))
        patches = (at(states, slots), strength.gather(1, slots))
        text = (at(states, words), strength.gather(1, words), words_there)
        keep = torch.zeros_like(valid)
        if self.config.reference:
            keep = self._as_published(prefix, valid, patches, text)
        else:
            for index in blocks(prefix.layout, "view", valid.device):
                counts = budget_counts(self.config, valid[:, index])
                block = (patches[0][:, index], patches[1][:, index], valid[:, index])
                keep[:, index] = self._pick(*block, *text, counts)
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))

    def _states(self, prefix: Prefix, inside: Inside | None) -> tuple[Tensor, Tensor]:
        """What likeness is taken of, [B, N, D], and the strength of each slot [B, N]; float32."""
        if self.layer is None:
            return prefix.embeds.float(), prefix.embeds.float().abs().sum(-1)
        if inside is None or inside.attention is None or inside.norm is None:
            raise FoveateError(
                "DART: layer needs the keys of that layer, and nothing shows them here; leave layer out to choose by "
                "embeddings, before the backbone"
            )
        return inside.norm(prefix.embeds).float(), inside.attention.keys.float().abs().sum((1, 3))

    def _pick(
        self, x: Tensor, strength: Tensor, there: Tensor, words: Tensor, loud: Tensor, real: Tensor, counts: Tensor
    ) -> Tensor:
        """bool [B, G, P] out of patches x [B, G, P, D] and words [B, T, D], both with strength and what is there."""
        config = self.config
        first = min(config.image_pivots, there.shape[-1])
        keep = top(strength, there, counts.clamp_max(first))
        pivots = strength.masked_fill(~keep, -torch.inf).topk(first, -1).indices
        image = x.gather(-2, pivots[..., None].expand(*pivots.shape, x.shape[-1]))
        used = torch.arange(first, device=x.device) < counts.clamp_max(first)
        loudest = loud.masked_fill(~real, -torch.inf).topk(min(config.text_pivots, loud.shape[-1]), -1).indices
        text, heard = at(words, loudest), real.gather(1, loudest)
        groups = x.shape[1]
        asking = torch.cat((image, text[:, None].expand(-1, groups, -1, -1)), -2)
        live = torch.cat((used & there.any(-1, keepdim=True), heard[:, None].expand(-1, groups, -1)), -1)
        cosine = F.normalize(asking, dim=-1) @ F.normalize(x, dim=-1).transpose(-1, -2)
        left, many = counts - keep.sum(-1, keepdim=True), live.sum(-1, keepdim=True).clamp_min(1)
        share = left // many + (live.cumsum(-1) <= left % many)
        for pivot in range(asking.shape[-2]):
            wanted = torch.where(live[..., pivot], share[..., pivot], 0)[..., None]
            keep = keep | top(-cosine[..., pivot, :], there & ~keep, wanted)
        return keep

    def _as_published(
        self, prefix: Prefix, valid: Tensor, patches: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        config, keep = self.config, torch.zeros_like(valid)
        places = patch_index(prefix.layout, valid.device).tolist()
        for row in range(len(valid)):
            here, real = valid[row].nonzero().squeeze(-1), text[2][row].nonzero().squeeze(-1)
            if not len(here):
                continue
            pivots, ratio = config.image_pivots + config.text_pivots, config.keep_ratio
            wanted = min(config.keep_tokens or 0, len(here) - config.image_pivots)
            # There the share that goes is given: of 80 patches 1 - 0.9 leaves 7.999..., so that eight pivots take none.
            each = wanted // pivots if ratio is None else int(len(here) * (1 - (1 - ratio)) / pivots)
            if len(real) < config.text_pivots:
                raise FoveateError(
                    f"DART: reference takes {config.text_pivots} text pivots, and a prompt has {len(real)} words"
                )
            own = here[patches[1][row, here].topk(config.image_pivots).indices]
            said = real[text[1][row, real].topk(config.text_pivots).indices]
            by_place = {places[i]: patches[0][row, i] for i in own.tolist()}
            behind = prefix.layout.images[-1].stop
            by_place |= {behind + i: text[0][row, i] for i in said.tolist()}
            keep[row, own] = True
            for place in pivot_order(list(by_place)):
                cosine = F.normalize(patches[0][row], dim=-1) @ F.normalize(by_place[place], dim=-1)
                keep[row] |= top(-cosine, valid[row] & ~keep[row], each)
        return keep


def pivot_order(places: list[int]) -> list[int]:
    """The order in which the published code's pivots pick: that of a CPython set of their positions."""
    return list(set(places))
