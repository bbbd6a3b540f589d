"""The prefill in 8-bit integers on a CPU: weights rounded per output channel once, inputs per call (W8A8, dynamic).

    backbone = in_int8(model)
    backbone.prefill(prefix)      # each layer measures its error on the first prefix, and stays where it is large
    int8_layers(backbone)

Products are FBGEMM's (Khudia et al. 2021, arXiv 2101.05615), which PyTorch brings. Without VNNI they sum pairs of
products in 16 bits, so inputs are rounded to seven bits there: then no sum saturates.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.engine.processor import TRIED, cpu_features, fastest_of
from foveate.engine.stand_in import (
    MOST_ERROR,
    NOT_WHOLE,
    backbone_parts,
    relative_error,
    replace_linears,
    stand_in,
    too_far,
)

PAYS = 1.2
"""Speed-up of a product, rounding its inputs included, from which on it pays."""
Model = TypeVar("Model", bound=nn.Module)


class _Packed:
    """A rounded weight as FBGEMM reads it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().contiguous()
        scales = weight.abs().amax(1).clamp_min(1e-12).double() / 127
        with warnings.catch_warnings():  # that quantised tensors may leave a later torch; this one is pinned
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scales, torch.zeros_like(scales).long(), 0, torch.qint8)
        self.weight: Any = torch.ops.quantized.linear_prepack(rounded, bias)


@functools.cache
def seven_bits() -> bool:
    """Whether inputs have seven bits on this processor."""
    return "vnni" not in cpu_features()


_packed: weakref.WeakValueDictionary[int, _Packed] = weakref.WeakValueDictionary()
_numbers = itertools.count()


@torch.library.custom_op("foveate::int8_linear", mutates_args=())
def _int8_linear(x: Tensor, number: int, columns: int) -> Tensor:
    """x float32 [..., K] times a packed weight -> [..., columns]; one operation, so that it can be compiled around."""
    out: Tensor = torch.ops.quantized.linear_dynamic(x, _packed[number].weight, seven_bits())
    return out


@_int8_linear.register_fake
def _(x: Tensor, number: int, columns: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], columns)


class Int8Linear(nn.Module):
    """A linear layer in 8 bits, unless its error on the first inputs that it sees is over the bound."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.error: float | None = None
        """On its first inputs; None: it has not run."""
        self._weight, self._number = _Packed(linear.weight, linear.bias), next(_numbers)
        _packed[self._number] = self._weight

    @property
    def weight(self) -> Tensor:
        """In float32: who takes a part of a projection takes it as it was."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [..., K] -> [..., N]."""
        if self.error is None:
            exact = self.linear(x)
            self.error = relative_error(self._product(x), exact)
        out: Tensor = self.linear(x) if self.error > MOST_ERROR else self._product(x)
        return out

    def _product(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.foveate.int8_linear(x.contiguous(), self._number, self.linear.out_features)
        return out


def in_int8(model: Model) -> Model:
    """A stand-in for the model whose backbone multiplies in 8 bits."""
    other: Model = stand_in(model)
    replace_linears(other, lambda name, linear: Int8Linear(linear))
    return other


def int8_layers(model: nn.Module) -> dict[str, Any]:
    """What results say: `layers` that run in 8 bits, and those `kept` in float32 -> why; plain values."""
    made = backbone_parts(model, Int8Linear)
    kept = {
        name: too_far(part.error, MOST_ERROR)
        for name, part in made.items()
        if part.error is not None and part.error > MOST_ERROR
    }
    kept |= {name: NOT_WHOLE for name, part in made.items() if part.error is None}
    return {"layers": len(made) - len(kept), "kept": kept}


def int8_product(rows: int, inner: int, columns: int) -> Callable[[], Tensor] | None:
    """A product of this shape with numbers at random, rounding its inputs included; None: this torch has none here."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return None
    x, rounded = torch.randn(rows, inner), Int8Linear(nn.Linear(inner, columns, bias=False))
    rounded.error = 0.0
    return lambda: rounded(x)


@functools.cache
def int8_speed() -> float:
    """Rate of an 8-bit product over that of a float32 one on this machine; takes some 0.1 s of processor time."""
    rows, inner, columns = TRIED
    rounded = int8_product(rows, inner, columns)
    if rounded is None:
        return 0.0
    x, weight = torch.randn(rows, inner), torch.randn(inner, columns).t()
    with torch.inference_mode():
        exact_s, rounded_s = fastest_of(lambda: F.linear(x, weight), rounded)
    return exact_s / rounded_s
