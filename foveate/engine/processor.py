"""What this machine's processor has units for."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def cpu_features() -> frozenset[str]:
    """The processor's features, as Linux names them, and `vnni` for any form of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(flags) | ({"vnni"} if any("vnni" in flag for flag in flags) else set())
