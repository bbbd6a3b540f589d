"""Depth drop: all patches, fewer layers. The control that asks whether tokens are what should go.

Whole backbone layers are skipped until as little is computed as a token budget would leave. Skipping every other layer
goes back to LayerDrop (Fan et al. 2019, arXiv 1909.11556); language models bear much of it after some more training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import Budget, TokenPruner, centres
from foveate.pruning.inside import Inside
from foveate.types import KeepSet, Prefix, Selection, TokenLayout


@dataclass(frozen=True, kw_only=True)
class DepthDrop(Budget):
    """Keep all patches and skip backbone layers, down to the FLOPs that the patch budget would leave."""

    keep_layers: int | None = None
    """Layers that run, in place of a budget of patches; at least 2: the first and the last always do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explicit == (self.keep_layers is not None):
            raise FoveateError(
                "DepthDrop: set one of keep_ratio, keep_tokens (FLOPs as with so many patches) and keep_layers"
            )
        if self.keep_layers is not None and self.keep_layers < 2:
            raise FoveateError(f"DepthDrop: keep_layers must be at least 2, got {self.keep_layers}")

    def build(self) -> DepthDropPruner:
        return DepthDropPruner(self)


class DepthDropPruner(TokenPruner):
    """The first and the last layer run, and others evenly between them. With a budget of patches, as many as bring the
    FLOPs of prefill and decoding nearest to those of the budget; of two as near the fewer. Where a decoder has a layer
    for each of the backbone's (π0's expert), both are skipped.
    """

    looks_inside = True

    def __init__(self, config: DepthDrop) -> None:
        super().__init__()
        self.config = config

    def select(
        self, prefix: Prefix, queries: Tensor | None = None, *, inside: Inside | None = None, **_: Any
    ) -> Selection:
        if inside is None:
            raise FoveateError("DepthDrop: skips layers of a policy's backbone, and there is none here")
        valid = self.valid_patches(prefix)
        return self.selection(prefix, KeepSet(valid, prefix.layout, valid=valid))

    def skipped(self, depth: int, layout: TokenLayout, flops: Callable[[Sequence[int]], float]) -> frozenset[int]:
        running = self._running(depth, layout, flops)
        return frozenset(range(depth)) - frozenset(running)

    def _running(self, depth: int, layout: TokenLayout, flops: Callable[[Sequence[int]], float]) -> list[int]:
        if self.config.keep_layers is not None:
            if self.config.keep_layers > depth:
                raise FoveateError(
                    f"DepthDrop: keep_layers {self.config.keep_layers}, and the backbone has {depth} layers"
                )
            return spread(self.config.keep_layers, depth)
        others = len(layout) - layout.num_patches
        target = flops([others + sum(self.config.of(len(span)) for span in layout.images)] * depth)

        def cost(count: int) -> float:
            running = set(spread(count, depth))
            return flops([len(layout) if layer in running else 0 for layer in range(depth)])

        return spread(min(range(min(2, depth), depth + 1), key=lambda n: (abs(cost(n) - target), n)), depth)


def spread(count: int, depth: int) -> list[int]:
    """So many layers of a stack: the first, the last, and others evenly between."""
    if count >= depth or depth < 3:
        return list(range(depth))
    return [0, *(1 + place for place in centres(count - 2, depth - 2)), depth - 1]
