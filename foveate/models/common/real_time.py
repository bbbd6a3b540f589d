"""Real-time chunking: a new chunk that goes on where the robot is when it arrives.

While a chunk is inferred the robot executes the one before. Two ways make the new one agree with it:

- *guided*, with any flow model (Black, Galliker and Levine 2025, "Real-Time Execution of Action Chunking Flow
  Policies"): the flow is pulled towards what is left of the old chunk, firmly in the actions that will be executed
  before the answer is there, less and less beyond.
- a *hard prefix*, with a model trained for it (Black, Ren, Equi and Levine 2025, "Training-Time Action Conditioning for
  Efficient Real-Time Chunking"): the actions that will be executed are given as they are, at the flow's last time, and
  the rest is denoised in their sight. It costs nothing.

The papers' time runs from 0 (noise) to 1 (action), ours from 1 to 0; formulas are in ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_GUIDANCE = 5.0
"""The paper's β: bounds the guidance near the noise, where its weight has no limit."""


@dataclass(frozen=True)
class PreviousChunk:
    """What is left of the chunk before, as a model sees it."""

    actions: Tensor
    """float32 [B, H, A], normalised: entry k is meant for the same instant as action k of the new chunk."""
    weights: Tensor
    """float32 [B, H], how firmly each is held to, 0..1; 0 where nothing is left."""


@dataclass(frozen=True)
class GivenActions:
    """The actions of the new chunk that are settled: those that are executed before it is there."""

    actions: Tensor
    """float32 [B, H, A], normalised; what stands where `mask` is False is not looked at."""
    mask: Tensor
    """bool [B, H]."""

    def put(self, x_t: Tensor) -> Tensor:
        """x_t [B, H, A] with the settled actions in their places."""
        return torch.where(self.mask[..., None], self.actions, x_t)


def prefix_weights(delay: int, end: int, horizon: int) -> np.ndarray:
    """float32 [horizon]: 1 for the first `delay` actions, falling to 0 at `end` (the paper's equation 5).

    Args:
        delay: actions that are executed before the new chunk is there.
        end: actions of the old chunk that are left.
    """
    k = np.arange(horizon)
    rest = np.clip((end - k) / (end - delay + 1), 0, 1)
    weights = np.where(k < delay, 1.0, rest * np.expm1(rest) / math.expm1(1))
    return np.where(k < end, weights, 0.0).astype(np.float32)


def guidance_weight(time: float) -> float:
    """How strongly the flow is guided at a time: ((1 - t)^2 + t^2) / (t (1 - t)), at most `MAX_GUIDANCE`."""
    below = time * (1 - time)
    return MAX_GUIDANCE if below <= 0 else min(MAX_GUIDANCE, ((1 - time) ** 2 + time**2) / below)


def guided(velocity: Callable[[Tensor], Tensor], x_t: Tensor, time: float, previous: PreviousChunk) -> Tensor:
    """The velocity [B, H, A] at x_t, pulled towards a flow that ends in the previous chunk.

    Needs gradients through `velocity`, so it is called outside of inference mode.
    """
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        v_t = velocity(x)
        ended = x - time * v_t
        error = (previous.actions - ended) * previous.weights[..., None]
        (pull,) = torch.autograd.grad(ended, x, error.detach())
    return v_t.detach() - guidance_weight(time) * pull
