"""What this machine can do: a bare matrix product and a bare copy, at the sizes that a model asks for.

rates = measure_peak(work, torch.float32, "cpu")
rates.flops            # FLOP/s of the fastest of the model's own products
rates.own(work["prefill"])   # seconds that the stage's products take, each alone
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from foveate.bench.work import Shape, Work
from foveate.engine.int8 import int8_product

SECONDS = 0.15
"""How long each product and each copy is repeated."""
COVERED = 0.9
"""Share of a stage's FLOP whose products are measured; the rest is taken at their mean rate."""
LARGEST_COPY = 2**28
"""Bytes."""


@dataclass(frozen=True)
class Peak:
    """Rates of one device, measured in one run."""

    products: Mapping[Shape, float]
    """FLOP/s of each product alone."""
    copies: Mapping[int, float]
    """Bytes of a block -> bytes per second of its copy, those read and those written counted."""
    quantised: Mapping[Shape, float] = field(default_factory=dict)
    """The same of 8-bit products, where the device has them."""

    @property
    def flops(self) -> float:
        """FLOP/s of the fastest product."""
        return max(self.products.values())

    def bandwidth(self, size: float) -> float:
        """Bytes per second of the copy whose size is nearest."""
        return self.copies[min(self.copies, key=lambda measured: abs(measured - size))]

    def read(self, work: Work) -> float:
        """Seconds in which a stage's weights, keys and values are read."""
        return work.bytes / self.bandwidth(work.working_set)

    def floor(self, work: Work) -> float:
        """Seconds that a stage takes at least: all products at the fastest rate, or all reads, whichever is longer."""
        return max(work.flop / self.flops, self.read(work))

    def rate(self, work: Work, quantised: bool = False) -> float:
        """FLOP/s at which a stage runs where each of its products runs as fast as alone."""
        rates = self.quantised if quantised else self.products
        known = {shape: count for shape, count in work.products.items() if shape in rates}
        flop = {shape: 2.0 * shape[0] * shape[1] * shape[2] * count for shape, count in known.items()}
        return sum(flop.values()) / sum(flop[shape] / rates[shape] for shape in known)


def measure_peak(work: Mapping[str, Work], dtype: torch.dtype, device: str, seconds: float = SECONDS) -> Peak:
    """Run the largest products of each stage, and copy a block as large as the weights of each stage."""
    shapes = {shape for stage in work.values() for shape in largest(stage)}
    sizes = {min(LARGEST_COPY, max(4096, stage.working_set)) for stage in work.values()}
    with torch.inference_mode():
        products = {shape: _product(shape, dtype, device, seconds) for shape in sorted(shapes)}
        copies = {size: _copy(size, device, seconds) for size in sorted(sizes)}
        quantised = {shape: rate for shape in sorted(shapes) if (rate := _quantised(shape, device, seconds))}
    return Peak(products, copies, quantised if len(quantised) == len(products) else {})


def largest(work: Work, covered: float = COVERED) -> list[Shape]:
    """The products that make up this share of a stage's FLOP, the largest first."""
    flop = {shape: shape[0] * shape[1] * shape[2] * count for shape, count in work.products.items()}
    chosen: list[Shape] = []
    for shape in sorted(flop, key=lambda s: -flop[s]):
        if chosen and sum(flop[s] for s in chosen) >= covered * sum(flop.values()):
            break
        chosen.append(shape)
    return chosen


def _product(shape: Shape, dtype: torch.dtype, device: str, seconds: float) -> float:
    """FLOP/s with the weight stored by rows or by columns, whichever is faster."""
    m, k, n = shape
    x = torch.randn(m, k, device=device).to(dtype)
    by_rows, by_columns = torch.randn(k, n, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype).t()
    best = min(_fastest(lambda w=w: torch.mm(x, w), device, seconds / 2) for w in (by_rows, by_columns))  # type: ignore[misc]
    return 2.0 * m * k * n / best


def _quantised(shape: Shape, device: str, seconds: float) -> float | None:
    """Operations per second of the 8-bit product of this shape, its inputs' rounding included on a CPU; None: none."""
    m, k, n = shape
    if torch.device(device).type == "cpu":
        product = int8_product(m, k, n)
        return product and 2.0 * m * k * n / _fastest(product, device, seconds)
    x = torch.randint(-127, 127, (m, k), dtype=torch.int8, device=device)
    w = torch.randint(-127, 127, (n, k), dtype=torch.int8, device=device).t()
    try:
        return 2.0 * m * k * n / _fastest(lambda: torch._int_mm(x, w), device, seconds)
    except RuntimeError:  # no such product on this device
        return None


def _copy(size: int, device: str, seconds: float) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(run: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds of one call in the fastest of several series of calls."""
    cuda = torch.device(device).type == "cuda"

    def series(count: int) -> float:
        if cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            run()
        if cuda:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / count

    count = max(1, int(seconds / 10 / max(series(1), 1e-7)))
    return min(series(count) for _ in range(10))
