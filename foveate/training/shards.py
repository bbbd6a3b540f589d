"""Fully sharded training (FSDP2; Zhao et al. 2023): each process holds a part of weights, gradients, moments, average.

A unit is a module, or several, whose weights are gathered before its forward or backward pass and given back after it.
A checkpoint holds whole tensors, so it does not depend on who trained, nor on how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from foveate.util.world import World


def shard(module: nn.Module, units: Sequence[Sequence[nn.Module]], world: World) -> None:
    """Leave each process its part of a module that all of them hold alike; the part lies on `world.device`.

    Args:
        units: modules that are gathered together, inner ones first; the rest of `module` is a unit of its own, which
            stays gathered during a step.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for unit in units:
        fully_shard(list(unit), mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, not copied."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, spread out as another one of its shape is."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    # Without a source rank nothing is sent: each takes its part of its own copy.
    return distribute_tensor(tensor.to(mesh.device_type), mesh, like.placements, src_data_rank=None)


def on_host(tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """Whole contiguous host copies, each with memory of its own (tied weights too).

    Args:
        wanted: False in a process that only takes part; it gets none.
    """
    copies = {}
    for name, tensor in tensors.items():
        if wanted or isinstance(tensor, DTensor):
            full = whole(tensor.detach())
            if wanted:
                copies[name] = full.cpu().contiguous().clone()
    return copies


def optimizer_state(optimizer: torch.optim.Optimizer, wanted: bool) -> dict[str, Any]:
    """`optimizer.state_dict()` with moments that are whole; every process has to ask for it.

    Args:
        wanted: False in a process that only takes part.
    """
    found = optimizer.state_dict()
    for number, state in found["state"].items():  # its entries are the optimizer's own, so they are not written to
        parts = {name: value for name, value in state.items() if isinstance(value, DTensor)}
        found["state"][number] = state | on_host(parts, wanted)
    return found


def place_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` of what `optimizer_state` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, state in found["state"].items():
        like = parameters[number]
        placed_here = {name: placed(value, like) for name, value in state.items() if value.shape == like.shape}
        found["state"][number] = state | placed_here
    optimizer.load_state_dict(found)
