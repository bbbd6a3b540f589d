"""What a look costs.

With `cost_unit: full` a FULL look costs 1 and lambda reads as the nats per answer token that FULL must earn; every
look pays the same overhead, so that COARSE is never almost free. With `cost_unit: tokens` the cost is the number of
vision tokens, and lambda is the price of one.
"""

from __future__ import annotations

import numpy as np

from foveate.vision_value.config import HeadConfig


def look_cost(tokens: np.ndarray, full_tokens: np.ndarray, config: HeadConfig) -> np.ndarray:
    """Cost of looks of `tokens` vision tokens, where a FULL look has `full_tokens`; 0 where nothing is looked at."""
    if config.cost_unit == "tokens":
        return tokens.astype(np.float64)
    overhead = config.cost_overhead_tokens
    cost = (tokens + overhead) / np.maximum(full_tokens + overhead, 1e-9)
    return np.where(tokens > 0, cost, 0.0)


def action_costs(tokens: np.ndarray, config: HeadConfig) -> np.ndarray:
    """float64 [n, 3]: cost of NO (0), COARSE and FULL, of tokens [n, 3]."""
    return look_cost(tokens, tokens[:, 2:], config)


def ratio_of_totals(
    tokens: np.ndarray, full_tokens: np.ndarray, config: HeadConfig, shares: np.ndarray | float = 1.0
) -> float | None:
    """What all looks together cost, as a share of a FULL look at every question; None where that has no price.

    The mean of `look_cost` weighs each question alike; this weighs a large picture as much as it costs.

    Args:
        tokens: [n, ...] vision tokens of each look.
        full_tokens: [n], NaN where they are not known.
        shares: [n, ...] how much of each look is paid; a pass of share 0 may be NaN in `tokens`.
    """
    overhead = config.cost_overhead_tokens if config.cost_unit == "full" else 0.0
    paid = float(np.where((tokens > 0) & (shares > 0), shares * (tokens + overhead), 0.0).sum())
    whole = float(np.where(full_tokens > 0, full_tokens + overhead, 0.0).sum())
    return 0.0 if paid == 0 else paid / whole if whole > 0 else None
