"""The learned head as a rule among the others, and the fallback that any rule can be given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveate.types import COARSE, FULL, NO
from foveate.vision_value.baselines.base import EVERY_PASS, Rule
from foveate.vision_value.baselines.uncertainty_threshold import unsure
from foveate.vision_value.choose import best_action
from foveate.vision_value.config import HeadConfig, Look
from foveate.vision_value.head import ValueHead
from foveate.vision_value.outcomes import Decisions, Outcomes


@dataclass(frozen=True)
class Learned:
    """argmax(gain - lambda * cost) of a head of gains; argmax(score) of one that learns actions."""

    head: ValueHead
    lambda_cost: float
    config: HeadConfig = field(default_factory=HeadConfig)
    checkpoint: str = ""
    chosen: bool = False
    """Lambda was chosen on validation, for an accuracy near always FULL's."""
    name: str = ""
    needs: frozenset[str] = EVERY_PASS

    def facts(self) -> dict[str, Any]:
        chosen = {"chosen": "on validation"} if self.chosen else {}
        return {"lambda_cost": self.lambda_cost, "checkpoint": self.checkpoint, **chosen}

    def decide(self, outcomes: Outcomes) -> Decisions:
        scores = self.head.scores(outcomes)
        if self.head.shape.learns == "policy":
            return Decisions.of(scores.argmax(-1))
        return Decisions.of(best_action(scores, outcomes.tokens, self.lambda_cost, self.config))


@dataclass(frozen=True)
class WithFallback:
    """Another rule, with NO raised where the text-first pass is unsure."""

    rule: Rule
    mode: Look
    entropy_threshold: float | None = None
    margin_threshold: float | None = None

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def needs(self) -> frozenset[str]:
        return self.rule.needs | {"text", self.mode.upper()}

    def facts(self) -> dict[str, Any]:
        return {**self.rule.facts(), "fallback_mode": self.mode}

    def decide(self, outcomes: Outcomes) -> Decisions:
        before = self.rule.decide(outcomes)
        doubt = np.zeros(len(outcomes), dtype=bool)
        if self.entropy_threshold is not None:
            doubt |= unsure(outcomes.entropy, outcomes.margin, "entropy", self.entropy_threshold)
        if self.margin_threshold is not None:
            doubt |= unsure(outcomes.entropy, outcomes.margin, "margin", self.margin_threshold)
        raised = doubt & (before.action == NO)
        action = np.where(raised, FULL if self.mode == "full" else COARSE, before.action)
        # Text comes first, so a raised NO never ran its answer: the look is all it pays.
        paid = np.where(raised[:, None], action[:, None] == np.arange(3), before.paid)
        return dataclasses.replace(before, action=action, paid=paid, fallback=raised)


def with_fallback(rule: Rule, config: HeadConfig) -> Rule:
    """The rule as `policy.fallback_*` says."""
    if config.fallback_mode is None:
        return rule
    return WithFallback(rule, config.fallback_mode, config.fallback_entropy_threshold, config.fallback_margin_threshold)
