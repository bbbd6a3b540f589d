"""Stage 1: tune the model itself while it always looks (or never), before a policy is fitted to its passes.

Adapters alone where `model.lora` is set, else all weights. Under `torchrun` every process takes its share of a batch
and gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foveate.errors import FoveateError
from foveate.training.world import World
from foveate.types import VisionLevel, VQASample
from foveate.vision_value.baselines.always import NAMES
from foveate.vision_value.config import TrainingConfig

if TYPE_CHECKING:
    from foveate.models.vlm.model import VLM

FOLDER = "stage1"
"""Of the tuned model, inside the training's output folder."""


def tune(
    vlm: VLM,
    samples: Sequence[VQASample],
    training: TrainingConfig,
    world: World,
    on_step: Callable[[int, int, float], None] | None = None,
) -> None:
    """Minimise the nats per answer token at the level of `training.stage1_baseline_name`, in place.

    Args:
        samples: with public answers and readable pictures.
        on_step: called with (step, steps, loss).
    Raises:
        FoveateError: no sample has an answer, or the loss is not a number.
    """
    level: VisionLevel = next(level for level, name in NAMES.items() if name == training.stage1_baseline_name)
    known = [s for s in samples if s.answers and (s.image is not None or level == "NO")]
    if not known:
        raise FoveateError("stage 1: not one training question has a public answer and a picture")
    model: Any = vlm.model
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.stage1_lr, weight_decay=training.weight_decay)
    per_epoch = max(1, len(known) // training.batch_size)
    order: list[int] = []
    steps = per_epoch * training.stage1_epochs
    draws = torch.Generator().manual_seed(training.seed)
    model.train()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(known), generator=draws).tolist()
        start = step % per_epoch * training.batch_size
        share = order[start : start + training.batch_size][world.rank :: world.size]
        # A process without a question of its own still takes part in the averaging.
        loss = vlm.loss([known[i] for i in share], level, stop=True).mean() if share else weights[0].sum() * 0
        mean = float(world.mean(loss.detach().clone()))
        if mean != mean:
            raise FoveateError(f"stage 1: the loss is not a number at step {step}; lower training.stage1_lr")
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if world.size > 1:
            for weight in weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                weight.grad = world.mean(weight.grad)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if on_step:
            on_step(step + 1, steps, mean)
    model.eval()


def save_tuned(vlm: VLM, folder: Path) -> Path:
    """Write `folder/stage1`: the adapters of a model that has them, else the whole model."""
    out = folder / FOLDER
    if hasattr(vlm.model, "get_base_model"):
        vlm.model.save_pretrained(out)
        return out
    from foveate.models.vlm.load import save_vlm

    return save_vlm(vlm, out)
