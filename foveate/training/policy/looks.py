"""Random levels per view, so that a policy knows views that were looked at coarsely, some time ago, or not at all.

looks = draw_looks(config, since, generator)
looks.levels            # for `ModelInputs.looks`
looks.ages              # which picture of its episode each view shows
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from foveate.errors import FoveateError
from foveate.models.base import ModelSpec
from foveate.pruning.base import TokenPruner
from foveate.training.config import LookingConfig
from foveate.types import COARSE, FULL, NO


@dataclass(frozen=True)
class DrawnLooks:
    """Of a batch of B samples with V views."""

    levels: np.ndarray
    """int64 [B, V]."""
    ages: Tensor
    """int64 [B, V]: pictures of the episode between the one that is seen and the sample's own."""


def draw_looks(config: LookingConfig, since: Tensor, views: int, generator: Generator) -> DrawnLooks:
    """Every view of every sample for itself.

    A reused look is an earlier picture at the level at which it was looked at: it goes through the tower, whose weights
    of today would have remembered those tokens.

    Args:
        since: int64 [B], pictures of its episode before each sample's.
    """
    shape = (len(since), views)
    draw, again = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    ages = torch.randint(1, config.max_age + 1, shape, generator=generator)
    unseen, coarse = draw < config.no, draw >= 1 - config.coarse
    if config.no_means == "leave_out":
        levels = torch.where(unseen, NO, torch.where(coarse, COARSE, FULL))
        return DrawnLooks(levels.numpy(), torch.zeros_like(ages))
    # Of what is reused as much was looked at coarsely as of what is looked at now.
    coarse |= unseen & (again < config.coarse / (1 - config.no))
    aged = torch.where(unseen, torch.minimum(ages, since[:, None]), 0)
    return DrawnLooks(torch.where(coarse, COARSE, FULL).numpy(), aged)


def check_looking(config: LookingConfig, spec: ModelSpec, pruner: TokenPruner | None, compiled: bool) -> None:
    """Raises FoveateError where random levels do not go with the rest of a training."""
    if not config.on:
        return
    if any(side % 2 for grid in spec.grids for side in grid):
        raise FoveateError(f"looking: half of {spec.grids[0][0]} x {spec.grids[0][1]} patches is no whole grid")
    if pruner is not None and pruner.whole_views:
        name = type(pruner).__name__.removesuffix("Pruner")
        raise FoveateError(
            f"looking: {name} reads a view as a whole picture; train with another method, or without one"
        )
    if compiled:
        raise FoveateError("looking does not go with loop.compile: batches differ in how many views are looked at")
