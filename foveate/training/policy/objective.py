"""A model with its loss and its pruner, as one module: what DDP and `torch.compile` wrap."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from torch import nn
from torch.utils.checkpoint import checkpoint

from foveate.errors import FoveateError
from foveate.pruning.base import TokenPruner, pruning_stats
from foveate.pruning.diagnostics import ENOUGH, collapse_warnings
from foveate.pruning.lightvla import LightVLAPruner
from foveate.training.config import NoiseConfig
from foveate.training.schedule import pruner_noise
from foveate.util.checks import number
from foveate.util.world import World

log = logging.getLogger("foveate")


def stacked_layers(model: nn.Module) -> list[nn.Module]:
    """Every layer of the model's stacks: what gradient checkpointing recomputes one by one."""
    return [layer for stack in model.modules() if isinstance(stack, nn.ModuleList) for layer in stack]


def recompute_layers(model: nn.Module) -> None:
    """Gradient checkpointing (Chen et al. 2016) of every layer of the model's stacks; names of parameters stay."""
    for layer in stacked_layers(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


class PolicyObjective(nn.Module):
    """What all families share; a family's own adds `forward`, from its batch to the mean loss over the batch's rows."""

    def __init__(
        self, model: nn.Module, noise: NoiseConfig, pruner: TokenPruner | None = None, *, recompute: bool = False
    ) -> None:
        """
        Args:
            recompute: keep of each layer its input alone, and compute the rest anew in the backward pass.
        """
        super().__init__()
        if pruner is not None and pruner.has_history:
            name = type(pruner).__name__.removesuffix("Pruner")
            raise FoveateError(
                f"{name} chooses by earlier control steps, and training samples belong to no episode; train without a "
                "pruner, or with one that has no history"
            )
        self.model, self.noise, self.pruner = model, noise, pruner
        if recompute:
            recompute_layers(model)
        self._kept: list[float] = []

    def shard(self, world: World) -> None:
        """Leave each process its part of what all hold alike (FSDP2), on `world.device`.

        Raises:
            FoveateError: the family does not say what is gathered together.
        """
        raise FoveateError(
            f"fsdp: {type(self.model).__name__} is not trained in parts; lora and gradient_checkpointing save memory"
        )

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
        if isinstance(self.pruner, LightVLAPruner) and not self.pruner.config.explicit:
            self._watch(sum(kept.values()), len(kept))
        return {"kept": sum(kept.values()), **kept}

    def _watch(self, kept: float, views: int) -> None:
        """Warn once where a pruner that learns how many patches to keep goes on keeping almost none, or all."""
        self._kept.append(kept)
        patches = sum(rows * columns for rows, columns in self.model.spec.grids)  # type: ignore[union-attr, misc]
        kept_counts = np.array(self._kept[-ENOUGH - 1 :])
        warnings = collapse_warnings(kept_counts[-ENOUGH:], patches, num_views=views)
        if warnings and not collapse_warnings(kept_counts[:-1], patches, num_views=views):
            log.warning("%s", warnings[0])
