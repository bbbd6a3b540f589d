"""Whether packing a matrix for the product that reads it pays on this machine: measured, once per process.

Frozen into a callable, weights are packed, and every callable holds its own.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from foveate.engine.processor import TRIED, fastest_of

PAYS = 1.1
"""Speed-up from which on it does. At 1.03 a machine where it gains nothing chose it in one run and not in the next, and
then compiled all anew: what is frozen is other code."""


@functools.cache
def packing_pays() -> bool:
    """Takes some 0.1 s of processor time."""
    if not torch.backends.mkl.is_available():
        return False
    rows, inner, columns = TRIED
    x = torch.randn(rows, inner)
    weight = torch.randn(inner, columns).t()
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    as_it_is_s, packed_s = fastest_of(
        lambda: F.linear(x, weight), lambda: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)
    )
    return as_it_is_s >= PAYS * packed_s
