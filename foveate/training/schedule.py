"""What changes with the step: the learning rate and the pruner's noise. Pure functions of the step."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, peak: float, final: float, warmup: int, total: int, decay_at: int | None = None
) -> float:
    """Linear warm-up from `peak / (warmup + 1)`, then half a cosine from `peak` down to `final` at `total`.

    Args:
        decay_at: step at which the rate falls from `peak` to `final` at once, in place of the cosine.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if decay_at is not None:
        return peak if step < decay_at else final
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))


def pruner_noise(step: int, *, start: float, end: float, total: int) -> float:
    """Linear from `start` at step 0 to `end` at the last step (LightVLA anneals 1 -> 0)."""
    return start + (end - start) * min(1.0, step / max(1, total - 1))


def ema_decay(step: int, *, decay: float) -> float:
    """The decay warms up, so that the average forgets the initial weights: min(decay, (1 + step) / (10 + step))."""
    return min(decay, (1 + step) / (10 + step))
