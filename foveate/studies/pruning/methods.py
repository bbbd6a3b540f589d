"""Pruning methods that are compared with each other, controls first, and which of them a policy can run."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.bench.variants import Variant, set_up
from foveate.errors import FoveateError
from foveate.policy import Policy
from foveate.pruning import CONFIGS
from foveate.pruning.base import Budget

CONTROLS = ("random", "stride", "topk_norm", "downsample", "depth_drop")
"""What a method has to beat, cheapest first."""
METHODS = (*CONTROLS, *(n for n, config in CONFIGS.items() if issubclass(config, Budget) and n not in CONTROLS))
"""Everything that takes a budget, controls first."""


def label_of(method: str, budget: float) -> str:
    """`random_0.25`, as `bench.variants.pruner_config` reads it."""
    return f"{method}_{budget:g}"


def able(
    policy: Policy, methods: Sequence[str], asked: Sequence[str], budget: float
) -> tuple[list[str], dict[str, str]]:
    """Methods that run on this policy, in their order, and why others do not.

    Args:
        asked: methods that must be able.
    Raises:
        FoveateError: one of them is not.
    """
    found, left_out = [], {}
    for method in methods:
        try:
            tried = set_up(policy, Variant("eager", label_of(method, budget), policy.spec.num_steps), policy.engine)
            tried.infer(policy.example(), session="tried")
            found.append(method)
        except FoveateError as error:
            if method in asked:
                raise
            left_out[method] = str(error)
    return found, left_out
