"""LoRA adapters into the weights that they adapt, to the bit as peft merges them.

A merge in another order or precision gives another policy; public reports of 0 % success come from that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import FoveateError


def merge_lora(base: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """base + scale * B A, in the base's dtype throughout, with one rounding after each operation.

    Args:
        base: [O, I], or a convolution's [O, C, h, w].
        lora_a, lora_b: [R, I] and [O, R]; of a convolution [R, C, h, w] and [O, R, 1, 1].
        scale: `lora_alpha / r` of the adapter's config.
    Raises:
        FoveateError: the adapter is of another rank or target.
    """
    rank = lora_a.shape[0]
    fits = lora_b.shape[:2] == (base.shape[0], rank) and lora_a.shape[1:] == base.shape[1:]
    if not fits:
        raise FoveateError(
            f"adapter of shapes A {tuple(lora_a.shape)}, B {tuple(lora_b.shape)} does not fit weights "
            f"{tuple(base.shape)}: expected A [R, {', '.join(map(str, base.shape[1:]))}], B [{base.shape[0]}, R]"
        )
    a, b = lora_a.to(base.dtype).flatten(1), lora_b.to(base.dtype).flatten(1)
    with torch.no_grad():
        return base + (b @ a).view(base.shape) * scale
