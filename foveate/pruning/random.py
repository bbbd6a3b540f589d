"""Random patches: the control that a method must beat to have shown anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.pruning.base import FixedBudget, TokenPruner, keep_top
from foveate.types import KeepSet, Prefix, Selection


@dataclass(frozen=True, kw_only=True)
class Random(FixedBudget):
    """Keep patches drawn uniformly, anew for every inference."""

    seed: int = 0
    """Seed of the evaluation stream."""

    def build(self) -> RandomPruner:
        return RandomPruner(self)


class RandomPruner(TokenPruner):
    """Per view, a uniform draw without replacement.

    In evaluation the i-th sample that this pruner ever sees gets the i-th draw of a stream that the seed fixes,
    however samples are batched and whatever the device; `restart` goes back to its beginning. A prefix with
    `row_seeds` draws each row by its own seed instead, whatever came before it. In training
    draws come from torch's global generator, so that checkpoints that restore it resume exactly and
    data-parallel processes differ.
    """

    within_budget = True

    def __init__(self, config: Random) -> None:
        super().__init__()
        self.config = config
        self._generator = torch.Generator()
        self.restart()

    def restart(self) -> None:
        """Begin the evaluation stream anew."""
        self._generator.manual_seed(self.config.seed)

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        draws = torch.stack([torch.rand(valid.shape[1], generator=g) for g in self._generators(prefix)])
        keep = keep_top(draws.to(valid.device), valid, self.config, prefix.layout)
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))

    def _generators(self, prefix: Prefix) -> Iterator[torch.Generator | None]:
        for row in range(prefix.mask.shape[0]):
            if self.training:
                yield None
            elif prefix.row_seeds is not None:
                yield torch.Generator().manual_seed(int(prefix.row_seeds[row]) ^ self.config.seed)
            else:
                yield self._generator
