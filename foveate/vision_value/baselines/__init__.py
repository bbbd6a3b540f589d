"""The rules that the learned head must beat, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.errors import FoveateError
from foveate.vision_value.baselines.always import NAMES, Always
from foveate.vision_value.baselines.base import EVERY_ANSWER, EVERY_PASS, Rule
from foveate.vision_value.baselines.cascade import Cascade
from foveate.vision_value.baselines.oracle import Oracle
from foveate.vision_value.baselines.random_matched import RandomMatched
from foveate.vision_value.baselines.string_lookup import StringLookup
from foveate.vision_value.baselines.uncertainty_threshold import UncertaintyThreshold
from foveate.vision_value.config import HeadConfig

__all__ = [
    "EVERY_ANSWER",
    "EVERY_PASS",
    "Always",
    "Cascade",
    "Oracle",
    "RandomMatched",
    "Rule",
    "StringLookup",
    "UncertaintyThreshold",
    "make_rule",
]


def make_rule(config: HeadConfig, lookup: Mapping[str, tuple[float, float, float]] | None = None) -> Rule:
    """The rule of `policy.baseline_name`, which is neither null (the learned head) nor a pruning method.

    Args:
        lookup: of `string_lookup`: mean gains per wording, which a trained head carries.
    Raises:
        FoveateError: `string_lookup` without its table.
    """
    levels = {name: level for level, name in NAMES.items()}
    name, threshold = config.baseline_name, config.baseline_threshold or 0.0
    uncertainty = config.baseline_uncertainty or "entropy"
    if name in levels:
        return Always(levels[name])
    if name == "uncertainty_threshold":
        return UncertaintyThreshold(threshold, uncertainty, config.baseline_vision)
    if name == "random_policy_matched":
        return RandomMatched(
            config.baseline_target_ratios,
            config.baseline_bucket_ratios,
            config.baseline_bucket_thresholds,
            config.baseline_seed,
            draws=config.baseline_draws,
        )
    if name == "cascade":
        return Cascade(threshold, config.baseline_coarse_threshold, uncertainty)
    if name == "oracle":
        return Oracle()
    if lookup is None:
        raise FoveateError(
            "policy.baseline_name: string_lookup needs the mean gains of the training questions, which `foveate train "
            "value` writes beside the head: give its folder with --checkpoint"
        )
    return StringLookup(lookup, config.lambda_cost, config)
