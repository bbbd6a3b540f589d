"""Pruning methods: score -> KeepSet -> Selection, one file per method.

    pruner = make_pruner(LightVLA(min_keep=4))      # or "lightvla", or {"name": "random", "keep_ratio": 0.25}
    selection = pruner.select(prefix)               # what stays; an engine packs it

A method joins by one line in `CONFIGS`; docs/adding-a-method.md says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.errors import FoveateError, unknown
from foveate.pruning.base import TokenPruner
from foveate.pruning.cdpruner import CDPruner
from foveate.pruning.dart import DART
from foveate.pruning.depth_drop import DepthDrop
from foveate.pruning.divprune import DivPrune
from foveate.pruning.downsample import Downsample
from foveate.pruning.fastv import FastV
from foveate.pruning.grids import GridS
from foveate.pruning.lightvla import LightVLA
from foveate.pruning.none import NoPruning
from foveate.pruning.random import Random
from foveate.pruning.sparsevlm import SparseVLM
from foveate.pruning.topk_norm import TopKNorm
from foveate.pruning.uniform_stride import UniformStride
from foveate.pruning.visionzip import VisionZip
from foveate.pruning.vla_adp import VLAADP
from foveate.pruning.vla_pruner import VLAPruner
from foveate.util.choices import from_options, name_of

PrunerConfig = (
    LightVLA
    | GridS
    | DivPrune
    | CDPruner
    | DART
    | VisionZip
    | FastV
    | SparseVLM
    | VLAADP
    | VLAPruner
    | Random
    | UniformStride
    | TopKNorm
    | Downsample
    | DepthDrop
    | NoPruning
)

CONFIGS: dict[str, type] = {
    "lightvla": LightVLA,
    "grids": GridS,
    "divprune": DivPrune,
    "cdpruner": CDPruner,
    "dart": DART,
    "visionzip": VisionZip,
    "fastv": FastV,
    "sparsevlm": SparseVLM,
    "vla_adp": VLAADP,
    "vla_pruner": VLAPruner,
    "random": Random,
    "stride": UniformStride,
    "topk_norm": TopKNorm,
    "downsample": Downsample,
    "depth_drop": DepthDrop,
    "none": NoPruning,
}

__all__ = [
    "CONFIGS",
    "DART",
    "VLAADP",
    "CDPruner",
    "DepthDrop",
    "DivPrune",
    "Downsample",
    "FastV",
    "GridS",
    "LightVLA",
    "NoPruning",
    "PrunerConfig",
    "Random",
    "SparseVLM",
    "TokenPruner",
    "TopKNorm",
    "UniformStride",
    "VLAPruner",
    "VisionZip",
    "label",
    "make_config",
    "make_pruner",
]


def make_config(spec: PrunerConfig | str | Mapping[str, Any]) -> PrunerConfig:
    """The config that `spec` describes: itself, a short name, or a mapping with `name` and options."""
    if isinstance(spec, tuple(CONFIGS.values())):
        return spec  # type: ignore[return-value]
    options = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if "name" not in options:
        raise FoveateError(
            f"pruner: expected a config, one of the names {', '.join(CONFIGS)}, or a mapping with 'name' and options, "
            f"got {spec!r}"
        )
    name = options.pop("name")
    if name not in CONFIGS:
        raise unknown("pruner", str(name), CONFIGS)
    config: PrunerConfig = from_options(name, CONFIGS[name], options)
    return config


def label(config: object) -> str:
    """Method and budget in a word, as tables have it: `lightvla`, `random_0.25`; `none` where all patches stay."""
    if config is None:
        return "none"
    budget = getattr(config, "keep_ratio", None) or getattr(config, "keep_tokens", None)
    return f"{name_of(type(config))}_{budget:g}" if budget else name_of(type(config))


def make_pruner(spec: PrunerConfig | str | Mapping[str, Any] | None) -> TokenPruner | None:
    """The pruner that `spec` describes (see `make_config`), in evaluation mode; None stays None.

    Raises:
        FoveateError: an unknown name or option, or a contradiction in the options.
    """
    return None if spec is None else make_config(spec).build().eval()
