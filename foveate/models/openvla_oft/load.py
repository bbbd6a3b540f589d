"""OpenVLA-OFT as a family: from a checkpoint folder to a model and its processor."""

from __future__ import annotations

from pathlib import Path

from foveate.errors import FoveateError
from foveate.models.base import Family, ModelOptions
from foveate.models.openvla_oft.describe import as_text, describe
from foveate.models.openvla_oft.detect import OFTInfo, detect
from foveate.models.openvla_oft.lora import Adapter
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.models.openvla_oft.processing import Processor, read_tokenizer
from foveate.models.openvla_oft.weights import load_weights


def load(info: OFTInfo, options: ModelOptions) -> tuple[OpenVLAOFT, Processor]:
    """The model on its device, in evaluation mode, and its processor.

    Raises:
        FoveateError: something is missing (all of it named), or the weights are damaged.
    """
    if options.num_steps is not None or options.denoising_times is not None:
        raise FoveateError("num_steps: OpenVLA-OFT decodes in one pass; leave it out")
    if options.config_name is not None:
        raise FoveateError(f"config_name {options.config_name}: openpi has no OpenVLA-OFT; leave it out")
    if info.missing or info.robot is None or info.tokenizer is None:
        raise FoveateError("\n  ".join([f"{info.path}: cannot run yet, missing:", *info.missing]))
    processor = Processor(info.config, info.robot, read_tokenizer(info.tokenizer), *info.norms(options.asset_id))
    adapter = Adapter(Path(options.lora_adapter)) if options.lora_adapter else None
    return load_weights(info.path, info.weights, info.config, options.device, adapter), processor


FAMILY = Family("openvla_oft", detect, load, describe, as_text)
