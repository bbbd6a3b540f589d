"""LightVLA (Jiang et al. 2025, "The Better You Learn, The Smarter You Prune"): keep what the instruction asks for.

Every patch looks at the instruction, asks with what it found for the patch that fits best, and the patches that
were asked for stay. How many stay is learnt, not set; a budget can be set all the same.

    task    = valid text tokens after the first image (and state, noisy actions, if configured)
    queries = rms(SDPA(rms(patches), rms(task), rms(task)))
    score   = queries @ rms(patches)^T / sqrt(D)              row = query, column = patch
    keep    = union over the rows of their argmax             ties: the first patch

Scores are float32 whatever the embeddings' type, in training as in evaluation: in bfloat16 they tie.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.common.layers import rms_norm
from foveate.pruning.base import (
    Budget,
    Evidence,
    Scope,
    State,
    TokenPruner,
    blocks,
    budget_counts,
    keep_tokens,
    patch_index,
    renumbered,
    top,
)
from foveate.types import KeepSet, Prefix, Selection, TokenLayout

Queries = Literal["text", "text+state", "text+state+action"]
TrainForm = Literal["paper", "deduplicated"]
PositionIds = Literal["original", "renumbered"]


@dataclass(frozen=True, kw_only=True)
class LightVLA(Budget):
    """Keep the patches that the instruction asks for; without a budget, as many as are asked for.

    With a budget (per view; of all views in joint scope) patches are ranked by the largest score that any query
    gives them.
    """

    min_keep: int = 0
    """Keep at least so many patches per view (in all, in joint scope), topped up by the ranking."""
    scope: Scope | None = None
    """Whether the patches of each view compete among themselves, or all views' jointly; null: jointly in a model whose
    action tokens stand in its sequence (OpenVLA-OFT, as published), per view in others."""
    queries: Queries | None = None
    """What patches look at to ask; null: all that follows the pictures in a model whose action tokens stand in its
    sequence (as published), text in others, where state and noisy actions are seen by the pruner alone."""
    train_form: TrainForm = "deduplicated"
    """`paper`: a slot per query, duplicates stay; `deduplicated`: the forward pass is evaluation's."""
    budget_in_training: bool = True
    """Whether budget and `min_keep` act in training too; openpi forks apply them in evaluation alone."""
    position_ids: PositionIds = "original"
    """Whether kept tokens keep their position ids or are counted anew."""
    store_raw_score: bool = False
    """Keep the whole score matrix in the KeepSet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"scope": Scope, "queries": Queries, "train_form": TrainForm, "position_ids": PositionIds}
        for field, choice in choices.items():
            optional = field in ("scope", "queries")
            if getattr(self, field) not in get_args(choice) and not (optional and getattr(self, field) is None):
                options = ", ".join(map(repr, get_args(choice)))
                raise FoveateError(f"LightVLA: {field} must be one of {options}, got {getattr(self, field)!r}")
        if self.min_keep != int(self.min_keep) or self.min_keep < 0:
            raise FoveateError(f"LightVLA: min_keep must be a whole number of at least 0, got {self.min_keep}")
        if self.keep_tokens is not None and self.min_keep > self.keep_tokens:
            raise FoveateError(f"LightVLA: min_keep={self.min_keep} is more than keep_tokens={self.keep_tokens}")

    def scope_in(self, layout: TokenLayout) -> Scope:
        """The scope; where it is not set, as published for such a sequence."""
        return self.scope or ("joint" if layout.tokens_of("action").size else "view")

    def queries_in(self, layout: TokenLayout) -> Queries:
        """The queries; where they are not set, as published for such a sequence."""
        return self.queries or ("text+state+action" if layout.tokens_of("action").size else "text")

    def build(self) -> LightVLAPruner:
        return LightVLAPruner(self)


class Choice(NamedTuple):
    """Scores and choice of G blocks of K patches."""

    score: Tensor
    """float32 [B, G, K, K], with noise in training; -inf in the columns of absent cameras."""
    rows: Tensor
    """bool [B, G, K]: queries that count, those of patches that are there."""
    keep: Tensor
    """bool [B, G, K]."""
    best: Tensor
    """float32 [B, G, K]: the largest score that any query gives each patch."""


class LightVLAPruner(TokenPruner):
    """See the module. In evaluation patches are dropped; in training the length and the gradient are kept.

    W = one_hot(argmax) + softmax - softmax.detach() is the straight-through matrix, V the raw patches; exploration
    noise U[0, 1) * noise_scale is added to the score before both.

    `paper`: the patch slots hold W V, one per query, with the position id and mask of the chosen patch. A patch that
    several queries chose stands there several times, which evaluation does not repeat.

    `deduplicated`: slot j holds the mean of (W V)_i over the queries i that chose patch j; patches that nobody chose
    are masked. The forward pass is evaluation's, and gradients still reach the score.

    With a budget or floor queries choose among the patches that it keeps (the softmax still runs over all, so
    that others can rise). In the deduplicated form a kept patch that no query chose takes the gradient of the query
    that scores it highest, so that here too training sees exactly what evaluation sees; in the paper form such a
    patch has no slot.

    A sample without any query token scores 0 throughout: the first patch of each block stays, or the first ones.
    """

    def __init__(self, config: LightVLA | None = None) -> None:
        super().__init__()
        self.config = config or LightVLA()
        self.queries = self.config.queries or "text"

    def select(
        self,
        prefix: Prefix,
        queries: Tensor | None = None,
        *,
        state: Sequence[State] | None = None,
        evidence: Evidence = "none",
        **_: Any,
    ) -> Selection:
        # Under autocast the score would fall to bfloat16, in training alone.
        with torch.autocast(prefix.embeds.device.type, enabled=False):
            return self._select(prefix, queries, evidence)

    def _select(self, prefix: Prefix, extra_queries: Tensor | None, evidence: Evidence) -> Selection:
        valid = self.valid_patches(prefix)
        patches = prefix.embeds[:, patch_index(prefix.layout, valid.device)]
        groups = blocks(prefix.layout, self.config.scope_in(prefix.layout), valid.device)
        task, task_mask = self._task(prefix, extra_queries)
        choices = [self._choose(patches[:, index], valid[:, index], task, task_mask) for index in groups]
        keep = self._keep_set(prefix, valid, groups, choices, evidence)
        mask = prefix.mask & keep_tokens(prefix, keep.keep_mask)
        positions = renumbered(mask) if self.config.position_ids == "renumbered" else prefix.position_ids
        if not self.training:
            return self.selection(prefix, keep, mask=mask, position_ids=positions)
        form = self._paper if self.config.train_form == "paper" else self._deduplicated
        changed = form(dataclasses.replace(prefix, mask=mask, position_ids=positions), patches, groups, choices)
        return self.selection(
            prefix,
            keep,
            mask=changed.mask,
            embeds=changed.embeds,
            position_ids=changed.position_ids,
            keeps_length=True,
        )

    def _task(self, prefix: Prefix, extra_queries: Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens that say what to look for: float32 [B, T, D], RMS-normed, and bool [B, T]."""
        kinds = self.config.queries_in(prefix.layout).split("+")
        first = prefix.layout.images[0].start if prefix.layout.images else 0
        spans = [s for s in prefix.layout.spans if s.kind in kinds and s.start >= first]
        embeds = [prefix.embeds[:, s.start : s.stop] for s in spans]
        masks = [prefix.mask[:, s.start : s.stop] for s in spans]
        if extra_queries is not None and self.queries != "text":
            embeds.append(extra_queries)
            masks.append(torch.ones(extra_queries.shape[:2], dtype=torch.bool, device=extra_queries.device))
        if not embeds:
            raise FoveateError(
                f"LightVLA: queries={self.queries!r} need text after the images; the layout has "
                f"{', '.join(f'{s.name} ({s.kind})' for s in prefix.layout.spans)}"
            )
        return rms_norm(torch.cat([e.float() for e in embeds], 1)), torch.cat(masks, 1)

    def most_of(self, patches: int, layout: TokenLayout) -> int | None:
        if not self.config.explicit or self.config.scope_in(layout) == "joint":
            return None
        return max(self.config.of(patches), min(self.config.min_keep, patches))

    def _choose(self, patches: Tensor, valid: Tensor, task: Tensor, task_mask: Tensor) -> Choice:
        """Score [B, G, K, D] patches against [B, T, D] task tokens, and choose."""
        normed = rms_norm(patches)
        # One "head" per block: blocks share the task tokens and run at once.
        asked = F.scaled_dot_product_attention(normed, task[:, None], task[:, None], task_mask[:, None, None])
        queries = rms_norm(asked.nan_to_num())
        score = queries @ normed.transpose(-2, -1) / math.sqrt(normed.shape[-1])
        # An absent camera's block is left as it is: no value of it is used, but -inf throughout would turn to NaN.
        score = score.masked_fill(~(valid | ~valid.any(-1, keepdim=True))[..., None, :], -torch.inf)
        if self.training and self.noise_scale:
            score = score + torch.rand_like(score) * self.noise_scale
        limited = not self.training or self.config.budget_in_training
        with torch.no_grad():
            best = score.masked_fill(~valid[..., None], -torch.inf).amax(-2)
            if self.config.explicit and limited:
                keep = top(best, valid, budget_counts(self.config, valid).clamp_min(self.config.min_keep))
            else:
                votes = torch.zeros_like(best).scatter_add_(-1, score.argmax(-1), valid.to(best.dtype))
                keep = votes > 0
                if self.config.min_keep and limited:
                    keep = top(
                        best.masked_fill(keep, torch.inf), valid, keep.sum(-1, True).clamp_min(self.config.min_keep)
                    )
        return Choice(score, valid, keep, best)

    def _keep_set(
        self, prefix: Prefix, valid: Tensor, groups: tuple[Tensor, ...], choices: list[Choice], evidence: Evidence
    ) -> KeepSet:
        """The choice in the layout's patch axis, detached from the graph."""
        scores = torch.zeros(valid.shape, device=valid.device)
        keep = torch.zeros_like(valid)
        for index, choice in zip(groups, choices, strict=True):
            keep[:, index] = choice.keep
            scores[:, index] = choice.best.masked_fill(~choice.rows, 0.0)
        stats = raw = None
        if evidence != "none":
            parts = [score_stats(choice) for choice in choices]
            stats = {name: torch.zeros_like(scores) for name in parts[0]}
            for index, part in zip(groups, parts, strict=True):
                for name, value in part.items():
                    stats[name][:, index] = value
        if self.config.store_raw_score or evidence == "matrix":
            raw = scores.new_full((*valid.shape, valid.shape[1]), -torch.inf)
            for index, choice in zip(groups, choices, strict=True):
                real = choice.rows[..., :, None] & choice.rows[..., None, :]
                raw[:, index[:, :, None], index[:, None, :]] = choice.score.detach().masked_fill(~real, -torch.inf)
        return KeepSet(keep, prefix.layout, scores=scores, valid=valid, score_stats=stats, raw_score=raw)

    def _paper(self, kept: Prefix, patches: Tensor, groups: tuple[Tensor, ...], choices: list[Choice]) -> Prefix:
        """One slot per query: the chosen patch with its position id and mask."""
        tokens = patch_index(kept.layout, patches.device)
        embeds, mask, positions = kept.embeds.clone(), kept.mask.clone(), kept.position_ids.clone()
        for index, choice in zip(groups, choices, strict=True):
            block, chosen = patches[:, index], choose(choice)
            hard = F.one_hot(chosen, block.shape[-2]).to(choice.score.dtype)
            soft = choice.score.softmax(-1)
            slots = tokens[index]
            embeds[:, slots] = ((hard + soft - soft.detach()).to(block.dtype) @ block).to(embeds.dtype)
            positions[:, slots] = kept.position_ids[:, slots].gather(-1, chosen)
            mask[:, slots] = choice.rows
        return dataclasses.replace(kept, embeds=embeds, mask=mask, position_ids=positions)

    def _deduplicated(self, kept: Prefix, patches: Tensor, groups: tuple[Tensor, ...], choices: list[Choice]) -> Prefix:
        """Every kept patch at its own place, with the gradient of the queries that chose it; the rest is masked."""
        tokens = patch_index(kept.layout, patches.device)
        embeds = kept.embeds.clone()
        for index, choice in zip(groups, choices, strict=True):
            block = patches[:, index]
            soft = choice.score.softmax(-1).to(block.dtype) @ block.detach()
            # Mean of the soft rows over the queries that chose each patch; else the row of its keenest query.
            weight = choice.rows[..., None].to(soft.dtype)
            where = choose(choice)[..., None].expand_as(soft)
            votes = torch.zeros_like(weight).scatter_add(-2, where[..., :1], weight)
            mean = torch.zeros_like(soft).scatter_add(-2, where, soft * weight) / votes.clamp_min(1)
            keenest = choice.score.masked_fill(~choice.rows[..., None], -torch.inf).argmax(-2)
            lone = soft.gather(-2, keenest[..., None].expand_as(soft))
            value = torch.where(votes > 0, mean, lone)
            # value - value.detach() is exactly 0: the forward pass sees the raw patch, to the last bit.
            embeds[:, tokens[index]] = block + (value - value.detach()) * choice.keep[..., None]
        return dataclasses.replace(kept, embeds=embeds)


def choose(choice: Choice) -> Tensor:
    """int64 [B, G, K]: the patch that each query chooses among those kept."""
    nothing = ~choice.keep.any(-1, keepdim=True)
    return choice.score.masked_fill(~(choice.keep | nothing)[..., None, :], -torch.inf).argmax(-1)


def score_stats(choice: Choice) -> dict[str, Tensor]:
    """Per query [B, G, K]: largest score, entropy (nats) of the softmax, and 1 where the best patch is tied; else 0."""
    score, rows = choice.score.detach(), choice.rows
    logp = score.log_softmax(-1)
    largest = score.amax(-1)
    return {
        "max_per_query": largest.masked_fill(~rows, 0.0),
        "entropy_per_query": -(logp.exp() * logp).nan_to_num(0.0).sum(-1).masked_fill(~rows, 0.0),
        "tied_per_query": ((score == largest[..., None]).sum(-1) > 1).float().masked_fill(~rows, 0.0),
    }
