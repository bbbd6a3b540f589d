"""The prefill in float8 (e4m3): weights and inputs of the backbone's linear layers are rounded.

    backbone = in_fp8(model, read_calibration(folder))
    backbone.prefill(prefix)

A weight has one scale, and so have a layer's inputs: the largest magnitude that calibration saw becomes the largest one
of float8; what is larger later is cut off (static scales; Micikevicius et al. 2022, "FP8 Formats for Deep Learning").
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.engine.calibration import Calibration
from foveate.engine.record import CALIBRATION
from foveate.engine.stand_in import backbone_linears, replace_linears, stand_in
from foveate.errors import FoveateError

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
"""448."""
TILE = 16
"""Both sizes of a weight must be multiples of it for `torch._scaled_mm`."""
UNITS = (8, 9)
"""Compute capability from which on a GPU has float8 units: Ada; Hopper is 9.0."""
Model = TypeVar("Model", bound=nn.Module)


def missing_units(device: torch.device) -> str | None:
    """Why a device cannot multiply float8; None: it can."""
    if device.type != "cuda":
        return f"the policy is on {device.type!r}"
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return None if capability >= UNITS else f"{name} has none (compute capability {capability[0]}.{capability[1]})"


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale in float8; what is beyond its largest number becomes that number."""
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


def scale_of(largest: float) -> float:
    """The scale that maps this magnitude to float8's largest."""
    return max(largest, 1e-12) / LARGEST


class Fp8Linear(nn.Module):
    """A linear layer that rounds its weight once and its inputs each time.

    `weight` and `bias` are the layer's own, for who reads some rows of them.
    """

    rounded_weight: Tensor
    scale: Tensor
    input_scale: Tensor

    def __init__(self, linear: nn.Linear, input_max: float, reference: bool = False) -> None:
        """
        Args:
            input_max: the largest magnitude of its inputs in calibration.
            reference: multiply the rounded numbers in float32, on any device, instead of by the device's float8 units.
        """
        super().__init__()
        self.reference, self.weight, self.bias = reference, linear.weight, linear.bias
        like = {"dtype": torch.float32, "device": linear.weight.device}
        with torch.no_grad():
            scale = torch.tensor(scale_of(linear.weight.abs().max().item()), **like)  # type: ignore[arg-type]
            weight = rounded(linear.weight, scale).contiguous()
        self.register_buffer("rounded_weight", weight.float() if reference else weight)
        self.register_buffer("scale", scale)
        self.register_buffer("input_scale", torch.tensor(scale_of(input_max), **like))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N], of the same type."""
        inputs = rounded(x.flatten(0, -2), self.input_scale)
        out: Tensor
        if self.reference:
            out = (F.linear(inputs.float(), self.rounded_weight) * (self.input_scale * self.scale)).to(x.dtype)
        else:
            out = torch._scaled_mm(
                inputs,
                self.rounded_weight.t(),
                scale_a=self.input_scale,
                scale_b=self.scale,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        out = out.unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias


class Fp8:
    """A `Form` for calibration."""

    def unfit(self, linear: nn.Linear) -> str | None:
        sizes = linear.in_features, linear.out_features
        return (
            f"sizes {sizes[0]} and {sizes[1]}: not both multiples of {TILE}" if any(n % TILE for n in sizes) else None
        )

    def trial(self, linear: nn.Linear, input_max: float) -> nn.Module:
        return Fp8Linear(linear, input_max, reference=True)


def in_fp8(model: Model, calibration: Calibration, reference: bool = False) -> Model:
    """A stand-in for the model whose backbone runs in float8 where calibration allows it.

    Raises:
        FoveateError: the calibration names a layer that the model does not have.
    """
    other, chosen = stand_in(model), set(calibration.quantised)
    if strange := sorted(chosen - backbone_linears(other).keys()):
        raise FoveateError(f"{CALIBRATION}: the model has no backbone layer {strange[0]!r}; calibrate again")

    def make(name: str, linear: nn.Linear) -> nn.Module | None:
        return Fp8Linear(linear, calibration.layers[name].input_max, reference) if name in chosen else None

    replace_linears(other, make)
    return other
