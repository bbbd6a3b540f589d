"""Average-pooled grid: a coarser picture instead of a thinner one."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.pruning.base import FixedBudget, TokenPruner, centres, grid_of
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class Downsample(FixedBudget):
    """Pool each view's patches to a coarser grid that the budget can hold."""

    def build(self) -> DownsamplePruner:
        return DownsamplePruner(self)


class DownsamplePruner(TokenPruner):
    """Per view, average pooling of the embeddings to the largest grid within the budget (see `pooled_grid`).

    A pooled token stands at the patch nearest the centre of its cell, with that patch's position id; `keep_mask`
    marks these patches. Differentiable: in training the gradient reaches every patch of the cell.
    """

    whole_views = True
    within_budget = True

    def __init__(self, config: Downsample) -> None:
        super().__init__()
        self.config = config

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        embeds, keep = prefix.embeds.clone(), torch.zeros_like(valid)
        for span, patches in zip(prefix.layout.images, prefix.layout.view_slices.values(), strict=True):
            (height, width), (rows, columns) = grid_of(span), pooled_grid(grid_of(span), self.config.of(len(span)))
            picture = prefix.embeds[:, span.start : span.stop].unflatten(1, (height, width)).permute(0, 3, 1, 2)
            pooled = F.adaptive_avg_pool2d(picture, (rows, columns)).flatten(2).transpose(1, 2)
            places = [r * width + c for r in centres(rows, height) for c in centres(columns, width)]
            cells = torch.tensor(places, device=valid.device)
            embeds[:, span.start + cells] = pooled
            keep[:, patches.start + cells] = valid[:, patches.start + cells]
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid), embeds=embeds)


@functools.lru_cache(maxsize=256)
def pooled_grid(grid: tuple[int, int], count: int) -> tuple[int, int]:
    """The grid of the most cells, at most `count`, whose cells are at most twice as long as wide or the reverse.

    Of equally many cells: the squarest cells, then the fewest rows. Where no such grid fits (a view without a grid
    is one row), the shape of the cells does not count.
    """
    height, width = grid
    found = []
    for rows in range(1, min(height, count) + 1):
        for columns in range(1, min(width, count // rows) + 1):
            aspect = (height / rows) / (width / columns)
            found.append((rows, columns, max(aspect, 1 / aspect)))
    fair = [f for f in found if f[2] <= 2] or found
    rows, columns, _ = max(fair, key=lambda f: (f[0] * f[1], -f[2], -f[0]))
    return rows, columns
