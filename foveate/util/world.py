"""The processes that train together: one, or several under `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from foveate.errors import FoveateError

PATIENCE = timedelta(hours=4)
"""How long processes wait for the main one, which writes checkpoints and evaluates alone."""


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """The one process that writes files and draws the progress bar."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value = value / self.size
        return value

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`: the process's own CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FoveateError(f"device {name!r}: torch {torch.__version__} sees no CUDA device; use --loop.device cpu")
    return device


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the process group that `torchrun` describes in the environment; alone, there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=choose_device(device))
        return
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size, chosen)
        # A process that leaves while another still uses the group would end it with an abort.
        dist.barrier()
    finally:
        dist.destroy_process_group()
