"""What every pruning method shares: score -> KeepSet -> Selection.

A method decides which patches survive, and packs nothing: that is the engine's, which knows what lengths it can run.
Everything else stands here once: budgets, ranking with ties, blocks of patches that compete with each other,
position ids, statistics. It knows prefixes and layouts alone: no model, no checkpoint, no clock.

Shapes: B batch, N tokens, D width, P patches of all views, G blocks (views, usually), K patches of one block.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.types import KeepSet, Prefix, Selection, Span, SpanKind, TokenLayout
from foveate.util.checks import number

if TYPE_CHECKING:
    from foveate.pruning.inside import Inside

Scope = Literal["view", "joint"]
Evidence = Literal["none", "scores", "matrix"]
"""What a method leaves beside its choice: nothing, light statistics of its scores, or the whole score matrix too."""
LooksAt = Literal["attention", "tower"]
State = MutableMapping[str, Any]
"""What a method with a history remembers of one session; empty at its beginning."""
ROBOT_STATE = "robot_state"
"""Where a policy puts what the robot's state is now, part by part: name -> float32 [dim], in the robot's units."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many patches to keep: a number or a share, never both."""

    keep_tokens: int | None = None
    """Patches to keep, per view."""
    keep_ratio: float | None = None
    """Share of patches to keep, in (0, 1], rounded up per view."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.keep_tokens is not None and self.keep_ratio is not None:
            raise FoveateError(
                f"{name}: keep_tokens={self.keep_tokens} and keep_ratio={self.keep_ratio} are both set; give one"
            )
        if self.keep_tokens is not None and (self.keep_tokens != int(self.keep_tokens) or self.keep_tokens < 1):
            raise FoveateError(f"{name}: keep_tokens must be a whole number of at least 1, got {self.keep_tokens}")
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise FoveateError(f"{name}: keep_ratio must lie in (0, 1], got {self.keep_ratio}; 0.25 keeps a quarter")

    @property
    def explicit(self) -> bool:
        """Whether a budget is set at all."""
        return self.keep_tokens is not None or self.keep_ratio is not None

    def of(self, patches: int) -> int:
        """How many of so many patches to keep."""
        if self.keep_tokens is not None:
            return min(self.keep_tokens, patches)
        # 0.07 * 100 is 7.000000000000001 in binary and must not become 8.
        return patches if self.keep_ratio is None else math.ceil(self.keep_ratio * patches - 1e-9)

    def rounded(self, patches: int) -> int:
        """The same with a share rounded half to even and no upper limit, as most published code has it."""
        return round(self.keep_ratio * patches) if self.keep_tokens is None and self.keep_ratio else self.of(patches)


@dataclass(frozen=True, kw_only=True)
class FixedBudget(Budget):
    """A budget that a method cannot do without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.explicit:
            raise FoveateError(f"{type(self).__name__}: no budget; set keep_ratio (as 0.25) or keep_tokens (as 16)")


