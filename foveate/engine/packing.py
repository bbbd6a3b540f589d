"""Whether packing a matrix for the product that reads it pays on this machine: measured, once per process.

Frozen into a callable, weights are packed, and every callable holds its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

PAYS = 1.1
"""Speed-up from which on it does. At 1.03 a machine where it gains nothing chose it in one run and not in the next, and
then compiled all anew: what is frozen is other code."""
SHAPE = 256, 512, 1024
"""Rows, inner size and columns of the product that is tried."""
SERIES = 7


@functools.cache
def packing_pays() -> bool:
    """Takes some 0.1 s of processor time."""
    if not torch.backends.mkl.is_available():
        return False
    rows, inner, columns = SHAPE
    x = torch.randn(rows, inner)
    weight = torch.randn(inner, columns).t()
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    products: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: F.linear(x, weight),
        lambda: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows),
    )
    fastest = [float("inf")] * 2
    for _ in range(SERIES):
        for i, product in enumerate(products):
            start = time.process_time()  # whatever else the machine does
            product()
            fastest[i] = min(fastest[i], time.process_time() - start)
    return fastest[0] >= PAYS * fastest[1]
