"""π0 and π0.5 as a family: from a checkpoint folder to a model and its processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foveate.errors import FoveateError
from foveate.models.base import Family, ModelOptions
from foveate.models.pi0.describe import as_text, describe
from foveate.models.pi0.detect import CheckpointInfo, detect
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.processing import Processor
from foveate.models.pi0.weights import load_weights


def look(folder: Path, options: ModelOptions) -> CheckpointInfo:
    """What the folder holds; raises as `detect` does."""
    return detect(
        folder,
        robot=options.robot,
        config_name=options.config_name,
        tokenizer=options.tokenizer,
        action_horizon=options.action_horizon,
        lerobot_version=options.lerobot_version,
        clean_prompt=options.clean_prompt,
    )


def load(info: CheckpointInfo, options: ModelOptions) -> tuple[Pi0, Processor]:
    """The model on its device, in evaluation mode, and its processor.

    Raises:
        FoveateError: something is missing (all of it named), or the weights are damaged.
    """
    if options.lora_adapter is not None:
        raise FoveateError("lora_adapter: of π0 and π0.5 merged checkpoints alone are read; merge it before")
    if options.action_rows is not None:
        raise FoveateError("action_rows: π0 and π0.5 have no action head over tokens of the prefix; leave it out")
    times = options.denoising_times
    steps = options.num_steps or (len(times) if times else info.config.num_steps)
    config = replace(info.config, dtype=options.dtype, num_steps=steps, times=times)
    processor = Processor.from_info(replace(info, config=config), asset_id=options.asset_id)
    return load_weights(info.weights, config, options.device), processor


FAMILY = Family("pi0", look, load, describe, as_text)
