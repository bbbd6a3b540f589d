"""The ways to run a policy that a benchmark compares: engine, pruning, denoising steps, cameras."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from foveate.errors import FoveateError, unknown
from foveate.pruning import CONFIGS, PrunerConfig, make_config

CHECKPOINT = "checkpoint"
"""The pruner that the policy came with."""


@dataclass(frozen=True)
class Variant:
    """One row of a benchmark."""

    engine: str
    pruning: str
    """`none`, `checkpoint`, or a method and its budget: `random_0.25` keeps a quarter, `stride_16` 16 patches."""
    steps: int | None
    """Denoising steps; None: the model has none."""
    views: int | None = None
    """Cameras that an observation holds; None: all."""

    @property
    def name(self) -> str:
        """`eager_none_10steps_2views`: of run folders and progress bars."""
        parts = [self.engine, self.pruning]
        parts += [f"{self.steps}steps"] if self.steps else []
        return "_".join(parts + ([f"{self.views}views"] if self.views else []))


def matrix(
    engines: tuple[str, ...],
    pruning: tuple[str, ...],
    steps: tuple[int | None, ...],
    views: tuple[int | None, ...] = (None,),
) -> list[Variant]:
    """Every combination, the last axis running fastest."""
    return [Variant(*each) for each in dict.fromkeys(product(engines, pruning, steps, views))]


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
