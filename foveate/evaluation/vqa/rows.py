"""One row per rule and data set, looked up in the scored passes; with bootstrap intervals over its questions.

    rows = rule_results(scored, [Always("FULL"), Oracle()], config)

A row is a flat mapping with the columns of `results.csv` (docs/value-of-vision.md).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.evaluation.vqa.oracle import ChanceCorrected
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.util.stats import bootstrap_mean
from foveate.vision_value.baselines import Oracle, RandomMatched, Rule
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.cost import action_costs, look_cost, ratio_of_totals
from foveate.vision_value.learned import WithFallback
from foveate.vision_value.outcomes import Decisions

PRUNING = "vision_token_pruning_proxy"
COLUMNS = (
    "dataset", "baseline_name", "row", "lambda_cost", "chosen", "threshold", "coarse_threshold", "uncertainty",
    "vision", "matched", "pruning_ratio", "pruning_mode", "fallback_mode", "checkpoint", "seed", "samples",
    "action_rate_no", "action_rate_coarse", "action_rate_full", "action_ratio", "accuracy", "accuracy_low",
    "accuracy_high", "avg_cost", "cost_low", "cost_high", "cost_of_totals", "gflops", "gflops_share", "path_ms",
    "path_ms_share", "vision_tokens", "remaining_vision_tokens", "loss_nats", "fallback_trigger_rate", "unparsed",
    "skipped", "latency", "latency_p95", "mem", "mem_of", "cache_reuse", "corrected", "note",
)  # fmt: skip
"""Columns of `results.csv` and `eval_matrix.csv`; what does not concern a row is empty."""


SHORT = {
    "": "learned",
    "uncertainty_threshold": "threshold",
    "random_policy_matched": "random matched",
    "string_lookup": "string lookup",
}
"""Names of rows for people, where they are not the `baseline_name` itself."""

AnyRule = Rule | PrunedOutcomes | ChanceCorrected
"""What has a row: a rule, a FULL look with fewer tokens, the oracle without its lucky guesses."""


@dataclass(frozen=True)
class RuleResult:
    """One rule over one data set: its row, and what it did with each question."""

    row: dict[str, Any]
    rule: AnyRule
    decisions: Decisions
    correct: np.ndarray
    """float64 [n]."""
    cost: np.ndarray
    """float64 [n], of every pass that was paid."""
    means: tuple[np.ndarray, np.ndarray] | None = None
    """Both as means over the draws of a rule that draws (`decisions` are the first); None: it does not."""
    shares: np.ndarray | None = None
    """float64 [n, 3]: how often each pass was paid, in the mean over draws; None: as `decisions` say."""

    @property
    def mean_correct(self) -> np.ndarray:
        """float64 [n]: what accuracy is the mean of."""
        return self.correct if self.means is None else self.means[0]

    @property
    def mean_cost(self) -> np.ndarray:
        """float64 [n]: what cost is the mean of."""
        return self.cost if self.means is None else self.means[1]

    @property
    def paid(self) -> np.ndarray:
        """float64 [n, 3]: how often NO, COARSE and FULL were paid at each question."""
        return self.decisions.paid.astype(np.float64) if self.shares is None else self.shares


def rule_results(
    scored: ScoredPasses,
    rules: Sequence[AnyRule],
    config: HeadConfig,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[RuleResult]:
    """What each rule would have got, from passes already made; intervals are of resampled clusters."""
    found = [_result(scored, rule, config) for rule in rules]
    found = _distinct_names(found)
    # Which answers are public does not depend on the rule.
    public = np.isfinite(found[0].correct) if found else np.zeros(0, dtype=bool)
    for key, rows, values in (
        ("accuracy", public, [item.mean_correct for item in found]),
        ("cost", np.ones(len(scored), dtype=bool), [item.mean_cost for item in found]),
    ):
        if rows.any():
            table, groups = np.stack(values, axis=1)[rows], scored.clusters[rows]
            bounds = bootstrap_mean(table, groups, resamples=resamples, seed=seed)
            for end, bound in zip(("low", "high"), bounds, strict=True):
                for i, item in enumerate(found):
                    item.row[f"{key}_{end}"] = _mean(bound[i : i + 1])
    for item in found:
        item.row["seed"] = seed
    return found


def _distinct_names(found: list[RuleResult]) -> list[RuleResult]:
    """Names with more digits where rows read the same; a rule that stands there twice is kept once."""
    for digits in (6, 9, 17):
        twins = Counter((item.row["row"], item.row["checkpoint"]) for item in found)
        for item in found:
            if (
                not isinstance(item.rule, PrunedOutcomes | ChanceCorrected)
                and twins[item.row["row"], item.row["checkpoint"]] > 1
            ):
                item.row["row"] = label(item.rule.name, item.rule.facts(), digits)
    same = ("row", "checkpoint", "action_ratio", "accuracy", "avg_cost")
    return list({str([item.row[key] for key in same]): item for item in reversed(found)}.values())[::-1]


def _result(scored: ScoredPasses, rule: AnyRule, config: HeadConfig) -> RuleResult:
    if isinstance(rule, PrunedOutcomes):
        return _pruned_result(scored, rule, config)
    if isinstance(rule, ChanceCorrected):
        return _corrected_result(scored, rule, config)
    return _rule_result(scored, rule, config)


def every_draw(rule: Rule) -> list[Rule]:
    """What a row is the mean of: the draws of a rule that draws, else the rule itself."""
    if isinstance(rule, WithFallback):
        return [dataclasses.replace(rule, rule=one) for one in every_draw(rule.rule)]
    return [*rule.every_draw()] if isinstance(rule, RandomMatched) else [rule]


def _rule_result(scored: ScoredPasses, rule: Rule, config: HeadConfig) -> RuleResult:
    outcomes, draws = scored.outcomes, [one.decide(scored.outcomes) for one in every_draw(rule)]
    decisions, index = draws[0], np.arange(len(scored))
    # Per question and action, the share of draws that took it, and that paid for it.
    count = np.sum([draw.action[:, None] == np.arange(3) for draw in draws], axis=0)
    taken, paid = count / len(draws), np.sum([draw.paid for draw in draws], axis=0) / len(draws)
    correct, loss, left = (_over(taken, values) for values in (outcomes.correct, outcomes.loss, outcomes.tokens))
    cost, paid_tokens = _over(paid, action_costs(outcomes.tokens, config)), _over(paid, outcomes.tokens)
    no, coarse, full = count.sum(0) / count.sum()
    row = _row(scored) | {
        "baseline_name": rule.name,
        "row": label(rule.name, rule.facts()),
        **rule.facts(),
        **action_columns(no, coarse, full),
        "accuracy": _mean(correct),
        "avg_cost": float(cost.mean()),
        "cost_of_totals": ratio_of_totals(outcomes.tokens, outcomes.tokens[:, 2], config, paid),
        "vision_tokens": float(paid_tokens.mean()),
        "remaining_vision_tokens": float(left.mean()),
        "loss_nats": _mean(loss),
        "fallback_trigger_rate": float(np.mean([draw.fallback for draw in draws])),
        "unparsed": int((~scored.parsed[index, decisions.action]).sum()),
    }
    if len(draws) == 1:
        return RuleResult(row, rule, decisions, correct, cost)
    own = _over(decisions.paid, action_costs(outcomes.tokens, config))
    return RuleResult(row, rule, decisions, outcomes.correct[index, decisions.action], own, (correct, cost), paid)


def _over(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [n]: values [n, 3] in these shares. A pass of share 0 may not have been made: NaN does not count."""
    return np.where(shares > 0, shares * values, 0.0).sum(-1)


