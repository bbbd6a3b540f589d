"""Backends by name, and engines made of them.

engine = make_engine(model)                                  # the preset `eager`
engine = make_engine(model, Compiled(vision="eager"))        # a backend for one stage, over the preset
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from foveate.engine.buckets import Buckets
from foveate.engine.compiled import CompiledParts, keep_code, missing_compiler
from foveate.engine.config import FASTEST, PRESETS, Eager
from foveate.engine.graphs import CapturedParts
from foveate.engine.packing import packing_pays
from foveate.engine.staged import StagedEngine
from foveate.errors import FoveateError, unknown
from foveate.models.base import ActionModel
from foveate.models.common.layers import Run, as_written

BACKENDS: dict[str, Callable[[bool], Run]] = {
    "eager": lambda freeze: as_written,
    "compiled": lambda freeze: CompiledParts(freeze=freeze),
    "cuda_graph": lambda freeze: CapturedParts(),
}
"""Name -> what makes one, told whether it may hold copies of its part's weights."""
NOT_YET = {"tensorrt": "a CUDA device and torch_tensorrt"}
"""Backends that this version knows by name alone -> what they need."""
PRECISIONS = {
    "bf16": ("avx512_bf16", "without it bfloat16 runs at a quarter of float32's speed"),
    "int8": ("vnni", "without it int8 products are unpacked to wider ones"),
    "fp8": ("", "fp8 needs a GPU with fp8 units (Hopper or later)"),
}
"""Number format of the prefill -> the processor's feature that it needs, and why it is refused without."""


def make_engine(
    model: ActionModel, engine: Eager | str = "eager", *, buckets: Sequence[int] | None = None
) -> StagedEngine:
    """An engine for a model.

    Args:
        engine: how it is run, or the name of a preset.
        buckets: prefix lengths to prepare where the config names none.
    Raises:
        FoveateError: an unknown preset or backend; one that this machine or this version does not have.
    """
    if isinstance(engine, str):
        if engine not in PRESETS:
            raise unknown("engine", engine, PRESETS)
        engine = PRESETS[engine]()
    for stage, name in engine.backends.items():
        _check_backend(stage, _settled(name, model), model)
    if engine.prefill_precision is not None:
        _check_precision(engine.prefill_precision)
    told = []
    backends = {stage: _settled(name, model) for stage, name in engine.backends.items()}
    if "compiled" in backends.values():
        # First: torch settles on its own folder where it is asked for a compiler.
        unkept = keep_code()
        if (missing := missing_compiler()) is not None:
            told.append(f"{missing}; until then stages run eager")
            backends = {stage: "eager" if name == "compiled" else name for stage, name in backends.items()}
        elif unkept is not None:
            told.append(unkept)
    static = backends["prefill"] != "eager" or backends["denoise"] == "cuda_graph"
    return StagedEngine(
        model,
        {
            stage: BACKENDS[name](name == "compiled" and _may_freeze(model, stage, engine))
            for stage, name in backends.items()
        },
        Buckets(engine.buckets or buckets or (), engine.max_buckets, engine.max_bucket_mb << 20) if static else None,
        backends=backends,
        compile_pruned=engine.compile_pruned,
        told=told,
    )


def _settled(name: str, model: ActionModel) -> str:
    """The backend that `fastest` means."""
    return name if name != FASTEST else "cuda_graph" if on_cuda(model) else "compiled"


def _may_freeze(model: ActionModel, stage: str, engine: Eager) -> bool:
    """Whether packed weights are faster here, and all copies of a stage's fit what buckets may hold.

    The prefill has a copy for each length.
    """
    if not isinstance(model, nn.Module) or next(model.parameters()).device.type != "cpu":
        return False
    stacks: Sequence[nn.Module] = [model]
    copies = 1
    if stage == "prefill":
        stacks, copies = [*model.attention_stacks()["prefix"]], len(engine.buckets or ()) or engine.max_buckets
    size = sum(weight.numel() * weight.element_size() for stack in stacks for weight in stack.parameters())
    return copies * size <= engine.max_bucket_mb << 20 and packing_pays()


def _check_backend(stage: str, name: str, model: ActionModel) -> None:
    if name not in (*BACKENDS, *NOT_YET):
        raise unknown(f"backend of {stage}", name, [*BACKENDS, *NOT_YET, FASTEST])
    here = "" if torch.cuda.is_available() else ", and this machine has no CUDA device"
    if name in NOT_YET:
        raise FoveateError(
            f"engine.{stage} {name}: it needs {NOT_YET[name]}{here}; this version does not have it yet: choose "
            "compiled or eager"
        )
    if name == "cuda_graph" and not on_cuda(model):
        device = here or ", and the policy is not on one: add --device cuda"
        raise FoveateError(f"engine.{stage} {name}: it needs a CUDA device{device}; choose compiled or eager")


def on_cuda(model: ActionModel) -> bool:
    """Whether the model's weights are on a CUDA device."""
    return isinstance(model, nn.Module) and next(model.parameters()).is_cuda


def _check_precision(name: str) -> None:
    """None has been measured to pay on a machine that was at hand: each is refused, with its reason."""
    feature, why = PRECISIONS[name]
    lacks = f"this processor has no {feature}: {why}" if feature and feature not in cpu_features() else ""
    raise FoveateError(
        f"engine.prefill_precision {name}: {lacks or (why if not feature else 'not in this version yet')}; leave it out"
    )


@functools.cache
def cpu_features() -> frozenset[str]:
    """The processor's features, as Linux names them, and `vnni` for any form of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(flags) | ({"vnni"} if any("vnni" in flag for flag in flags) else set())
