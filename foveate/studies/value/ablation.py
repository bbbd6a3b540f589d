"""Inputs (D1), objective (D2), price in training (D3) and actions (D4) of the head, as one table.

    with open_study(config) as study:
        ablate(study).table

Every variant is a head of its own on the same cached passes, so the whole table costs the three passes and some seconds
per head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.files import write_both
from foveate.evaluation.vqa.load import tuned_folder
from foveate.evaluation.vqa.rows import COLUMNS
from foveate.studies.value.result import EvaluationResult, Row
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import Study, written_by
from foveate.studies.value.sweeps import fixed_rules
from foveate.studies.value.train import fit_head, training_passes, tune_model
from foveate.util.files import alone_in
from foveate.vision_value.checkpoint import TrainedHead
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.learned import Learned
from foveate.viz.value.curves import plot_ablation

LAMBDAS = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Where a head of gains is read off, unless `pareto` says otherwise."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "D1 hidden": ("D1", {"feature_mode": "hidden"}),
    "D1 hidden+entropy": ("D1", {"feature_mode": "hidden_entropy"}),
    "D1 hidden+margin": ("D1", {"feature_mode": "hidden_margin"}),
    "D1 hidden+entropy+margin": ("D1", {"feature_mode": "hidden_entropy_margin"}),
    "D2 gain regression": ("D2", {}),
    "D2 gain ranking": ("D2", {"gain_loss": "rank"}),
    "D2 Gumbel straight-through": ("D2", {"use_straight_through": True}),
    "D2 soft mixture": ("D2", {"use_straight_through": False}),
    "D3 λ>0, straight-through": ("D3", {"use_straight_through": True}),
    "D3 λ>0, soft mixture": ("D3", {"use_straight_through": False}),
    "D3 λ=0, straight-through": ("D3", {"use_straight_through": True, "lambda_cost": 0.0}),
    "D3 λ=0, soft mixture": ("D3", {"use_straight_through": False, "lambda_cost": 0.0}),
    "D4 binary": ("D4", {"action_space": "binary"}),
    "D4 ternary": ("D4", {"action_space": "ternary"}),
}
"""Name -> (ablation, what differs from the configured head)."""


@dataclasses.dataclass
class AblationResult(EvaluationResult):
    """A row per variant and lambda, and the fixed rules."""

    @property
    def table(self) -> list[Row]:
        """The rows, each with its `ablation` (D1 to D4)."""
        return [{"ablation": VARIANTS.get(row["checkpoint"] or "", ("",))[0], **row} for row in super().table]


@alone_in(written_by, "ablating")
def ablate(study: Study) -> AblationResult:
    """Train every variant on the training passes and read it off on the evaluation sets.

    Leaves `ablation.csv/json`, `results.csv`, `summary.json`, a plot.
    """
    config = study.config
    study = study.variant(output_dir=config.output_dir or "outputs/ablation", pareto=config.pareto or LAMBDAS)
    config, folder = study.config, study.folder
    study.prepare()
    tuned = tuned_folder(config)
    home = tuned.parent if tuned.is_dir() else folder  # a model that stage 1 has tuned already serves here too
    with_model = tune_model(study, home)
    passes = training_passes(with_model)
    if passes is None:
        # Another process's share of the evaluation; it has no heads and writes nothing.
        share = with_model.variant(pareto=())
        return AblationResult(**vars(evaluate(share, heads=())))
    trained: list[tuple[str, HeadConfig, TrainedHead]] = []
    fitted: dict[str, TrainedHead] = {}
    for name, (_, changes) in VARIANTS.items():
        own = dataclasses.replace(config.policy, **changes)
        key = repr(own)
        if key not in fitted:  # the configured head stands in several of the ablations
            fitted[key] = fit_head(study.variant(policy=own), passes, label=name)
        trained.append((name, own, fitted[key]))
    study.vlm = passes.vlm  # as stage 1 has left it, wherever that is
    found = evaluate(
        study, lambda config, *_: _rules(config, trained), matrix=False, heads=[one for *_, one in trained], plots=False
    )
    result = AblationResult(**vars(found))
    write_both(folder, "ablation", result.table, ("ablation", *COLUMNS))
    result.plots = plot_ablation(result.table, folder, config.language)
    return result


def _rules(config: VqaConfig, trained: Sequence[tuple[str, HeadConfig, TrainedHead]]) -> list[Any]:
    """The fixed rules, and each variant's head: of gains at every lambda, of actions at its own."""
    found = fixed_rules()
    for name, own, one in trained:
        lambdas = config.pareto if own.use_straight_through is None else (own.lambda_cost,)
        found += [Learned(one.head, lam, own, name) for lam in lambdas]
    return found
