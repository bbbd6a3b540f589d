"""Random patches: the control that a method must beat to have shown anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.pruning.base import FixedBudget, TokenPruner, keep_top
from foveate.types import KeepSet, Prefix


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
    however samples are batched and whatever the device; `restart` goes back to its beginning. In training
    draws come from torch's global generator, so that checkpoints that restore it resume exactly and
    data-parallel processes differ.
    """

    def __init__(self, config: Random) -> None:
        super().__init__()
        self.config = config
        self._generator = torch.Generator()
        self.restart()

    def restart(self) -> None:
        """Begin the evaluation stream anew."""
        self._generator.manual_seed(self.config.seed)

    def forward(self, prefix: Prefix, *, extra_queries: Tensor | None = None) -> tuple[Prefix, KeepSet]:
        valid = self.valid_patches(prefix)
        generator = None if self.training else self._generator
        draws = torch.stack([torch.rand(valid.shape[1], generator=generator) for _ in range(valid.shape[0])])
        keep = keep_top(draws.to(valid.device), valid, self.config, prefix.layout)
        return self.drop(prefix, KeepSet(keep, prefix.layout, valid=valid))
