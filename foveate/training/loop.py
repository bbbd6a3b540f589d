"""The training loop: any objective, any source of batches, one process or several.

Every random draw of step `s` comes from generators seeded with `(seed, s)`: which samples, their augmentation, noise
and times (the same in every process, which then takes its rows), and the model's own draws (by rank). So a
resumed run needs no stored random state to be exact, and a run over several processes sees the batches of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from foveate.errors import FoveateError
from foveate.training.checkpoint import (
    Export,
    Progress,
    checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from foveate.training.config import LoopConfig, OptimConfig
from foveate.training.ema import Ema
from foveate.training.lock import sole_training
from foveate.training.log import RunLog
from foveate.training.schedule import learning_rate
from foveate.training.shards import is_sharded, whole
from foveate.util.world import World

ORDER, DRAWS, MODEL = range(3)
"""Streams of random numbers."""


@dataclass(frozen=True)
class Share:
    """Rows `start .. stop - 1` of the batch of one step: what one process computes in one portion."""

    step: int
    start: int
    stop: int
    size: int
    """Rows of the whole batch."""


class Source(Protocol):
    """Where batches come from. `batch` is a pure function of its argument."""

    def batch(self, share: Share) -> Any: ...


Evaluate = Callable[[Path], Mapping[str, float]]
"""From the folder of a checkpoint to numbers for the log; none where it is not its turn."""


class Objective(Protocol):
    """An nn.Module whose forward turns a batch into a scalar loss, the mean over the batch's rows."""

    def begin_step(self, step: int, total: int) -> dict[str, float]:
        """Set what changes with the step; returns what should be logged of it."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers of the last forward pass, for the log."""
        ...


def seed_of(*parts: int) -> int:
    """One well-mixed seed of several integers (run seed, stream, step, rank)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def shares(step: int, config: LoopConfig, world: World) -> list[Share]:
    """This process's portions of the batch of one step."""
    portions = world.size * config.accumulate
    if config.batch_size % portions:
        raise FoveateError(
            f"loop.batch_size {config.batch_size} cannot be cut into {portions} equal portions "
            f"({world.size} processes x accumulate {config.accumulate})"
        )
    rows = config.batch_size // portions
    first = world.rank * config.accumulate
    return [
        Share(step, (first + i) * rows, (first + i + 1) * rows, config.batch_size) for i in range(config.accumulate)
    ]


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW, fused; only matrices are decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def fit(
    objective: Any,
    source: Source,
    loop: LoopConfig,
    optim: OptimConfig,
    out: Path,
    *,
    world: World,
    seed: int = 0,
    identity: dict[str, Any] | None = None,
    export: Export | None = None,
    evaluate: Evaluate | None = None,
    carrier: nn.Module | None = None,
) -> Ema:
    """Train to `loop.steps`, going on from the newest checkpoint in `out`, if there is one.

    Args:
        objective: an nn.Module that is an `Objective`, on `world.device`.
        identity: what must be equal for a checkpoint to be resumed: the config, as plain values.
        export: adds to each checkpoint what the averaged weights become.
        evaluate: looks at each checkpoint; what it says is logged.
        carrier: where the objective is in parts (`shards`), the same module whole, for `export`.
    Returns:
        the averaged weights; `with ema.applied(): ...` evaluates or exports them.
    Raises:
        FoveateError: the loss is not finite, a checkpoint does not fit, nothing can be written, or another process
            trains in `out`.
    """
    if loop.threads:
        torch.set_num_threads(loop.threads)
    progress = Progress(objective, Ema(objective, optim.ema_decay, carrier), make_optimizer(objective, optim))
    if there := checkpoints(out):
        load_checkpoint(there[-1], progress, identity or {}, processes=world.size)
    forward = _wrap(objective, loop, world)
    objective.train()
    with sole_training(out, world), RunLog(out, loop, progress.step, speaks=world.is_main) as run_log:
        total, since = torch.zeros((), device=world.device), 0
        for step in range(progress.step, loop.steps):
            numbers = objective.begin_step(step, loop.steps)
            torch.manual_seed(seed_of(seed, MODEL, step, world.rank))
            total += _backward(forward, source, shares(step, loop, world), loop, world)
            norm = whole(nn.utils.clip_grad_norm_(progress.ema.parameters.values(), optim.clip_norm))
            rate = _set_rate(progress.optimizer, step, loop, optim)
            progress.optimizer.step()
            progress.optimizer.zero_grad(set_to_none=True)
            progress.ema.update(step)
            progress.step, since = step + 1, since + 1
            run_log.step(progress.step)
            saves = progress.step % loop.save_every == 0 or progress.step == loop.steps
            if progress.step % loop.log_every == 0 or saves:
                loss = float(world.mean(total / since))
                _check(loss, float(norm), progress.step)
                numbers |= {"loss": loss, "lr": rate, "grad_norm": float(norm)} | objective.metrics()
                run_log.metrics(progress.step, numbers)
                total, since = torch.zeros((), device=world.device), 0
            if saves:
                saved = save_checkpoint(out, progress, identity or {}, world=world, export=export)
                if world.is_main:
                    prune_checkpoints(out, loop.keep_checkpoints, loop.keep_period)
                    run_log.evaluation(progress.step, {} if evaluate is None else evaluate(saved))
    world.barrier()
    return progress.ema


def _wrap(objective: nn.Module, loop: LoopConfig, world: World) -> nn.Module:
    if loop.compile:
        objective.compile(dynamic=False)
    if world.size == 1 or is_sharded(objective):
        return objective
    # The backbone's last layer gives keys and values alone, so a part of its weights has no gradient. Gradients live in
    # the buckets that are exchanged, or each would be there twice.
    return DistributedDataParallel(objective, find_unused_parameters=True, gradient_as_bucket_view=True)


def _backward(forward: nn.Module, source: Source, portions: list[Share], loop: LoopConfig, world: World) -> Tensor:
    """Gradients of one step's mean loss, summed over the portions; returns that loss, detached."""
    total = torch.zeros((), device=world.device)
    for i, share in enumerate(portions):
        batch = source.batch(share).to(world.device)
        # Whole gradients are exchanged once per step; parts at each portion, or each process would hold whole ones.
        last = i == len(portions) - 1
        replicas = forward if isinstance(forward, DistributedDataParallel) else None
        with contextlib.nullcontext() if last or replicas is None else replicas.no_sync():
            with arithmetic(loop, world):
                loss = forward(batch) / len(portions)
            loss.backward()
        total += loss.detach()
    return total


def arithmetic(loop: LoopConfig, world: World) -> torch.autocast:
    """What forward and backward pass compute in, as `precision` says."""
    # Each weight is used once, so that a cache of rounded weights would only hold those of recomputed layers.
    enabled = loop.precision == "bfloat16"
    return torch.autocast(world.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def _set_rate(optimizer: torch.optim.Optimizer, step: int, loop: LoopConfig, optim: OptimConfig) -> float:
    rate = learning_rate(
        step,
        peak=optim.lr,
        final=optim.final_lr,
        warmup=optim.warmup_steps,
        total=optim.decay_steps or loop.steps,
        decay_at=optim.decay_at,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _check(loss: float, norm: float, step: int) -> None:
    if not np.isfinite([loss, norm]).all():
        raise FoveateError(
            f"step {step}: loss {loss}, gradient norm {norm}; nothing after the last checkpoint is kept. "
            "Lower optim.lr or optim.clip_norm, or look for broken samples, and run again"
        )
