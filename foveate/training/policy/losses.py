"""Flow matching as openpi trains it: the policy regresses the velocity that leads from actions to noise.

    x_t = t * noise + (1 - t) * actions        u_t = noise - actions        loss = |v(x_t, t) - u_t|^2

The model computes the element-wise error (`Pi0.forward`); this file draws noise and time, and reduces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from foveate.models.base import ModelInputs
from foveate.models.pi0.model import Pi0
from foveate.pruning.base import TokenPruner, pruning_stats
from foveate.training.config import NoiseConfig
from foveate.training.schedule import pruner_noise
from foveate.types import Prefix, Selection
from foveate.util.checks import number

TIME_SCALE, TIME_OFFSET = 0.999, 0.001


def sample_time(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Flow times in (0, 1], float32, ~ 0.999 * Beta(1.5, 1) + 0.001: noisy times are drawn more often.

    Beta(a, 1) has the distribution function x^a, so that u^(1/a) of a uniform u follows it.
    """
    return torch.rand(shape, generator=generator) ** (1 / 1.5) * TIME_SCALE + TIME_OFFSET


@dataclass(frozen=True)
class FlowBatch:
    """One process's rows of a batch of B samples with F flow draws each."""

    inputs: ModelInputs
    actions: Tensor
    """float32 [B, H, A], normalised."""
    noise: Tensor
    """float32 [B, F, H, A]."""
    time: Tensor
    """float32 [B, F]."""
    mask: Tensor
    """bool [B, H]: False where the chunk reaches beyond the episode's end."""

    def to(self, device: torch.device | str) -> FlowBatch:
        return FlowBatch(**{name: value.to(device) for name, value in vars(self).items()})


class FlowMatching(nn.Module):
    """A model with its loss and pruner, as one module: what DDP and `torch.compile` wrap."""

    def __init__(self, model: Pi0, noise: NoiseConfig, pruner: TokenPruner | None = None) -> None:
        super().__init__()
        self.model, self.noise, self.pruner = model, noise, pruner

    def forward(self, batch: FlowBatch) -> Tensor:
        """The mean squared error over all elements of the batch; masked ones count as 0.

        Dividing by the number of all elements, not of the unmasked ones, makes the mean over equal
        shares of a batch equal the batch's own loss, on which data-parallel training rests.
        """
        select = None if self.pruner is None else self._select(self.pruner, batch.inputs)
        error = self.model(batch.inputs, batch.actions, batch.noise, batch.time, select)
        return (error * batch.mask[:, None, :, None]).mean()

    def _select(self, pruner: TokenPruner, inputs: ModelInputs) -> Callable[[Prefix, Tensor], Selection]:
        def select(prefix: Prefix, noisy_actions: Tensor) -> Selection:
            return pruner.select(prefix, self.model.extra_queries(inputs, noisy_actions, pruner.queries))

        return select

    def set_token_pruner_noise_scale(self, scale: float | None) -> None:
        """Scale of the pruner's exploration noise; None: no noise. Without a pruner it is checked and not used."""
        if scale is not None:
            number("noise scale", scale, 0)
        if self.pruner is not None:
            self.pruner.set_noise_scale(scale)

    def get_token_pruning_stats(self) -> dict[str, Any]:
        """Of the last batch: `enabled, noise_scale, last_kept_per_sample` (totals), `last_kept_per_view`."""
        return pruning_stats(self.pruner)

    def begin_step(self, step: int, total: int) -> dict[str, float]:
        """Anneal the pruner's noise; without a pruner nothing happens."""
        if self.pruner is None:
            return {}
        scale = pruner_noise(step, start=self.noise.start, end=self.noise.end, total=total)
        self.set_token_pruner_noise_scale(scale)
        return {"noise_scale": scale}

    def metrics(self) -> dict[str, float]:
        """Kept patches of the last batch, in all and per view; empty without a pruner."""
        per_view = self.get_token_pruning_stats()["last_kept_per_view"]
        if per_view is None:
            return {}
        kept = {f"kept/{view}": float(np.mean(counts)) for view, counts in per_view.items()}
        return {"kept": sum(kept.values()), **kept}