class TokenPruner(nn.Module, ABC):
    """A method without parameters: chooses among the patches of a prefix, and drops nothing itself.

    Subclasses implement `select`, with `valid_patches`, a choice, and `selection`.
    """

    queries: str = "text"
    """What the method wants to be asked with; a model passes the embeddings that the prefix lacks."""
    enabled: bool = True
    """False where the method never drops a patch."""
    layer: int | None = None
    """Backbone layer behind which the method works, on hidden states; None: before the backbone."""
    looks_at: frozenset[LooksAt] = frozenset()
    """What of the model's inside the method needs: attention of the layer behind which it works, or of the tower's."""
    has_history: bool = False
    """Whether `select` needs the session's state."""
    within_budget: bool = False
    """Whether the budget, per view, is never exceeded."""
    whole_views: bool = False
    """Whether the method reads a view as a picture of which every patch is there."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_scale: float | None = None
        self._last: KeepSet | None = None
        self._last_dropped = False

    @abstractmethod
    def select(
        self,
        prefix: Prefix,
        queries: Tensor | None = None,
        *,
        state: Sequence[State] | None = None,
        evidence: Evidence = "none",
        inside: Inside | None = None,
    ) -> Selection:
        """Choose what survives of one batch.

        Args:
            prefix: embedded tokens, not yet packed; of a method with a `layer`, hidden states, packed or not.
            queries: [B, T, D], further tokens that the pruner alone may look at (state, noisy actions).
            state: of each sample's session, to read and to write; None: the samples belong to no session.
            evidence: what else the KeepSet shall hold, which the untraced path does not pay for.
            inside: what the model shows of itself; None: nothing.
        """

    def begin(self, width: int) -> None:
        """Make the weights of a method that has some, where it has none yet.

        Args:
            width: of the prefix's tokens.
        """

    def load(self, folder: Path) -> None:
        """Read a method's own weights from a policy folder, where it is to have some and has none yet.

        Raises:
            FoveateError: they are not there, or those of another network.
        """

    def save(self, folder: Path) -> None:
        """Write a method's own weights into a policy folder; others write nothing."""

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers of a backbone of so many behind which the method chooses; empty: it does so before the backbone."""
        return () if self.layer is None else (self.layer,)

    def skipped(self, depth: int, layout: TokenLayout, flops: Callable[[Sequence[int]], float]) -> frozenset[int]:
        """Layers of a backbone of so many that do not run at all.

        Args:
            flops: of prefill and decoding, out of the tokens that each layer sees; 0 for one that does not run.
        """
        return frozenset()

    def action_layer(self, depth: int) -> int | None:
        """The layer whose attention from actions to patches `remember` is told; None: the method does not ask."""
        return None

    def remember(self, received: Tensor, state: Sequence[State]) -> None:
        """Take in where an inference's actions looked.

        Args:
            received: float32 [B, P], mean over heads and actions; 0 where dropped or absent.
            state: of each sample's session.
        """

    @property
    def looks_inside(self) -> bool:
        """Whether layers must run as written, since the method sees into them or leaves some out."""
        return bool(self.looks_at)

    @property
    def late(self) -> bool:
        """Whether the method works between backbone layers."""
        return self.layer is not None

    def set_noise_scale(self, scale: float | None) -> None:
        """Exploration noise of a method that explores in training; None: no noise. Others ignore it.

        Raises:
            FoveateError: the scale is no finite number of at least 0.
        """
        self.noise_scale = None if scale is None else number("noise scale", scale, 0)

    def stats(self) -> dict[str, Any]:
        """Of the last call: `enabled`, `noise_scale`, kept patches per sample and per view.

        `last_kept_per_sample` (totals) is None where the sequence kept its length (LightVLA in training);
        `last_kept_per_view` is there all the same, and counts what evaluation would have kept.
        """
        per_view = None if self._last is None else {v: c.tolist() for v, c in self._last.counts_per_view().items()}
        per_sample = self._last.counts().tolist() if self._last is not None and self._last_dropped else None
        return {
            "enabled": self.enabled,
            "noise_scale": self.noise_scale,
            "last_kept_per_sample": per_sample,
            "last_kept_per_view": per_view,
        }

    def valid_patches(self, prefix: Prefix) -> Tensor:
        """bool [B, P]: patches that are there. Before the backbone a prefix that was packed already is an error."""
        if self.late:
            return find_patches(prefix)[1]
        if prefix.source is not None or prefix.mask.shape[1] != len(prefix.layout):
            raise FoveateError(
                f"{type(self).__name__}: expected a prefix of {len(prefix.layout)} tokens as its layout says, got a "
                f"packed one of {prefix.mask.shape[1]}; prune before packing"
            )
        return prefix.mask[:, patch_index(prefix.layout, prefix.mask.device)]

    def selection(
        self,
        prefix: Prefix,
        keep: KeepSet,
        *,
        mask: Tensor | None = None,
        embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        keeps_length: bool = False,
    ) -> Selection:
        """The choice as a Selection, noted for `stats`; without a mask: the kept patches and all other tokens."""
        # Only what stats() needs: a training step's scores would hold its graph in memory.
        self._last, self._last_dropped = KeepSet(keep.keep_mask, keep.layout), not keeps_length
        mask = prefix.mask & keep_tokens(prefix, keep.keep_mask) if mask is None else mask
        return Selection(keep, mask, embeds, position_ids, keeps_length, self.at_most(prefix))

    def most_of(self, patches: int, layout: TokenLayout) -> int | None:
        """How many of a view's patches stay at most, where the budget alone says so; None: only the device knows."""
        config = getattr(self, "config", None)
        return config.of(patches) if self.within_budget and isinstance(config, Budget) else None

    def at_most(self, prefix: Prefix) -> np.ndarray | None:
        """int64 [B, spans]: the prefix's counts, every view cut down to what its budget leaves; None: only the device
        knows."""
        if prefix.at_most is None:
            return None
        counts = prefix.at_most.copy()
        for i, span in enumerate(prefix.layout.spans):
            if span.kind == "image":
                left = [self.most_of(int(n), prefix.layout) for n in counts[:, i]]
                if None in left:
                    return None
                counts[:, i] = np.array(left, np.int64)
        return counts


