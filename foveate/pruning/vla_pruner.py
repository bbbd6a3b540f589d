"""VLA-Pruner (Liu et al. 2025, arXiv 2511.16449): keep what the prompt attends to now and what actions attended to.

Understanding and acting look at different patches: the prefill's attention says which ones matter to the prompt, and
the action tokens' attention in the last frames which ones will matter to the next action. Of both together the
redundant ones go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import (
    FixedBudget,
    State,
    TokenPruner,
    blocks,
    budget_counts,
    last_of,
    patches_of,
    scaled_layer,
    top,
    words_of,
)
from foveate.pruning.divprune import chosen, distances, farthest
from foveate.pruning.fastv import attention_to_patches, needed
from foveate.pruning.inside import Attention, Inside
from foveate.types import KeepSet, Prefix, Selection
from foveate.util.checks import one_of

Asking = Literal["all", "text", "last"]
SESSION = "vla_pruner"


@dataclass(frozen=True, kw_only=True)
class VLAPruner(FixedBudget):
    """Keep patches that the prefill attends to, and those that actions attended to in the last frames."""

    layer: int | None = None
    """Backbone layer behind which patches are dropped; null: 2 of 32 as published, scaled to the depth."""
    actions_layer: int | None = None
    """Layer whose attention of the actions is remembered; null: 15 of 32 as published, scaled to the depth."""
    window: int = 3
    """Frames that are remembered."""
    decay: float = 0.8
    """Weight of a frame beside the one after it, in (0, 1]."""
    asking: Asking = "all"
    """Whose attention counts in the prefill: of all tokens (published), of the words, or of the last token."""
    reference: bool = False
    """The published code's numbers: the oldest frame weighs most, nothing is dropped until the window is full."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("VLAPruner asking", self.asking, get_args(Asking))
        if self.window < 1 or not 0 < self.decay <= 1:
            raise FoveateError(
                f"VLAPruner: expected a window of at least 1 and a decay in (0, 1], got {self.window} and {self.decay}"
            )

    def build(self) -> VLAPrunerPruner:
        return VLAPrunerPruner(self)


class VLAPrunerPruner(TokenPruner):
    """Per view: the budget's best patches by attention in this prefill, joined with as many by the remembered attention
    of actions; if these are more than the budget, those that are farthest apart (DivPrune's choice, on the embeddings).

    The newest frame weighs most, frame by frame less by `decay`. A patch is weighed over those frames alone in which it
    was not dropped: a dropped patch got no attention, which says nothing about it. Where nothing is remembered, as in
    an episode's first frame, this prefill alone decides, so that the budget is met from the first frame on.

    Published for actions that are decoded one by one; here they are the action tokens of OpenVLA-OFT's sequence, and of
    π0 those of the last Euler step.

    `reference`: weights run the other way, dropped patches count as 0 (what was dropped tends to stay dropped), the
    guide is rounded to bfloat16, shares round half to even over all views, and nothing is dropped before the window is
    full.
    """

    looks_at = frozenset({"attention"})
    late = True
    has_history = True

    def __init__(self, config: VLAPruner) -> None:
        super().__init__()
        self.config = config

    def layers(self, depth: int) -> tuple[int, ...]:
        return (scaled_layer(2, depth) if self.config.layer is None else self.config.layer,)

    def action_layer(self, depth: int) -> int | None:
        first = self.layers(depth)[0] + 1  # behind the layer that prunes, as published
        if self.config.actions_layer is None:
            return max(scaled_layer(15, depth), min(depth - 1, first))
        if self.config.actions_layer < first:
            raise FoveateError(
                f"VLAPruner: actions_layer {self.config.actions_layer} is not behind {first - 1}, which prunes"
            )
        return self.config.actions_layer

    @torch.no_grad()
    def select(
        self,
        prefix: Prefix,
        queries: Tensor | None = None,
        *,
        state: Sequence[State] | None = None,
        inside: Inside | None = None,
        **_: Any,
    ) -> Selection:
        valid, attention = self.valid_patches(prefix), needed(self, inside)
        if state is None:
            raise FoveateError("VLAPruner chooses by earlier frames: pass each sample's session")
        assert inside is not None
        scores = self._scores(prefix, attention)
        frames = [session.get(SESSION, []) for session in state]
        guides = [guide_of(remembered, self.config) for remembered in frames]
        known = torch.tensor([guide is not None for guide in guides], device=valid.device)
        guide = torch.stack([scores.new_zeros(scores.shape[1]) if g is None else g.float() for g in guides])
        embeds = patches_of(prefix if inside.whole is None else inside.whole).float()
        keep, reference = torch.zeros_like(valid), self.config.reference
        for index in blocks(prefix.layout, "joint" if reference else "view", valid.device):
            there = valid[:, index]
            counts = budget_counts(self.config.rounded if reference else self.config, there)
            both = top(scores[:, index], there, counts)
            both |= top(guide[:, index], there & known[:, None, None], counts)
            order = farthest(distances(embeds[:, index], safe=not reference), both, counts, again=reference)[0]
            spread = chosen(order, counts, there.shape[-1]) & both
            keep[:, index] = torch.where(both.sum(-1, keepdim=True) > counts, spread, both)
        if reference:
            full = torch.tensor([len(remembered) >= self.config.window for remembered in frames], device=valid.device)
            keep = torch.where(full[:, None], keep, valid)
        history = {
            "guide": guide,
            "frames": torch.tensor([len(remembered) for remembered in frames], device=valid.device),
        }
        choice = KeepSet(keep, prefix.layout, scores.masked_fill(~valid, 0.0), valid, history=history)
        return self.selection(prefix, choice)

    def remember(self, received: Tensor, state: Sequence[State]) -> None:
        for row, session in zip(received, state, strict=True):
            session[SESSION] = [*session.get(SESSION, []), row.float()][-self.config.window :]

    def _scores(self, prefix: Prefix, attention: Attention) -> Tensor:
        if self.config.asking == "all":
            batch, slots = prefix.mask.shape
            return attention_to_patches(
                prefix, attention, torch.arange(slots, device=prefix.mask.device).expand(batch, -1), prefix.mask
            )
        if self.config.asking == "text":
            return attention_to_patches(prefix, attention, *words_of(prefix))
        last = last_of(prefix)
        return attention_to_patches(prefix, attention, last, torch.ones_like(last, dtype=torch.bool))


def guide_of(frames: Sequence[Tensor], config: VLAPruner) -> Tensor | None:
    """float32 [P]: the smoothed attention of actions, out of frames [P], the oldest first; None: of none."""
    if not frames or (config.reference and len(frames) < config.window):
        return None
    newest_first = torch.stack([*reversed(frames)])
    powers = torch.arange(len(frames), device=newest_first.device)
    weights = config.decay ** (powers.flip(0) if config.reference else powers).float()
    total = (weights[:, None] * newest_first).sum(0)
    if config.reference:
        return (total / total.sum()).bfloat16()
    # The attention of a patch that was seen is never exactly 0 in a softmax.
    seen = (weights[:, None] * (newest_first > 0)).sum(0)
    return total / seen.clamp_min(torch.finfo(seen.dtype).tiny)
