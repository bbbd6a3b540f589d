"""Training checkpoints: everything that an exact resume needs, written so that a crash never leaves half of one.

    OUT/checkpoints/step_00002000/model.safetensors   the weights being trained; those that stay as they began are not
                                                      written (of a policy with adapters, nearly all)
                                 /ema.safetensors     their moving average (float32)
                                 /state.pt            step, config, optimizer state: plain tensors, numbers and strings

A checkpoint is written under a temporary name and renamed when it is whole. No random state is stored,
because none is carried from step to step: every draw of step `s` comes from generators seeded with `(seed, s)`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.training.ema import Ema
from foveate.util.files import draft_folder

FORMAT = 1


@dataclass
class Progress:
    """What is trained, and how far it is: the three parts of a checkpoint."""

    module: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""


def save_checkpoint(folder: Path, progress: Progress, config: dict[str, Any], keep_last: int = 2) -> Path:
    """Write `folder/step_XXXXXXXX` atomically, then remove all but the newest `keep_last`."""
    final = folder / f"step_{progress.step:08d}"
    with draft_folder(final, "the checkpoint") as begun:
        frozen = _frozen(progress.module)
        trained = {name: value for name, value in progress.module.state_dict().items() if name not in frozen}
        save_file(_plain(trained), begun / "model.safetensors")
        save_file(_plain(progress.ema.state_dict()), begun / "ema.safetensors")
        state = {
            "format": FORMAT,
            "step": progress.step,
            "config": config,
            "optimizer": progress.optimizer.state_dict(),
        }
        torch.save(state, begun / "state.pt")
    for old in checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def load_checkpoint(path: Path, progress: Progress, config: dict[str, Any]) -> None:
    """Restore a run in place.

    Raises:
        FoveateError: the checkpoint is broken, or was written under a config that would go on differently.
    """
    try:
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        weights, average = load_file(path / "model.safetensors"), load_file(path / "ema.safetensors")
    except Exception as error:
        raise FoveateError(
            f"cannot read checkpoint {path}: {error}; remove this folder to resume from the one before"
        ) from error
    differs = sorted(k for k in state["config"].keys() | config.keys() if state["config"].get(k) != config.get(k))
    if differs:
        before = ", ".join(f"{k}={state['config'].get(k)!r} (now {config.get(k)!r})" for k in differs[:4])
        raise FoveateError(
            f"{path} was written with another config: {before}; use the same config to resume, or another --out"
        )
    missing, unexpected = progress.module.load_state_dict(weights, strict=False)
    if wrong := sorted({*missing} - _frozen(progress.module) | {*unexpected}):
        raise FoveateError(f"{path}: holds another model's weights, they differ in {wrong[0]!r}; choose another --out")
    progress.ema.load_state_dict(average)
    progress.optimizer.load_state_dict(state["optimizer"])
    progress.step = state["step"]


def _frozen(module: nn.Module) -> set[str]:
    """Weights that are not trained, by name."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous host copies; a tensor that shares memory with another (tied weights) becomes its own."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