def pruning_stats(pruner: TokenPruner | None) -> dict[str, Any]:
    """`stats` of a pruner; of none at all the same keys."""
    if pruner is None:
        return {"enabled": False, "noise_scale": None, "last_kept_per_sample": None, "last_kept_per_view": None}
    return pruner.stats()


@functools.lru_cache(maxsize=64)
def patch_index(layout: TokenLayout, device: torch.device) -> Tensor:
    """int64 [P]: the token of every patch."""
    with torch.inference_mode(False):  # what is cached must serve training too
        return torch.as_tensor(layout.patch_index, device=device)


@functools.lru_cache(maxsize=64)
def blocks(layout: TokenLayout, scope: Scope, device: torch.device) -> tuple[Tensor, ...]:
    """Patches that compete with each other, as int64 [G, K] indices into the patch axis.

    One tensor holds all views where they have equally many patches, so that methods work on all of them at
    once; views of unequal sizes come one by one. Joint scope: one block of all patches.
    """
    with torch.inference_mode(False):
        if scope == "joint":
            return (torch.arange(layout.num_patches, device=device)[None],)
        rows = [torch.arange(s.start, s.stop, device=device) for s in layout.view_slices.values()]
        return (torch.stack(rows),) if len({len(r) for r in rows}) == 1 else tuple(r[None] for r in rows)


def top(scores: Tensor, valid: Tensor, count: Tensor | int) -> Tensor:
    """bool, of the shape of `scores` [..., K]: the `count` (int or [..., 1]) best valid patches.

    Equal scores: the first patch wins.
    """
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, place)
    return (rank < count) & valid


def budget_counts(budget: Budget | Callable[[int], int], valid: Tensor) -> Tensor:
    """int64 [..., 1]: the budget of each block [..., K] out of its valid patches."""
    of = budget.of if isinstance(budget, Budget) else budget
    table = [of(n) for n in range(valid.shape[-1] + 1)]
    return torch.tensor(table, device=valid.device)[valid.sum(-1, keepdim=True)]


def keep_top(scores: Tensor, valid: Tensor, budget: Budget, layout: TokenLayout) -> Tensor:
    """bool [B, P]: per view, the best patches within the budget, out of scores [B, P]."""
    keep = torch.zeros_like(valid)
    for index in blocks(layout, "view", valid.device):
        ok = valid[:, index]
        keep[:, index] = top(scores[:, index], ok, budget_counts(budget, ok))
    return keep


