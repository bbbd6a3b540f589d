"""Parts of the matrix, each with its files and its plot: over lambda, thresholds, shares of tokens, and the oracle.

    with open_study(config) as study:
        pruning(study).table

All of them are look-ups in the cache that `evaluate` fills, so one after another costs no further pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.files import write_both
from foveate.evaluation.vqa.matrix import learned_rules, oracles, threshold_rules
from foveate.evaluation.vqa.oracle import analyse
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.studies.value.result import EvaluationResult, Rules
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import Study
from foveate.util.files import write_json
from foveate.vision_value.baselines import EVERY_ANSWER, Always
from foveate.vision_value.checkpoint import TrainedHead
from foveate.vision_value.learned import with_fallback
from foveate.viz.value.bars import plot_oracle

LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
RATIOS = (1.0, 0.75, 0.5, 0.25)


def pareto(study: Study) -> EvaluationResult:
    """The learned head at every lambda, beside the fixed rules: `pareto_lambda.*`."""

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
        learned = [with_fallback(rule, config.policy) for rule in learned_rules(config, heads)]
        return [*fixed_rules(), *learned, *oracles(scored)]

    study = _own_folder(study, "pareto", pareto=study.config.pareto or LAMBDAS)
    return _write_sweep(evaluate(study, rules, matrix=False), "pareto_lambda")


def threshold(study: Study) -> EvaluationResult:
    """The uncertainty rule at every threshold: `pareto_threshold.*`."""
    study = _own_folder(study, "threshold")
    look = study.config.vision.upper()

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
        # The ends of the curve, of the same passes.
        return [*threshold_rules(config, scored, {}), Always("FULL" if look == "FULL" else "COARSE"), Always("NO")]

    result = _without_heads(study, rules, frozenset({"text", "NO", look}))
    return _write_sweep(result, "pareto_threshold", only="uncertainty_threshold")


def pruning(study: Study) -> EvaluationResult:
    """Shares of vision tokens, by the method asked for, at random, and by a smaller picture: `pareto_pruning.*`."""

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
        return [Always("FULL"), *scored.pruned]

    study = _own_folder(study, "pruning", ratios=study.config.ratios or RATIOS)
    return _write_sweep(_without_heads(study, rules, frozenset({"FULL"})), "pareto_pruning")


@dataclasses.dataclass
class OracleResult(EvaluationResult):
    """The rows of the fixed rules and of the oracle."""

    analysis: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Data set -> what `evaluation.vqa.oracle.analyse` finds in it."""

    def notes(self) -> list[str]:
        return [*super().notes(), f"analysis: {self.folder / 'analysis_oracle.json'}"]


def oracle(study: Study) -> OracleResult:
    """The cheapest action that is right, question by question: `analysis_oracle.json`."""
    study = _own_folder(study, "oracle")
    found = _without_heads(study, lambda _, scored, __: [*fixed_rules(), *oracles(scored)], EVERY_ANSWER)
    result = OracleResult(**vars(found))
    if result.rows:
        config, folder = result.config, result.folder
        result.analysis = {name: analyse(scored, config.policy) for name, scored in result.datasets.items()}
        write_json(folder / "analysis_oracle.json", result.analysis)
        result.plots.insert(0, plot_oracle(result.analysis, folder / "analysis_oracle.png", config.language))
    return result


def fixed_rules() -> list[Any]:
    """The rules that do the same with every question."""
    return [Always("FULL"), Always("COARSE"), Always("NO")]


def refuse_one_rule(config: VqaConfig) -> None:
    """A study that has rows of its own cannot have one rule alone.

    Raises:
        FoveateError: `policy.baseline_name` is set.
    """
    if config.policy.baseline_name is not None:
        raise FoveateError(
            f"policy.baseline_name is {config.policy.baseline_name}, and a sweep has its own rows; leave it null, or "
            "use `foveate eval vqa` for one rule"
        )


def _own_folder(study: Study, name: str, **changes: Any) -> Study:
    refuse_one_rule(study.config)
    return study.variant(output_dir=study.config.output_dir or f"outputs/sweep_{name}", **changes)


def _without_heads(study: Study, rules: Rules, needs: frozenset[str]) -> EvaluationResult:
    return evaluate(study, rules, matrix=False, needs=needs, heads=())


def _write_sweep(result: EvaluationResult, stem: str, only: str | None = None) -> EvaluationResult:
    """`stem.csv/json` of the rows whose `baseline_name` is `only`, or of all."""
    if result.rows:
        rows = [item.row for item in result.rows]
        write_both(result.folder, stem, [row for row in rows if only in (None, row["baseline_name"])])
    return result
