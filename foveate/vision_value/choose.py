"""The choice: argmax over the actions of gain - lambda * cost."""

from __future__ import annotations

import numpy as np

from foveate.vision_value.config import HeadConfig
from foveate.vision_value.cost import action_costs
from foveate.vision_value.outcomes import COARSE


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
