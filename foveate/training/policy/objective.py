"""A model with its loss and its pruner, as one module: what DDP and `torch.compile` wrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from foveate.errors import FoveateError
from foveate.pruning.base import TokenPruner, pruning_stats
from foveate.training.config import NoiseConfig
from foveate.training.schedule import pruner_noise
from foveate.util.checks import number


class PolicyObjective(nn.Module):
    """What all families share; a family's own adds `forward`, from its batch to the mean loss over the batch's rows."""

    def __init__(self, model: nn.Module, noise: NoiseConfig, pruner: TokenPruner | None = None) -> None:
        super().__init__()
        if pruner is not None and pruner.has_history:
            name = type(pruner).__name__.removesuffix("Pruner")
            raise FoveateError(
                f"{name} chooses by earlier control steps, and training samples belong to no episode; train without a "
                "pruner, or with one that has no history"
            )
        self.model, self.noise, self.pruner = model, noise, pruner

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
