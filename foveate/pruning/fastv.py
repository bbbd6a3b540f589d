"""FastV (Chen et al. 2024, arXiv 2403.06764): behind an early layer, keep the patches that the prompt attends to.

Deep layers hardly look at most patches; which ones they will look at shows in an early layer's attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import (
    FixedBudget,
    TokenPruner,
    budget_counts,
    find_patches,
    keep_top,
    last_of,
    scaled_layer,
    top,
    words_of,
)
from foveate.pruning.inside import Attention, Inside
from foveate.types import KeepSet, Prefix, Selection
from foveate.util.checks import one_of

Asking = Literal["text", "task", "last"]


@dataclass(frozen=True, kw_only=True)
class FastV(FixedBudget):
    """Keep the patches that the prompt attends to most in an early backbone layer."""

    layer: int | None = None
    """Backbone layer behind which patches are dropped; null: 1 of 32 as published, in proportion to the depth."""
    asking: Asking = "text"
    """Whose attention counts: the words', that of all behind the pictures, or of the last token (published)."""
    reference: bool = False
    """The published code's numbers: the last token asks, and patches of all views compete."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("FastV asking", self.asking, get_args(Asking))

    def build(self) -> FastVPruner:
        return FastVPruner(self)


class FastVPruner(TokenPruner):
    """Per view, the patches of the largest mean attention over heads and asking tokens; of equals the first.

    Published for causal decoders, where the last token is the only one that has seen everything and the one that
    answers. In the policies here every token of the prefix sees every other, so the last one is one among many: by
    default the words ask, all of them (`task` adds state and action placeholders where they stand in the sequence).
    Kept tokens keep their position ids, as published.
    """

    looks_at = frozenset({"attention"})
    late = True
    within_budget = True

    def __init__(self, config: FastV) -> None:
        super().__init__()
        self.config = config

    def layers(self, depth: int) -> tuple[int, ...]:
        return (scaled_layer(1, depth) if self.config.layer is None else self.config.layer,)

    @torch.no_grad()
    def select(
        self, prefix: Prefix, queries: Tensor | None = None, *, inside: Inside | None = None, **_: Any
    ) -> Selection:
        valid = self.valid_patches(prefix)
        attention = needed(self, inside)
        slots, there = asking_slots(prefix, "last" if self.config.reference else self.config.asking)
        scores = attention_to_patches(prefix, attention, slots, there)
        if self.config.reference:
            keep = top(scores, valid, budget_counts(self.config, valid))
        else:
            keep = keep_top(scores, valid, self.config, prefix.layout)
        return self.selection(prefix, KeepSet(keep, prefix.layout, scores=scores.masked_fill(~valid, 0.0), valid=valid))


def needed(pruner: TokenPruner, inside: Inside | None) -> Attention:
    """The attention of the layer behind which a method chooses.

    Raises:
        FoveateError: nothing shows it.
    """
    if inside is None or inside.attention is None:
        name = type(pruner).__name__.removesuffix("Pruner")
        raise FoveateError(
            f"{name}: needs the attention of a backbone layer, and nothing shows it here; choose a method that reads "
            "tokens alone (divprune, cdpruner, dart before the backbone)"
        )
    return inside.attention


def asking_slots(prefix: Prefix, asking: Asking) -> tuple[Tensor, Tensor]:
    """Slots [B, R] of the tokens that ask, and which of them are there."""
    if asking == "last":
        slots = last_of(prefix)
        return slots, torch.ones_like(slots, dtype=torch.bool)
    return words_of(prefix, ("text",) if asking == "text" else ("text", "state", "action"))


def attention_to_patches(
    prefix: Prefix, attention: Attention, slots: Tensor, there: Tensor, heads: Tensor | None = None
) -> Tensor:
    """float32 [B, P]: what patches receive from the slots [B, R] that are there, mean over heads, then over slots.

    Args:
        heads: float [B, H], weights of the heads; None: all alike.
    """
    rows = attention.rows(slots)
    weights = rows.mean(1) if heads is None else torch.einsum("bhrs,bh->brs", rows, heads)
    share = there / there.sum(-1, keepdim=True).clamp_min(1)
    received = (weights * share[..., None]).sum(1)
    places, present = find_patches(prefix)
    return received.gather(1, places).masked_fill(~present, 0.0)
