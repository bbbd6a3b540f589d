"""Backends by name, and engines made of them.

engine = make_engine(model)                                  # the preset `eager`
engine = make_engine(model, Compiled(vision="eager"))        # a backend for one stage, over the preset
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType

import torch
from torch import nn

from foveate.engine.buckets import GPU_TILE, Buckets
from foveate.engine.calibration import Calibration
from foveate.engine.compiled import CompiledParts, keep_code, missing_compiler
from foveate.engine.config import FASTEST, PRESETS, Eager
from foveate.engine.fastest import resolved
from foveate.engine.graphs import CapturedParts
from foveate.engine.openvino import PACKAGE as OPENVINO
from foveate.engine.openvino import OpenVinoParts
from foveate.engine.packing import packing_pays
from foveate.engine.precision import Facts, backbone_in
from foveate.engine.staged import StagedEngine
from foveate.engine.tensorrt import PACKAGE, TensorRTParts
from foveate.errors import FoveateError, unknown
from foveate.models.base import ActionModel
from foveate.models.common.layers import Run, as_written

TENSORRT = "tensorrt"
BACKENDS: dict[str, Callable[[bool], Run]] = {
    "eager": lambda freeze: as_written,
    "compiled": lambda freeze: CompiledParts(freeze=freeze),
    "cuda_graph": lambda freeze: CapturedParts(),
    TENSORRT: lambda freeze: TensorRTParts(),
    OPENVINO: lambda freeze: OpenVinoParts(),
}
"""Name -> what makes one, told whether it may hold copies of its part's weights."""
NO_TENSORRT = {
    "prefill": "ModelOpt's FP8 MLP in TensorRT is not built in: a pruned prefix has many lengths, such an engine one, "
    "and there was no GPU to test it on; the same layers run in float8 with --engine.prefill cuda_graph "
    "--engine.prefill_precision fp8",
    "denoise": "TensorRT runs the vision tower alone; choose cuda_graph",
}
"""Stage that TensorRT does not run -> why, and what to choose."""


def make_engine(
    model: ActionModel,
    engine: Eager | str = "eager",
    *,
    planned: Mapping[str, Sequence[int]] = MappingProxyType({}),
    calibration: Calibration | None = None,
) -> StagedEngine:
    """An engine for a model.

    Args:
        engine: how it is run, or the name of a preset.
        planned: pruning -> prefix lengths to prepare where the config names none; see `plan.read_plans`.
        calibration: the policy's scales, for a prefill in float8.
    Raises:
        FoveateError: an unknown preset or backend; one that this machine or this version does not have.
    """
    if isinstance(engine, str):
        if engine not in PRESETS:
            raise unknown("engine", engine, PRESETS)
        engine = PRESETS[engine]()
    backends = resolved(engine, dtype_of(model), "cuda" if on_cuda(model) else "cpu")
    for stage, name in backends.items():
        _check_backend(stage, name, model)
    if engine.vision_precision is not None and backends["vision"] != TENSORRT:
        raise FoveateError(
            f"engine.vision_precision {engine.vision_precision}: it is for --engine.vision tensorrt, and vision runs "
            f"{backends['vision']}"
        )
    if engine.prefill_precision is not None and backends["prefill"] == OPENVINO:
        raise FoveateError(
            f"engine.prefill_precision {engine.prefill_precision}: {OPENVINO} runs the prefill in float32; choose "
            "--engine.prefill compiled, or leave it out"
        )
    backbone = model
    facts: Facts = dict
    if engine.prefill_precision is not None:
        backbone, facts = backbone_in(engine.prefill_precision, model, calibration)
    told = []
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
        {stage: _run_of(stage, name, model, engine) for stage, name in backends.items()},
        _buckets(planned, model, engine) if static else None,
        backbone=backbone,
        backends=backends,
        facts=facts,
        compile_pruned=engine.compile_pruned,
        told=told,
    )


def _buckets(planned: Mapping[str, Sequence[int]], model: ActionModel, engine: Eager) -> Buckets:
    align = GPU_TILE if on_cuda(model) else 1
    most = engine.max_buckets, engine.max_bucket_mb << 20
    return Buckets(engine.buckets or (), *most, planned=planned, align=align)


def _run_of(stage: str, name: str, model: ActionModel, engine: Eager) -> Run:
    if name == TENSORRT:
        return TensorRTParts(half=engine.vision_precision == "fp16")
    return BACKENDS[name](name == "compiled" and _may_freeze(model, stage, engine))


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
    if name not in BACKENDS:
        raise unknown(f"backend of {stage}", name, [*BACKENDS, FASTEST])
    if name == TENSORRT and stage in NO_TENSORRT:
        raise FoveateError(f"engine.{stage} {name}: {NO_TENSORRT[stage]}")
    here = "" if torch.cuda.is_available() else ", and this machine has no CUDA device"
    if name in ("cuda_graph", TENSORRT) and not on_cuda(model):
        device = here or ", and the policy is not on one: add --device cuda"
        raise FoveateError(f"engine.{stage} {name}: it needs a CUDA device{device}; choose compiled or eager")
    if name == OPENVINO and find_spec(OPENVINO) is None:
        raise FoveateError(
            f'engine.{stage} {name}: it is not installed; pip install "foveate[openvino]", or choose compiled'
        )
    if name == OPENVINO and (dtype_of(model) != "float32" or on_cuda(model)):
        is_ = f"{dtype_of(model)} on {'cuda' if on_cuda(model) else 'cpu'}"
        raise FoveateError(
            f"engine.{stage} {name}: it runs float32 on a CPU, and the policy is {is_}; choose compiled or eager"
        )
    if name == TENSORRT and find_spec(PACKAGE) is None:
        raise FoveateError(
            f'engine.{stage} {name}: {PACKAGE} is not installed; pip install "foveate[tensorrt]", or choose cuda_graph'
        )


def dtype_of(model: ActionModel) -> str:
    """Number format of the model's weights: `float32`."""
    weight = next(model.parameters()) if isinstance(model, nn.Module) else torch.empty(0)
    return str(weight.dtype).removeprefix("torch.")


def on_cuda(model: ActionModel) -> bool:
    """Whether the model's weights are on a CUDA device."""
    return isinstance(model, nn.Module) and next(model.parameters()).is_cuda