def _corrected_result(scored: ScoredPasses, oracle: ChanceCorrected, config: HeadConfig) -> RuleResult:
    shares, correct = oracle.shares, oracle.correct
    looks = scored.outcomes.tokens
    cost, tokens = ((shares * values).sum(-1) for values in (action_costs(looks, config), looks))
    row = _row(scored) | {
        "baseline_name": "oracle",
        "row": "oracle (less lucky guesses)",
        "corrected": "for chance",
        **action_columns(*shares.mean(0)),
        "accuracy": _mean(correct),
        "avg_cost": float(cost.mean()),
        "cost_of_totals": ratio_of_totals(looks, looks[:, 2], config, shares),
        "vision_tokens": float(tokens.mean()),
        "remaining_vision_tokens": float(tokens.mean()),
        "fallback_trigger_rate": 0.0,
    }
    return RuleResult(row, oracle, Oracle().decide(scored.outcomes), correct, cost, shares=shares)


def _pruned_result(scored: ScoredPasses, pruned: PrunedOutcomes, config: HeadConfig) -> RuleResult:
    decisions = Decisions.of(np.full(len(scored), 2))
    cost = look_cost(pruned.remaining, scored.outcomes.tokens[:, 2], config)
    left, asked = float(pruned.remaining.mean()), pruned.spec.ratio * float(scored.outcomes.tokens[:, 2].mean())
    # A smaller picture keeps the sides in proportion: its grid may miss the share.
    really = f" ({left:.3g} tokens)" if abs(left - asked) >= 1 else ""
    row = _row(scored) | {
        "baseline_name": PRUNING,
        "row": f"{pruned.spec.mode} {pruned.spec.ratio:g}{really}",
        "pruning_ratio": pruned.spec.ratio,
        "pruning_mode": pruned.spec.mode,
        **action_columns(0, 0, 1),
        "accuracy": _mean(pruned.correct),
        "avg_cost": float(cost.mean()),
        "cost_of_totals": ratio_of_totals(pruned.remaining, scored.outcomes.tokens[:, 2], config),
        "vision_tokens": _mean(scored.outcomes.tokens[:, 2]),
        "remaining_vision_tokens": left,
        "loss_nats": _mean(pruned.loss),
        "fallback_trigger_rate": 0.0,
        "unparsed": int((~pruned.parsed).sum()),
    }
    return RuleResult(row, pruned, decisions, pruned.correct, cost)


