"""The noise that an inference starts from, fixed by a key, so that variants are compared on equal draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def action_noise(shape: tuple[int, int] | None, *key: int) -> np.ndarray | None:
    """Standard normal noise float32 [action_horizon, action_dim], the same for the same key.

    Args:
        shape: a policy's `spec.noise_shape`; None for a model that decodes without noise, which gets None.
        key: numbers of at least 0, such as (seed, episode, query).
    """
    return None if shape is None else np.random.default_rng(key).standard_normal(shape, dtype=np.float32)


def stack_noise(draws: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One draw per sample of a batch, float32 [B, action_horizon, action_dim]; None of a model without noise."""
    there = [draw for draw in draws if draw is not None]
    return np.stack(there) if there else None
