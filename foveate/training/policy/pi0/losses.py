"""Flow matching as openpi trains it: the policy regresses the velocity that leads from actions to noise.

    x_t = t * noise + (1 - t) * actions        u_t = noise - actions        loss = |v(x_t, t) - u_t|^2

The model computes the element-wise error (`Pi0.forward`); this file draws noise and time, and reduces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from foveate.models.base import ModelInputs
from foveate.models.pi0.model import Pi0
from foveate.pruning.base import TokenPruner
from foveate.pruning.inference import Pruning
from foveate.training.config import NoiseConfig
from foveate.training.policy.objective import PolicyObjective
from foveate.training.policy.pi0.units import units
from foveate.training.shards import shard
from foveate.util.world import World

TIME_SCALE, TIME_OFFSET = 0.999, 0.001


def sample_time(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Flow times in (0, 1], float32, ~ 0.999 * Beta(1.5, 1) + 0.001: noisy times are drawn more often.

    Beta(a, 1) has the distribution function x^a, so that u^(1/a) of a uniform u follows it.
    """
    return torch.rand(shape, generator=generator) ** (1 / 1.5) * TIME_SCALE + TIME_OFFSET


def sample_given(shape: tuple[int, ...], horizon: int, max_delay: int, generator: Generator) -> Tensor:
    """bool [*shape, horizon]: the first d actions of each, d uniform in 0 to `max_delay` (Black et al. 2025)."""
    delay = torch.randint(max_delay + 1, (*shape, 1), generator=generator)
    return torch.arange(horizon) < delay


FLOAT32 = (
    "action_in_proj",
    "action_out_proj",
    "time_mlp_in",
    "time_mlp_out",
    "state_proj",
    "action_time_mlp_in",
    "action_time_mlp_out",
)
"""Layers around actions, state and time, which compute in float32 under autocast too, as in openpi."""


def _in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight, layer.bias)


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
    given: Tensor | None = None
    """bool [B, F, H]: actions that enter without noise (real-time chunking), and do not count; None: none does."""

    def to(self, device: torch.device | str) -> FlowBatch:
        return FlowBatch(**{name: value.to(device) for name, value in vars(self).items() if value is not None})


class FlowMatching(PolicyObjective):
    """π0 or π0.5 with its loss and pruner."""

    model: Pi0

    def __init__(
        self, model: Pi0, noise: NoiseConfig, pruner: TokenPruner | None = None, *, recompute: bool = False
    ) -> None:
        super().__init__(model, noise, pruner, recompute=recompute)
        for layer in (getattr(model, name) for name in FLOAT32 if hasattr(model, name)):
            layer.forward = functools.partial(_in_float32, layer)

    def shard(self, world: World) -> None:
        shard(self, units(self.model), world)
        # Of the backbone's last layer keys and values alone are needed: it is entered beside `forward`.
        register_fsdp_forward_method(self.model.llm.layers[-1], "keys_values")

    def forward(self, batch: FlowBatch) -> Tensor:
        """The mean squared error over all elements of the batch; masked ones count as 0.

        Dividing by the number of all elements, not of the unmasked ones, makes the mean over equal
        shares of a batch equal the batch's own loss, on which data-parallel training rests.
        """
        prune = None if self.pruner is None else self._prune(batch.inputs)
        error = self.model(batch.inputs, batch.actions, batch.noise, batch.time, prune, batch.given)
        counted = batch.mask[:, None] if batch.given is None else batch.mask[:, None] & ~batch.given
        return (error * counted[..., None]).mean()

    def _prune(self, inputs: ModelInputs) -> Callable[[Tensor], Pruning]:
        return lambda noisy_actions: Pruning(self.pruner, self.model, inputs, noisy_actions)
