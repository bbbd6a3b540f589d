"""The exponential moving average of the weights: what is exported and evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foveate.training.schedule import ema_decay
from foveate.training.shards import part, placed, whole


class Ema:
    """float32 averages of a module's trainable parameters, by name; of one in parts in the same parts."""

    def __init__(self, module: nn.Module, decay: float, carrier: nn.Module | None = None) -> None:
        """
        Args:
            carrier: the same module, whole, that is to carry the averages when they are looked at; None: `module`.
        """
        self.decay, self.carrier = decay, carrier
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().float().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights as they are after `step`."""
        weights = [part(p.detach()).float() for p in self.parameters.values()]
        averages = [part(average) for average in self.average.values()]
        torch._foreach_lerp_(averages, weights, 1 - ema_decay(step, decay=self.decay))

    def state_dict(self) -> dict[str, Tensor]:
        return self.average

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state.keys() != self.average.keys():
            raise ValueError(f"EMA of other parameters: {sorted(state.keys() ^ self.average.keys())[:5]}")
        for name, value in state.items():
            self.average[name].copy_(placed(value, self.average[name]))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The module carries the averages inside the block and its own weights again afterwards.

        Where there is a carrier, every process has to enter, and the carrier goes on carrying them.
        """
        if self.carrier is not None:
            carried = dict(self.carrier.named_parameters())
            for name, average in self.average.items():
                carried[name].copy_(whole(average))
            yield
            return
        kept = {n: p.detach().clone() for n, p in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.copy_(kept[name])
