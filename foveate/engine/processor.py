"""What this machine's processor has units for, and which of several products it is faster at."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

TRIED = 256, 512, 1024
"""Rows, inner size and columns of a product that is tried."""
SERIES = 7


@functools.cache
def cpu_features() -> frozenset[str]:
    """The processor's features, as Linux names them, and `vnni` for any form of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(flags) | ({"vnni"} if any("vnni" in flag for flag in flags) else set())


def fastest_of(*products: Callable[[], object]) -> list[float]:
    """Seconds of processor time of each in the fastest of several turns, whatever else the machine does."""
    fastest = [float("inf")] * len(products)
    for _ in range(SERIES):
        for i, product in enumerate(products):
            start = time.process_time()
            product()
            fastest[i] = min(fastest[i], time.process_time() - start)
    return fastest