def _row(scored: ScoredPasses) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    return row | {"dataset": scored.dataset, "samples": len(scored), "skipped": len(scored.broken or {})}


def action_columns(no: float, coarse: float, full: float) -> dict[str, Any]:
    """Shares of the actions, one column each, and all three in one: `action_ratio`."""
    rates = [float(no), float(coarse), float(full)]
    names = ("action_rate_no", "action_rate_coarse", "action_rate_full")
    return {**dict(zip(names, rates, strict=True)), "action_ratio": rates}


def label(name: str, facts: dict[str, Any], digits: int = 4) -> str:
    """A short name for people: `learned λ=0.05`, `cascade entropy 0.3/0.7`."""
    return " ".join([SHORT.get(name, name), *_parts(facts, digits)])


def _parts(facts: dict[str, Any], digits: int) -> Iterator[str]:
    if facts.get("lambda_cost") is not None:
        yield f"λ={facts['lambda_cost']:g}"
    if facts.get("chosen"):
        yield "(chosen)"
    if facts.get("threshold") is not None:
        second, pair = facts.get("coarse_threshold"), f"{facts['threshold']:.{digits}g}"
        if second is not None:
            # No entropy is below 0: every coarse answer counts as unsure.
            always = facts["uncertainty"] == "entropy" and second < 0
            pair += "/always on to FULL" if always else f"/{second:.{digits}g}"
        yield f"{facts['uncertainty']} {pair}"
    if facts.get("vision") == "coarse":
        yield "coarse"
    if facts.get("matched") == "entropy_buckets":
        yield "by entropy"
    if facts.get("fallback_mode"):
        yield f"fallback {facts['fallback_mode']}"


def _mean(values: np.ndarray) -> float | None:
    """Mean of what there is; None without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None
