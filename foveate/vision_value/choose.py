"""The choice: argmax over the actions of gain - lambda * cost; and the lambdas that are worth trying."""

from __future__ import annotations

import numpy as np

from foveate.types import COARSE
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.cost import action_costs

LAMBDAS = (0.0, *(round(float(x), 4) for x in np.geomspace(0.01, 3.0, 40)))
"""Nats per answer token that a FULL look must earn: where a curve is read off."""


def best_action(gains: np.ndarray, tokens: np.ndarray, lambda_cost: float, config: HeadConfig) -> np.ndarray:
    """int64 [n]: the action that earns most after its cost; of equals the cheapest.

    Args:
        gains: [n, 3] nats per answer token over NO.
        tokens: [n, 3] vision tokens of each action.
    """
    worth = gains - lambda_cost * config.cost_scale * action_costs(tokens, config)
    if config.action_space == "binary":
        worth = worth.copy()
        worth[:, COARSE] = -np.inf
    return worth.argmax(-1)


def lambda_grid(tokens: np.ndarray, config: HeadConfig) -> list[float]:
    """`LAMBDAS` in the unit of this configuration: divided by the mean price of a FULL look, 1 with `cost_unit: full`.

    Args:
        tokens: [n, 3] vision tokens of each action; questions without a picture do not count.
    """
    full = config.cost_scale * action_costs(tokens, config)[:, 2]
    price = float(full[full > 0].mean()) if (full > 0).any() else 1.0
    return [lam / price for lam in LAMBDAS]
