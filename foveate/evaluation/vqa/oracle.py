"""Which action each question really needs: the bound of every rule, and where looking closer hurts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.types import LEVELS
from foveate.vision_value.baselines import Oracle
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.cost import action_costs


@dataclass(frozen=True)
class ChanceCorrected:
    """The oracle without its lucky guesses: it pays for a look where the model knows, not where it happens to be right.

    Of questions with K options a share 1/K is right by guessing, at every level anew, and the plain oracle takes the
    cheapest of three guesses. Corrected for guessing, a level knows (right - 1/K) / (1 - 1/K) of the questions; what
    COARSE knows beyond NO is paid as COARSE, what FULL knows beyond that as FULL, and the rest is guessed at NO. A
    level that knows no more than a cheaper one is never paid. Values are per question and unbiased, so they may leave
    [0, 1]; means and intervals are over the set.
    """

    shares: np.ndarray
    """float64 [n, 3]: how much of NO, COARSE and FULL is paid."""
    correct: np.ndarray
    """float64 [n]: score at the level that knows most."""

    @classmethod
    def of(cls, scored: ScoredPasses) -> ChanceCorrected | None:
        """None where no question has options to guess among, or an answer is not known at every level."""
        options = np.array([sum(map(bool, sample.choices)) for sample in scored.samples])
        correct, guessable = scored.outcomes.correct, options > 1
        if not guessable.any() or not np.isfinite(correct).all():
            return None
        chance = np.where(guessable, 1 / np.maximum(options, 1), 0.0)[:, None]
        knows = (correct - chance) / (1 - chance)
        shares, best = np.zeros_like(correct), 0
        for level in (1, 2):
            if knows[:, level].mean() > knows[:, best].mean():
                shares[:, level] = knows[:, level] - knows[:, best]
                best = level
        shares[:, 0] = 1 - shares[:, 1:].sum(-1)
        return cls(shares, correct[:, best])


def analyse(scored: ScoredPasses, config: HeadConfig) -> dict[str, Any]:
    """The content of `analysis_oracle.json` for one data set.

    `chance_corrected`: accuracy, cost and shares of the oracle without lucky guesses (`ChanceCorrected`), None without
    options. `cheapest_right`: share of questions whose cheapest right action is each, and of those that no action gets
    right. `by_category`: the same per category, where a set has them. `gap`: what the oracle is above always FULL in
    accuracy, and below it in cost. `looking_hurts`: right without looking, wrong with a FULL look.
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
    fair = ChanceCorrected.of(scored)
    corrected = fair and {
        "accuracy": float(fair.correct.mean()),
        "avg_cost": float((fair.shares * action_costs(outcomes.tokens, config)).sum(-1).mean()),
        "shares": dict(zip(LEVELS, fair.shares.mean(0).tolist(), strict=True)),
    }
    return {
        "samples": len(right),
        "accuracy": accuracy,
        "avg_cost": cost,
        "gap": {
            "accuracy_over_always_full": accuracy - float(outcomes.correct[known][:, 2].mean()),
            "cost_under_always_full": float(costs[:, 2].mean()) - cost,
        },
        "chance_corrected": corrected,
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
