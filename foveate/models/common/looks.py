"""Looking at each view of a batch at full resolution, coarsely, or not at all.

A COARSE look is the same tower on a picture of half the side: a quarter of the tokens and of the tower's cost. Each of
its tokens stands in the slot of the upper left one of the four patches that it covers, and the view's other slots are
empty, so that a layout and everything that reports by it stay as they are. A view at which nobody looks may keep the
tokens of an earlier look.

Shapes: B batch, V views, P patches of one view, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveate.types import COARSE, FULL, NO


@dataclass(frozen=True)
class Looks:
    """How closely each view of a batch is looked at."""

    levels: np.ndarray
    """int64 [B, V], on the host: NO, COARSE or FULL as indices into `LEVELS`."""
    earlier: Tensor | None = None
    """[B, V, P, D]: tokens of earlier looks, for views at NO; None: those are left out."""
    earlier_mask: np.ndarray | None = None
    """bool [B, V, P], on the host: which of the earlier tokens are there."""

    def slots(self, present: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """bool [B, V, P]: slots that hold a token.

        Args:
            present: bool [B, V], cameras that are there.
        """
        coarse = np.zeros(grid[0] * grid[1], bool)
        coarse[coarse_slots(grid)] = True
        levels = self.levels[..., None]
        there = (levels == FULL) | ((levels == COARSE) & coarse)
        if self.earlier_mask is not None:
            there |= (levels == NO) & self.earlier_mask
        found: np.ndarray = there & present[..., None]
        return found

    @property
    def full(self) -> bool:
        """Whether this is what a model does that knows nothing of levels."""
        return bool((self.levels == FULL).all())


def coarse_slots(grid: tuple[int, int]) -> np.ndarray:
    """int64 [P / 4]: the patches of a view that stand for a COARSE look, row by row."""
    rows, columns = grid
    return (np.arange(0, rows, 2)[:, None] * columns + np.arange(0, columns, 2)).ravel()


def embed_looks(
    images: Tensor,
    present: np.ndarray,
    looks: Looks,
    grid: tuple[int, int],
    full: Callable[[Tensor], Tensor],
    coarse: Callable[[Tensor], Tensor],
    like: Tensor,
) -> tuple[Tensor, np.ndarray]:
    """Tokens of all views as they are looked at; towers run for what is looked at alone.

    Args:
        images: [B, V, 3, H, W].
        present: bool [B, V], cameras that are there.
        full: [n, 3, H, W] -> [n, P, D].
        coarse: [n, 3, H, W] -> [n, P / 4, D].
        like: [D, ...], of the type and place that tokens have.
    Returns:
        tokens [B, V * P, D], 0 in empty slots; bool [B, V * P], slots that hold one.
    """
    patches, flat = grid[0] * grid[1], images.flatten(0, 1)
    there = looks.slots(present, grid)
    level = np.where(present, looks.levels, NO).ravel()

    def rows_at(wanted: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(wanted)).to(flat.device)

    embeds = like.new_zeros(len(flat), patches, like.shape[0])
    if (level == FULL).any():
        rows = rows_at(level == FULL)
        embeds = embeds.index_put((rows,), full(flat[rows]))
    if (level == COARSE).any():
        rows = rows_at(level == COARSE)
        slots = torch.from_numpy(coarse_slots(grid)).to(flat.device)
        embeds = embeds.index_put((rows[:, None], slots), coarse(flat[rows]))
    reused = (level == NO) & there.any(-1).ravel()
    if looks.earlier is not None and reused.any():
        rows = rows_at(reused)
        embeds = embeds.index_put((rows,), looks.earlier.flatten(0, 1)[rows])
    return embeds.unflatten(0, images.shape[:2]).flatten(1, 2), there.reshape(len(images), -1)
