"""What every model shares with the rooms around it: the pruner's protocol and exact packing.

Models know nothing of pruning methods; they call whatever `Pruner` they are handed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from foveate.types import KeepSet, Prefix


class Pruner(Protocol):
    """Drops visual tokens before the backbone sees them."""

    queries: str
    """What it asks with: `text`, `text+state` or `text+state+action`."""

    def set_noise_scale(self, scale: float | None) -> None:
        """Exploration noise in training."""
        ...

    def stats(self) -> dict[str, Any]:
        """Of the last call: `enabled, noise_scale, last_kept_per_sample, last_kept_per_view`."""
        ...

    def __call__(self, prefix: Prefix, *, extra_queries: Tensor | None = None) -> tuple[Prefix, KeepSet | None]:
        """Prune one batch.

        Args:
            prefix: embedded tokens, not yet packed.
            extra_queries: [B, T, D] further tokens that the pruner alone may look at (state, noisy actions).
        Returns:
            the shorter (or, in training, re-weighted) prefix, and what was kept (None: no record).
        """
        ...


def pack(prefix: Prefix, keep: Tensor | None = None) -> Prefix:
    """Drop every token that is padding, of an absent camera, or not in `keep`; pad to the longest row.

    Position ids travel with their tokens, so dropping masked tokens alone changes no result.

    Args:
        keep: bool [B, N], which tokens to retain besides the mask; None retains all real ones.
    """
    mask = prefix.mask if keep is None else prefix.mask & keep
    lengths = mask.sum(-1)
    longest = int(lengths.max())
    if longest == mask.shape[1] and keep is None and prefix.source is not None:
        return prefix
    # A stable sort of "dropped" (0/1) brings the kept tokens to the front in their original order.
    order = torch.argsort(~mask, dim=-1, stable=True)[:, :longest]
    slot = torch.arange(longest, device=mask.device)
    packed_mask = slot < lengths[:, None]
    source = order if prefix.source is None else prefix.source.gather(1, order)
    return dataclasses.replace(
        prefix,
        embeds=prefix.embeds.gather(1, order[..., None].expand(-1, -1, prefix.embeds.shape[-1])),
        mask=packed_mask,
        position_ids=prefix.position_ids.gather(1, order),
        source=source.masked_fill(~packed_mask, -1),
        full=bool((lengths == longest).all()),
    )
