"""Number formats of the prefill: which of them this machine has, and a policy's backbone in one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foveate.engine.calibration import Calibration
from foveate.engine.fp8 import in_fp8, missing_units
from foveate.engine.int8 import PAYS, in_int8, int8_layers, int8_speed
from foveate.engine.processor import cpu_features
from foveate.engine.stand_in import backbone_linears
from foveate.errors import FoveateError
from foveate.models.base import ActionModel

Facts = Callable[[], dict[str, Any]]
"""What results say about a format; plain values."""


def backbone_in(name: str, model: ActionModel, calibration: Calibration | None) -> tuple[ActionModel, Facts]:
    """What runs the prefill in this format, and what results say about it.

    Args:
        name: `bf16`, `int8`, `fp8`, or `fp8_reference`, which rounds as fp8 does and multiplies in float32 on any
            device.
        calibration: of the policy, for fp8.
    Raises:
        FoveateError: the device does not have the format, or the policy has not been calibrated for it.
    """
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    option = f"engine.prefill_precision {name}"
    if name == "int8":
        return _in_int8(option, model, device)
    if name == "bf16" and device.type == "cpu" and "avx512_bf16" not in cpu_features():
        raise FoveateError(
            f"{option}: this processor has no avx512_bf16: without it bfloat16 runs at a quarter of float32's speed; "
            "leave it out"
        )
    if name == "bf16":
        if next(iter(backbone_linears(model).values())).weight.dtype != torch.bfloat16:
            raise FoveateError(f"{option}: the policy is loaded in float32; add --dtype bfloat16, or leave it out")
        return model, dict
    lacks = missing_units(device) if name == "fp8" else None
    if lacks is not None:
        raise FoveateError(
            f"{option}: it needs a GPU with float8 units (Ada, Hopper or later), and {lacks}; leave it out, or see "
            "what it does to actions, slowly, with fp8_reference"
        )
    if calibration is None:
        raise FoveateError(
            f"{option}: the policy has not been calibrated; run `foveate engine calibrate --policy POLICY "
            "--data DATA` first"
        )
    made: ActionModel = in_fp8(model, calibration, reference=name == "fp8_reference")
    told = {"fp8": {"layers": len(calibration.quantised), "kept": calibration.kept}}
    return made, lambda: told


def _in_int8(option: str, model: nn.Module, device: torch.device) -> tuple[ActionModel, Facts]:
    if device.type != "cpu":
        raise FoveateError(
            f"{option}: it is for CPUs, and the policy is on {device.type!r}; choose fp8, or leave it out"
        )
    if next(iter(backbone_linears(model).values())).weight.dtype != torch.float32:
        raise FoveateError(f"{option}: the policy is not loaded in float32; leave --dtype out, or this")
    if (speed := int8_speed()) < PAYS:
        raise FoveateError(
            f"{option}: its products run at {speed:.2f} of float32's rate on this machine, rounding included; leave it "
            "out"
        )
    made: ActionModel = in_int8(model)  # type: ignore[assignment]
    return made, lambda: {"int8": int8_layers(made)}  # type: ignore[arg-type]
