"""Which prefix lengths an engine of static shapes should prepare for a trained pruner, out of its demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foveate.engine.plan import plan, write_plan
from foveate.models.base import pack
from foveate.pruning import label
from foveate.pruning.inference import Pruning
from foveate.training.config import LoopConfig
from foveate.training.loop import Share, arithmetic
from foveate.training.policy.data import DemoSource
from foveate.training.policy.objective import PolicyObjective
from foveate.util.world import World

BATCHES, ROWS = 8, 32
"""How many batches are looked at, and rows of each at most."""


@torch.inference_mode()
def plan_lengths(objective: PolicyObjective, source: DemoSource, loop: LoopConfig, world: World, folder: Path) -> None:
    """Make the lengths that the pruner leaves the default of a policy folder (engine.json).

    Looks at the batches that training would have gone on with. Nothing is written where a budget tells how many
    patches stay: engines spread lengths closely enough then. Nor of methods within the backbone.
    """
    model: Any = objective.model
    pruner = objective.pruner
    if pruner is None or not pruner.enabled or pruner.late or pruner.looks_inside:
        return
    lengths: list[int] = []
    training = objective.training
    objective.eval()
    try:
        rows = min(ROWS, loop.batch_size)
        for step in range(loop.steps, loop.steps + BATCHES):
            inputs = source.batch(Share(step, 0, rows, loop.batch_size)).to(world.device).inputs
            with arithmetic(loop, world):
                whole = model.embed_prefix(inputs)
                if pruner.at_most(whole) is not None:
                    return
                shape = model.spec.noise_shape
                noise = None if shape is None else torch.randn(rows, *shape, device=world.device)
                left = Pruning(pruner, model, inputs, noise).before(whole, pack)
            lengths += left.mask.sum(1).tolist()
    finally:
        objective.train(training)
    write_plan(folder, label(pruner.config), plan(lengths).buckets)
