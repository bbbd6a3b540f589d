"""The ways to run a policy that a benchmark compares: engine, pruning, denoising steps, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import get_args

from foveate.engine.base import Engine
from foveate.engine.config import PRESETS, STAGES, Eager, Precision
from foveate.engine.reuse import PrefixReuse
from foveate.errors import FoveateError, unknown
from foveate.policy import LoadOptions, Policy
from foveate.pruning import CONFIGS, PrunerConfig, make_config, make_pruner

CHECKPOINT = "checkpoint"
"""The pruner that the policy came with."""
NO_REUSE = PrefixReuse()


@dataclass(frozen=True)
class Variant:
    """One row of a benchmark."""

    engine: str
    """Name of a preset, or what tells the stages of another."""
    pruning: str
    """`none`, `checkpoint`, or a method and its budget: `random_0.25` keeps a quarter, `stride_16` 16 patches."""
    steps: int | None
    """Denoising steps; None: the model has none."""
    views: int | None = None
    """Cameras that an observation holds; None: all."""

    @property
    def name(self) -> str:
        """`eager_none_10steps_2views`: of run folders and progress bars."""
        parts = [self.engine.replace(", ", "+").replace(" ", "-"), self.pruning]
        parts += [f"{self.steps}steps"] if self.steps else []
        return "_".join(parts + ([f"{self.views}views"] if self.views else []))


def matrix(
    policy: Policy,
    engines: Sequence[str],
    pruning: Sequence[str],
    steps: Sequence[int],
    views: Sequence[int | None] = (None,),
) -> list[Variant]:
    """Every combination, the last axis running fastest.

    Args:
        steps: none of them: the policy's own.
    Raises:
        FoveateError: the policy came without a pruner, or has no denoising steps to choose from.
    """
    if CHECKPOINT in pruning and not has_pruner(policy):
        raise FoveateError(f"pruning checkpoint: policy {policy.spec.name!r} came without a pruner; leave it out")
    own = policy.spec.num_steps
    if own is None and steps:
        raise FoveateError(f"denoising_steps: policy {policy.spec.name!r} decodes in one pass; leave it out")
    return [Variant(*each) for each in dict.fromkeys(product(engines, pruning, steps or (own,), views))]


PRECISIONS = ("prefill_precision", "vision_precision")


def has_pruner(policy: Policy) -> bool:
    return policy.pruner is not None and policy.pruner.enabled


def engines_of(names: Sequence[str], config: LoadOptions) -> dict[str, Eager]:
    """Name -> config of the engines to compare; none of them: the config's own engine.

    Args:
        names: presets, each alone or with the prefill's number format: `compiled+int8`; buckets and whatever else is
            no backend or number format are the config's own.
    Raises:
        FoveateError: an unknown preset or format, or presets beside an engine of the config's own.
    """
    if not names:
        return {config.engine.label: config.engine}
    if not config.engine.exact:
        raise FoveateError("engines names presets, and engine another one: give --engines or --engine, one of them")
    own = {f.name: getattr(config.engine, f.name) for f in fields(Eager) if f.name not in (*STAGES, *PRECISIONS)}
    engines = {}
    for name in names:
        preset, plus, form = name.partition("+")
        if preset not in PRESETS:
            raise unknown("engine", preset, PRESETS)
        if plus and form not in get_args(Precision):
            raise unknown("number format of the prefill", form, get_args(Precision))
        engines[name] = PRESETS[preset](**own, prefill_precision=form or None)  # type: ignore[arg-type]
    return engines


def set_up(policy: Policy, variant: Variant, engine: Engine, prefix_cache: PrefixReuse = NO_REUSE) -> Policy:
    """The policy as a variant runs it; model and processing are shared."""
    config = pruner_config(variant.pruning)
    pruner = policy.pruner if config is None else make_pruner(config)
    facts = {"name": policy.spec.name, "device": policy.device}
    one = Policy(engine, policy.processor, pruner, **facts, prefix_cache=prefix_cache, looking=policy.looking)
    one.spec = replace(one.spec, num_steps=variant.steps)
    return one


def pruner_config(label: str) -> PrunerConfig | None:
    """The config that a label means (`none`, `lightvla`, `random_0.25`, `stride_16`); None for `checkpoint`.

    Raises:
        FoveateError: an unknown method, or a budget that it does not take.
    """
    if label == CHECKPOINT or label in CONFIGS:
        return None if label == CHECKPOINT else make_config(label)
    method, _, budget = label.rpartition("_")
    if method not in CONFIGS:
        raise unknown("pruning", label, (*CONFIGS, CHECKPOINT, *(f"{name}_0.25" for name in CONFIGS)))
    try:
        kept = float(budget)
    except ValueError:
        raise FoveateError(f"pruning {label!r}: expected a share below 1 or a number of patches at its end") from None
    key, value = ("keep_ratio", kept) if kept < 1 else ("keep_tokens", int(kept))
    return make_config({"name": method, key: value})