def keep_tokens(prefix: Prefix, keep_mask: Tensor) -> Tensor:
    """bool [B, N]: the slots of the patches of `keep_mask` [B, P], and of all tokens that are no patches."""
    keep = keep_mask.new_ones(keep_mask.shape[0], len(prefix.layout))
    keep[:, patch_index(prefix.layout, keep.device)] = keep_mask
    return keep if prefix.source is None else keep.gather(1, prefix.source.clamp_min(0)) & prefix.mask


def last_of(prefix: Prefix) -> Tensor:
    """int64 [B, 1]: the slot of each row's last token."""
    place = torch.arange(prefix.mask.shape[1], device=prefix.mask.device)
    return place.where(prefix.mask, -1).argmax(1, keepdim=True)


def scaled_layer(published: int, depth: int, of: int = 32) -> int:
    """A layer of a backbone of `of` layers, in proportion in one of `depth`; the last layer but one at most."""
    return max(0, min(depth - 2, round(published * depth / of)))


def find_tokens(prefix: Prefix, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Where tokens of the layout stand in a prefix, packed or not.

    Args:
        tokens: int64 [T].
    Returns:
        slots int64 [B, T], 0 for a token that is not there; bool [B, T], which are there.
    """
    batch, slots = prefix.mask.shape
    slot = torch.arange(slots, device=prefix.mask.device).expand(batch, -1)
    # One cell beyond the layout takes what padding slots write.
    token = torch.where(prefix.mask, slot if prefix.source is None else prefix.source, len(prefix.layout))
    place = slot.new_full((batch, len(prefix.layout) + 1), -1).scatter_(1, token, slot)[:, tokens]
    return place.clamp_min(0), place >= 0


def find_patches(prefix: Prefix) -> tuple[Tensor, Tensor]:
    """Where the layout's patches stand in a prefix, packed or not; see `find_tokens`."""
    return find_tokens(prefix, patch_index(prefix.layout, prefix.mask.device))


def at(x: Tensor, slots: Tensor) -> Tensor:
    """x [B, N, D] at slots [B, R] -> [B, R, D]."""
    return x.gather(1, slots[..., None].expand(-1, -1, x.shape[-1]))


def patches_of(prefix: Prefix) -> Tensor:
    """[B, P, D]: the tokens of all patches, packed or not; what stands for one that is not there means nothing."""
    return at(prefix.embeds, find_patches(prefix)[0])


def with_patches(prefix: Prefix, patches: Tensor, which: Tensor) -> Tensor:
    """[B, N, D]: the prefix's tokens with those of the patches that `which` [B, P] marks out of patches [B, P, D]."""
    embeds, slots = prefix.embeds.clone(), find_patches(prefix)[0]
    row, patch = which.nonzero(as_tuple=True)
    embeds[row, slots[row, patch]] = patches[row, patch].to(embeds.dtype)
    return embeds


def words_of(prefix: Prefix, kinds: Sequence[SpanKind] = ("text",)) -> tuple[Tensor, Tensor]:
    """Where the tokens of these kinds behind the pictures stand, packed or not.

    Returns:
        slots int64 [B, T], 0 for a token that is not there; bool [B, T], which are there.
    """
    first = prefix.layout.images[-1].stop if prefix.layout.images else 0
    tokens = [token for token in prefix.layout.tokens_of(*kinds).tolist() if token >= first]
    return find_tokens(prefix, torch.tensor(tokens, dtype=torch.int64, device=prefix.mask.device))


def renumbered(mask: Tensor) -> Tensor:
    """int64 [B, N]: position ids counted anew over the tokens that stay."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def grid_of(span: Span) -> tuple[int, int]:
    """Patch rows and columns of a view; a view without a grid counts as one row."""
    return span.grid or (1, len(span))


def centres(parts: int, length: int) -> list[int]:
    """The cells nearest the centres of `parts` equal parts of `length` cells; the first of two that are as near."""
    return [math.ceil((2 * i + 1) * length / (2 * parts)) - 1 for i in range(parts)]
