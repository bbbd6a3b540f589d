"""How OpenVLA-OFT is trained: by L1 regression from a policy that was fine-tuned already, as LightVLA does it.

What trains is what OpenVLA-OFT's own script trains: low-rank adapters on the vision-language model, and all of the
action head and of the proprio projector; without `lora` every weight. A pruner joins as it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from foveate.data.demos import DemoEpisode
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.common.tensor_files import read_header
from foveate.models.openvla_oft.config import CROP
from foveate.models.openvla_oft.detect import OFTInfo
from foveate.models.openvla_oft.images import policy_picture, resized
from foveate.models.openvla_oft.lora import save_adapter
from foveate.models.openvla_oft.processing import Processor, pad_prompts, read_tokenizer
from foveate.models.openvla_oft.weights import load_weights, places_of, read_components_whole
from foveate.pruning import make_pruner
from foveate.training.config import DataConfig
from foveate.training.loop import Share
from foveate.training.policy.data import DemoSource, Samples, make_samples
from foveate.training.policy.lora import adapt
from foveate.training.policy.openvla_oft.export import ADAPTER, export_policy
from foveate.training.policy.openvla_oft.losses import ChunkBatch, L1Regression

if TYPE_CHECKING:
    from foveate.training.policy.train import TrainPolicyConfig


def begin(info: OFTInfo | None, config: TrainPolicyConfig) -> L1Recipe:
    """Load the policy of a folder."""
    if info is None:
        raise FoveateError("OpenVLA-OFT is not trained from nothing; name a fine-tuned policy as init_from")
    if "head" not in info.components:
        raise FoveateError(
            f"init_from {info.path}: no action_head--*_checkpoint.pt, so this is OpenVLA before OpenVLA-OFT's "
            "fine-tuning. Begin with a policy that OpenVLA-OFT has fine-tuned on your robot: from OpenVLA itself, "
            "LightVLA's pruner ends up keeping almost nothing, as public reports say"
        )
    if info.missing:
        raise FoveateError("\n  ".join([f"init_from {info.path}: cannot be trained, missing:", *info.missing]))
    if config.data.flow_samples != 1:
        raise FoveateError("data.flow_samples: L1 regression draws no noise; leave it out")
    if config.rtc.max_delay:
        raise FoveateError("rtc.max_delay: L1 regression has no flow that actions could be given to; leave it out")
    if config.looking.on:
        raise FoveateError("looking: OpenVLA-OFT has no coarse look at a view; leave it out")
    return L1Recipe(info, config)


class L1Recipe:
    """A `Recipe`. What trains is float32; frozen weights are in the precision of the run."""

    def __init__(self, info: OFTInfo, config: TrainPolicyConfig) -> None:
        assert info.robot is not None and info.tokenizer is not None, "told by info.missing"
        self.info, self.config, self.robot = info, config, info.robot
        self.data_set = info.data_set(config.data.asset_id or None)
        tokenizer = read_tokenizer(info.tokenizer)
        self.processor = Processor(info.config, info.robot, tokenizer, *info.norms(self.data_set))
        dtype: Literal["float32", "bfloat16"] = "float32" if config.lora is None else config.loop.precision
        model = load_weights(info.path, info.weights, dataclasses.replace(info.config, dtype=dtype))
        self.adapters: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        if config.lora is not None:
            self.adapters = adapt(model, self._projections(), config.lora)
        read_components_whole(model, info.components)
        model.head.requires_grad_(True)
        model.proprio.requires_grad_(True)
        self.objective = L1Regression(
            model, config.pruner_noise, make_pruner(config.pruner), recompute=config.gradient_checkpointing
        )

    def _projections(self) -> Callable[[str], dict[str, int]]:
        """Layer -> its projections in the checkpoint with their rows; none for what is trained as a whole."""
        header = read_header(self.info.weights)

        def projections(layer: str) -> dict[str, int]:
            keys = [key for part, key in places_of(f"{layer}.weight") if part == "model"]
            return {key.removesuffix(".weight"): header[key].shape[0] for key in keys}

        return projections

    def source(self, episodes: list[DemoEpisode]) -> ChunkSource:
        data = self.config.data
        # Pictures that a random crop is taken of are kept whole; otherwise they are what the policy sees.
        prepare = functools.partial(resized if data.random_crop else policy_picture, side=self.info.config.image_size)
        samples = make_samples(episodes, self.processor, data, prepare)
        normalised = torch.tensor(self.info.statistics[self.data_set]["action"].get("mask", True))
        samples.actions = torch.where(normalised, samples.actions.clamp(-1, 1), samples.actions)
        return ChunkSource(samples, self.processor, data, self.config.seed)

    def export(self, out: Path, steps: int, train_config: Mapping[str, Any], tasks: list[str]) -> None:
        lora = self.config.lora
        if lora is not None:
            scale, base = lora.scaled_by, str(self.info.path)
            save_adapter(out / ADAPTER, self.adapters, alpha=scale, dropout=lora.dropout, base=base)
        export_policy(
            out,
            self.objective.model,
            self.info,
            self.data_set,
            steps=steps,
            adapted=lora is not None,
            pruner=train_config["pruner"],
            train_config=train_config,
            tasks=tasks,
        )


class ChunkSource(DemoSource):
    """Batches with the state as a token of its own, clipped to [-1, 1], and prompts padded to the share's longest."""

    def __init__(self, samples: Samples, processor: Processor, config: DataConfig, seed: int) -> None:
        super().__init__(samples, config, seed, crop_side=CROP if config.random_crop else None)
        self.processor = processor
        self._prompt_ids = {prompt: processor.prompt_ids(prompt) for prompt in set(samples.prompts)}

    def batch(self, share: Share) -> ChunkBatch:
        draws = self.draws(share.step)
        mine = slice(share.start, share.stop)
        index = self.rows(share.step, share.size)[mine]
        images = self.images(index, mine, share.size, draws)
        state = np.clip(self.states(index, mine, share.size, draws), -1, 1)
        tokens, token_masks = pad_prompts([self._prompt_ids[self.samples.prompts[i]] for i in index.tolist()])
        present = self.samples.present.expand(images.shape[:2])
        inputs = ModelInputs(images, present, tokens, token_masks, self.processor.padded_state(state))
        return ChunkBatch(inputs, self.samples.actions[index], self.samples.mask[index])
