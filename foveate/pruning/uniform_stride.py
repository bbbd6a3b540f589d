"""Evenly spaced patches: the cheapest coverage of the picture, and hard to beat."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.pruning.base import Budget, FixedBudget, TokenPruner, centres, grid_of
from foveate.types import KeepSet, Prefix, Selection, TokenLayout


@dataclass(frozen=True, kw_only=True)
class UniformStride(FixedBudget):
    """Keep patches that are evenly spaced over each view, the same ones always."""

    def build(self) -> UniformStridePruner:
        return UniformStridePruner(self)


class UniformStridePruner(TokenPruner):
    """Per view, rows evenly spaced over the grid, and in each as many evenly spaced columns as the budget allows.

    Exactly the budget is kept: where it does not divide by the rows, some rows hold one more.
    """

    within_budget = True

    def __init__(self, config: UniformStride) -> None:
        super().__init__()
        self.config = config

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        keep = valid & lattice_mask(prefix.layout, self.config, valid.device)
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))


@functools.lru_cache(maxsize=64)
def lattice_mask(layout: TokenLayout, budget: Budget, device: torch.device) -> Tensor:
    """bool [P]: the evenly spaced patches of every view."""
    keep = [False] * layout.num_patches
    for span, patches in zip(layout.images, layout.view_slices.values(), strict=True):
        for cell in lattice(grid_of(span), budget.of(len(span))):
            keep[patches.start + cell] = True
    with torch.inference_mode(False):
        return torch.tensor(keep, device=device)


def lattice(grid: tuple[int, int], count: int) -> list[int]:
    """Indices of `count` cells of the grid, evenly spaced: as many rows as keeps rows and columns alike far apart."""
    height, width = grid
    rows = min(height, max(round((count * height / width) ** 0.5), -(-count // width)))
    shares = [(i + 1) * count // rows - i * count // rows for i in range(rows)]
    return [
        row * width + column
        for row, share in zip(centres(rows, height), shares, strict=True)
        for column in centres(share, width)
    ]
