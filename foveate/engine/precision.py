"""Number formats of the prefill: which of them this machine has, and a policy's backbone in one of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.engine.calibration import Calibration
from foveate.engine.fp8 import in_fp8, missing_units
from foveate.engine.stand_in import backbone_linears
from foveate.errors import FoveateError
from foveate.models.base import ActionModel

FEATURES = {
    "bf16": ("avx512_bf16", "without it bfloat16 runs at a quarter of float32's speed"),
    "int8": ("vnni", "without it int8 products are unpacked to wider ones"),
}
"""Format -> the feature that a processor needs for it, and why it is refused without."""


def backbone_in(name: str, model: ActionModel, calibration: Calibration | None) -> tuple[ActionModel, dict[str, Any]]:
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
    if name in FEATURES and device.type == "cpu":
        feature, why = FEATURES[name]
        if feature not in cpu_features():
            raise FoveateError(f"{option}: this processor has no {feature}: {why}; leave it out")
    if name == "bf16":
        if next(iter(backbone_linears(model).values())).weight.dtype != torch.bfloat16:
            raise FoveateError(f"{option}: the policy is loaded in float32; add --dtype bfloat16, or leave it out")
        return model, {}
    if name == "int8":
        raise FoveateError(f"{option}: not in this version yet; leave it out")
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
    return made, {"fp8": {"layers": len(calibration.quantised), "kept": calibration.kept}}


@functools.cache
def cpu_features() -> frozenset[str]:
    """The processor's features, as Linux names them, and `vnni` for any form of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(flags) | ({"vnni"} if any("vnni" in flag for flag in flags) else set())
