"""Stage 1: tune the model itself while it always looks (or never), before a head is fitted to its passes.

Adapters alone where `model.lora` is set, else all weights; on the loop that trains everything here, so it resumes and
runs under `torchrun`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError
from foveate.training.config import LoopConfig, OptimConfig
from foveate.training.loop import fit
from foveate.training.vlm.train import LevelMix, ListedQuestions, QuestionLoss, QuestionSource
from foveate.types import VQASample
from foveate.util.files import draft_folder
from foveate.util.words import plural
from foveate.util.world import World
from foveate.vision_value.config import TrainingConfig

if TYPE_CHECKING:
    from foveate.models.vlm.model import VLM

log = logging.getLogger(__name__)
FOLDER = "stage1"
"""Of the tuned model, inside the training's output folder."""
LEVELS = {
    "no_vision": LevelMix(blind=1, full=0),
    "always_coarse": LevelMix(coarse=1, full=0),
    "always_full": LevelMix(full=1),
}
"""`training.stage1_baseline_name` -> what the model sees."""
RECIPE = "tuned_on.json"
"""Beside the tuned model: what it was made of."""
RUN = "stage1_run"
"""Checkpoints and metrics of stage 1, inside the training's output folder."""


def is_tuned(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether stage 1 has ended in this folder.

    Raises:
        FoveateError: it has, with another recipe.
    """
    known = _recipe_of(folder / FOLDER)
    if known is None:
        return (folder / FOLDER).is_dir()
    differing = [f"{k}: {known.get(k)!r} there, {recipe[k]!r} now" for k in recipe if known.get(k) != recipe[k]]
    if differing:
        raise FoveateError(
            f"{folder / FOLDER} was tuned otherwise ({'; '.join(differing)}); name another --output_dir, or remove "
            f"{folder / FOLDER} and {folder / RUN}"
        )
    return True


def check_origin(tuned: Path, model: str) -> None:
    """Whether `model.path` is what stage 1 began with.

    Raises:
        FoveateError: the tuned model was made from another one.
    """
    origin = (_recipe_of(tuned) or {}).get("model", model)
    if origin != model and Path(origin).resolve() != Path(model).resolve():
        raise FoveateError(
            f"{tuned} was tuned from {origin}, but model.path is {model}: set model.path to {origin}, name the "
            "training.output_dir (or --checkpoint) of the other model, or set training.stage1_epochs to 0"
        )


def _recipe_of(tuned: Path) -> dict[str, Any] | None:
    """What a tuned model says that it was made of; None: it does not say, as that of another trainer."""
    try:
        return json.loads((tuned / RECIPE).read_text())
    except (OSError, ValueError):
        return None


def tune(
    vlm: VLM,
    samples: Sequence[VQASample],
    training: TrainingConfig,
    world: World,
    folder: Path,
    recipe: Mapping[str, Any],
) -> Path:
    """Minimise the nats per answer token, in place, and write the tuned model (or its adapters) to `folder/stage1`.

    Args:
        samples: those without a public answer, or without a picture that can be decoded, are passed over.
        recipe: what the result depends on, kept beside it.
    Raises:
        FoveateError: no sample has an answer and a picture, or the loss is not a number.
    """
    blind = training.stage1_baseline_name == "no_vision"
    faults = ["" if blind else _fault(vlm, sample) for sample in samples]
    seen = [s for s, fault in zip(samples, faults, strict=True) if blind or (not fault and s.image is not None)]
    questions = ListedQuestions(seen)
    broken = [fault for fault in faults if fault]
    if not questions.samples:
        first = f"; {plural(len(broken), 'picture')} cannot be read, the first: {broken[0]}" if broken else ""
        raise FoveateError(f"stage 1: not one training question has a public answer and a picture{first}")
    if broken and world.is_main:
        log.warning("stage 1: %d of %s left out: %s", len(broken), plural(len(samples), "question"), broken[0])
    steps = math.ceil(len(questions.samples) / training.batch_size) * training.stage1_epochs
    optim = OptimConfig(
        lr=training.stage1_lr,
        final_lr=training.stage1_lr / 100,
        warmup_steps=steps // 20,
        weight_decay=training.weight_decay,
    )
    loop = LoopConfig(
        steps=steps, batch_size=training.batch_size, device=str(world.device), save_every=training.save_every
    )
    source = QuestionSource([questions], [1.0], LEVELS[training.stage1_baseline_name], training.seed)
    objective = QuestionLoss(vlm, 0.0, 1.0).to(world.device)
    ema = fit(
        objective,
        source,
        loop,
        optim,
        folder / RUN,
        world=world,
        seed=training.seed,
        identity=dict(recipe),
    )
    out = folder / FOLDER
    with ema.applied():
        if world.is_main:
            with draft_folder(out) as begun:  # a folder of that name is a whole model
                save(vlm, begun)
                (begun / RECIPE).write_text(json.dumps(dict(recipe), indent=1) + "\n")
    world.barrier()
    vlm.model.eval()
    return out


def _fault(vlm: VLM, sample: VQASample) -> str:
    """Why the model cannot look at the question's picture; empty: it can."""
    from foveate.models.vlm.images import decode
    from foveate.util.pictures import MAX_PIXELS, ImageError

    try:
        decode(sample, getattr(vlm, "max_pixels", MAX_PIXELS))
    except ImageError as error:
        return str(error)
    return ""


def save(vlm: VLM, out: Path) -> None:
    """The adapters of a model that has them, else the whole model."""
    if hasattr(vlm.model, "get_base_model"):
        vlm.model.save_pretrained(out)
        return
    from foveate.models.vlm.load import save_vlm

    save_vlm(vlm, out)
