"""Which action each question really needs: the bound of every rule, and where looking closer hurts."""

from __future__ import annotations

from typing import Any

import numpy as np

from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.vision_value.baselines import Oracle
from foveate.vision_value.config import LEVELS, HeadConfig
from foveate.vision_value.cost import action_costs


def analyse(scored: ScoredPasses, config: HeadConfig) -> dict[str, Any]:
    """The content of `analysis_oracle.json` for one data set.

    `cheapest_right`: share of questions whose cheapest right action is each, and of those that no action gets right.
    `by_category`: the same per category, where a set has them. `gap`: what the oracle is above always FULL in accuracy,
    and below it in cost. `looking_hurts`: right without looking, wrong with a FULL look.
    """
    outcomes = scored.outcomes
    known = np.isfinite(outcomes.correct).all(-1)
    right = outcomes.correct[known] > 0.5
    costs = action_costs(outcomes.tokens, config)[known]
    action = Oracle().decide(outcomes).action[known]
    n = max(len(right), 1)
    index = np.arange(len(right))
    accuracy, cost = float(outcomes.correct[known][index, action].mean()), float(costs[index, action].mean())
    solvable = right.any(-1)
    share = {level: float((solvable & (action == column)).sum() / n) for column, level in enumerate(LEVELS)}
    patterns = {
        "/".join(level for level, ok in zip(LEVELS, pattern, strict=True) if ok) or "none": float(
            (right == np.array(pattern)).all(-1).mean()
        )
        for pattern in np.ndindex(2, 2, 2)
    }
    categories = np.array([s.category or "" for s in scored.samples])[known]
    return {
        "samples": len(right),
        "accuracy": accuracy,
        "avg_cost": cost,
        "gap": {
            "accuracy_over_always_full": accuracy - float(outcomes.correct[known][:, 2].mean()),
            "cost_under_always_full": float(costs[:, 2].mean()) - cost,
        },
        "cheapest_right": {**share, "none": float((~solvable).mean())},
        "right_at": patterns,
        "looking_hurts": float((right[:, 0] & ~right[:, 2]).mean()),
        "by_category": {
            str(category): {
                **{level: _share(solvable & (action == column), member) for column, level in enumerate(LEVELS)},
                "none": _share(~solvable, member),
                "samples": int(member.sum()),
            }
            for category in sorted(set(categories) - {""})
            for member in [categories == category]
        },
    }


def _share(chosen: np.ndarray, member: np.ndarray) -> float:
    """Of the members, how many are chosen."""
    return float(chosen[member].mean())
