"""Wall-clock time by stage, with the device synchronised around each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimer:
    """`with timer("vision"): ...` -> `timer.ms["vision"]`, in milliseconds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ms: dict[str, float] = {}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        yield
        self.ms[stage] = self.ms.get(stage, 0.0) + (self._now() - start) * 1e3
