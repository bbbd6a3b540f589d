"""Training checkpoints: everything that an exact resume needs, written so that a crash never leaves half of one.

    RUN/2000/train_state/model.safetensors   the weights being trained; those that stay as they began are not written
                                             (of a policy with adapters, nearly all)
                        /ema.safetensors     their moving average (float32)
                        /state.pt            step, config, optimizer state: plain tensors, numbers and strings
        /...                                 what the training exports of the averaged weights: a policy folder

A checkpoint is written under a temporary name and renamed when it is whole. No random state is stored,
because none is carried from step to step: every draw of step `s` comes from generators seeded with `(seed, s)`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from foveate.errors import FoveateError
from foveate.training.ema import Ema
from foveate.training.shards import is_sharded, on_host, optimizer_state, place_optimizer, placed
from foveate.util.files import draft_folder
from foveate.util.words import plural
from foveate.util.world import World

FORMAT = 2
STATE = "train_state"
Export = Callable[[Path, int], None]
"""Write into a folder what the module, which carries the averaged weights, has become after so many steps."""


@dataclass
class Progress:
    """What is trained, and how far it is: the three parts of a checkpoint."""

    module: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""


def save_checkpoint(
    run: Path, progress: Progress, config: dict[str, Any], *, world: World, export: Export | None = None
) -> Path:
    """Write `run/STEP`, whole or not at all. All processes take part, the main one writes.

    Args:
        config: what must be equal for a run to go on from here.
        export: adds to the folder what the averaged weights become.
    """
    final = run / str(progress.step)
    with draft_folder(final, "the checkpoint") if world.is_main else nullcontext() as begun:
        if export is not None:
            with progress.ema.applied():
                if begun is not None:
                    export(begun, progress.step)
        frozen = _frozen(progress.module)
        trained = {name: value for name, value in progress.module.state_dict().items() if name not in frozen}
        for name, tensors in (("model", trained), ("ema", progress.ema.state_dict())):
            copies = on_host(tensors, wanted=world.is_main)
            if begun is not None:
                (begun / STATE).mkdir(exist_ok=True)
                save_file(copies, begun / STATE / f"{name}.safetensors")
        state = {
            "format": FORMAT,
            "step": progress.step,
            "processes": world.size,
            "config": config,
            "optimizer": optimizer_state(progress.optimizer, wanted=world.is_main),
        }
        if begun is not None:
            torch.save(state, begun / STATE / "state.pt")
    return final


def prune_checkpoints(run: Path, keep_last: int, keep_period: int | None = None) -> None:
    """Remove all but the newest `keep_last`, and those at multiples of `keep_period` steps."""
    for old in checkpoints(run)[:-keep_last]:
        if keep_period is None or int(old.name) % keep_period:
            shutil.rmtree(old)


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [state.parent for state in run.glob(f"*/{STATE}") if state.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def load_checkpoint(path: Path, progress: Progress, config: dict[str, Any], *, processes: int = 1) -> None:
    """Restore a run in place.

    Raises:
        FoveateError: the checkpoint is broken, or was written under a config that would go on differently.
    """
    folder = path / STATE
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=is_sharded(progress.module))
        weights, average = load_file(folder / "model.safetensors"), load_file(folder / "ema.safetensors")
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
    mine = progress.module.state_dict()
    weights = {name: placed(value, mine[name]) if name in mine else value for name, value in weights.items()}
    missing, unexpected = progress.module.load_state_dict(weights, strict=False)
    if wrong := sorted({*missing} - _frozen(progress.module) | {*unexpected}):
        raise FoveateError(f"{path}: holds another model's weights, they differ in {wrong[0]!r}; choose another --out")
    progress.ema.load_state_dict(average)
    place_optimizer(progress.optimizer, state["optimizer"])
    progress.step = state["step"]
    if state["processes"] != processes:
        logging.getLogger("foveate").info(
            "%s was written by %s, now there are %d: the batches stay the same; sums are rounded in another order, and "
            "what each process draws itself (a pruner's exploration, dropout) is drawn differently",
            path,
            plural(state["processes"], "process", "processes"),
            processes,
        )


def _frozen(module: nn.Module) -> set[str]:
    """Weights that are not trained, by name."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
