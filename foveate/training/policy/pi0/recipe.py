"""How π0 and π0.5 are trained: by flow matching, from nothing or from a policy folder.

All weights train, or, with `lora`, what openpi's LoRA configurations train: adapters on attention and MLP of backbone
and expert, whose own weights, norms and token embedding stay, and all of the image tower and the layers around actions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from foveate.data.demos import DemoEpisode
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.common.looks import Looks
from foveate.models.common.normalize import Normalizer, NormStats, load_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import find_weights
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import TOKENIZER_NAMES, CheckpointInfo, detect, find_tokenizer
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.processing import Processor, choose_asset
from foveate.models.pi0.weights import load_weights
from foveate.pruning import LightVLA, make_pruner
from foveate.training.config import DataConfig, LookingConfig
from foveate.training.loop import DRAWS, Share, seed_of
from foveate.training.policy.data import DemoSource, Samples, make_samples, norm_stats
from foveate.training.policy.looks import DrawnLooks, check_looking, draw_looks
from foveate.training.policy.pi0.adapters import train_adapters
from foveate.training.policy.pi0.export import export_policy
from foveate.training.policy.pi0.losses import FlowBatch, FlowMatching, sample_given, sample_time
from foveate.util.checks import whole
from foveate.util.shipped import TINY_TOKENIZER, find_policy

if TYPE_CHECKING:
    from foveate.training.policy.train import TrainPolicyConfig


@dataclass(frozen=True)
class Start:
    """What training begins with, besides the demonstrations."""

    model: Pi0
    robot: RobotMapping
    tokenizer: Path
    stats: Mapping[str, NormStats] | None
    """None: to be computed from the demonstrations."""

    def processor(self, stats: Mapping[str, NormStats]) -> Processor:
        config = self.model.config
        norms = [Normalizer(stats[key], "quantile" if config.pi05 else "zscore") for key in ("state", "actions")]
        tokenizer = PromptTokenizer(self.tokenizer, config.max_token_len, config.vocab_size)
        return Processor(config, self.robot, tokenizer, *norms)


def begin(info: CheckpointInfo | None, config: TrainPolicyConfig) -> FlowMatchingRecipe:
    """A new model, or the one of a folder; weights in float32."""
    if config.data.random_crop:
        raise FoveateError("data.random_crop: π0 and π0.5 see whole pictures; move them by data.shift_px instead")
    return FlowMatchingRecipe(_new(config) if info is None else _stored(info, config.data.asset_id), config)


def _new(config: TrainPolicyConfig) -> Start:
    robot = RobotMapping.load(config.data.robot, "pi05" if config.model.pi05 else "pi0")
    robot, tokenizer = robot.restricted(config.model.views), _tokenizer(config)
    if config.pytorch_weight_path:
        return Start(_whole(config.pytorch_weight_path, config.model), robot, tokenizer, None)
    model = Pi0(config.model)
    if config.weights_from:
        take_over(model, config.weights_from)
    return Start(model, robot, tokenizer, None)


def _tokenizer(config: TrainPolicyConfig) -> Path:
    """The one named, that of the weights, or PaliGemma's for its vocabulary; a model of another has the shipped one."""
    if config.data.tokenizer:
        return Path(config.data.tokenizer)
    folder = Path(config.pytorch_weight_path) if config.pytorch_weight_path else None
    if found := find_tokenizer(folder, config.model.vocab_size):
        return found
    if config.model.vocab_size == Pi0Config.vocab_size:
        raise FoveateError(
            f"no tokenizer for a vocabulary of {config.model.vocab_size:,}: pass --data.tokenizer FILE (PaliGemma's "
            f"sentencepiece model), or put it beside the weights as {TOKENIZER_NAMES[1]}"
        )
    return TINY_TOKENIZER


def _whole(folder: str, config: Pi0Config) -> Pi0:
    """A model of these sizes with all weights of a folder."""
    weights = find_weights(Path(folder)) if Path(folder).is_dir() else None
    if weights is None:
        raise FoveateError(
            f"pytorch_weight_path {folder}: no model.safetensors there; convert a JAX base with `foveate convert "
            "jax-to-torch`, name another folder, or train from nothing with --pytorch_weight_path ''"
        )
    model = load_weights(weights, dataclasses.replace(config, dtype="float32"))
    logging.getLogger("foveate").info("weights of %s", weights)
    return model.float()


def take_over(model: Pi0, folder: str) -> None:
    """Copy the weights of a policy folder whose name and shape agree with the model's; the others stay as they are.

    Raises:
        FoveateError: none agrees.
    """
    info = detect(find_policy(folder))
    theirs = load_weights(info.weights, dataclasses.replace(info.config, dtype="float32")).state_dict()
    ours = model.state_dict()
    agreeing = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
    if not agreeing:
        raise FoveateError(f"weights_from {info.path}: no weight has the name and shape of one of this model")
    model.load_state_dict(agreeing, strict=False)
    logging.getLogger("foveate").info("%d of %d tensors taken over from %s", len(agreeing), len(ours), info.path)


def _stored(info: CheckpointInfo, asset_id: str) -> Start:
    if info.missing or info.robot is None or info.tokenizer is None or info.format == "lerobot":
        need = info.missing or ("openpi's layout: `foveate convert lerobot-to-openpi` makes it of a LeRobot policy",)
        raise FoveateError("\n  ".join([f"init_from {info.path}: cannot be trained, missing:", *need]))
    stats = load_norm_stats(info.path / "assets" / choose_asset(info, asset_id or None))
    model = load_weights(info.weights, dataclasses.replace(info.config, dtype="float32")).float()
    return Start(model, info.robot.restricted(info.config.views), info.tokenizer, stats)


class FlowMatchingRecipe:
    """A `Recipe`."""

    def __init__(self, start: Start, config: TrainPolicyConfig) -> None:
        self.start, self.config, self.robot = start, config, start.robot
        if config.rtc.max_delay is not None:
            most = start.model.config.action_horizon - 1
            delay = whole("rtc.max_delay", config.rtc.max_delay, 0, most)
            start.model.config = dataclasses.replace(start.model.config, max_delay=delay)
            start.model.spec = start.model.config.spec
        pruner, width = make_pruner(config.pruner), start.model.config.llm.width
        if pruner is not None:
            pruner.begin(width)
        if config.lora is not None:
            train_adapters(start.model, config.lora, config.loop.precision)
        check_looking(config.looking, start.model.spec, pruner, config.loop.compile)
        self.objective = FlowMatching(start.model, config.pruner_noise, pruner, recompute=config.gradient_checkpointing)
        if isinstance(config.pruner, LightVLA):
            logging.getLogger("foveate").info("Enabled LightVLA-style token pruning (hidden_size=%d)", width)
        self._stats = start.stats

    def source(self, episodes: list[DemoEpisode]) -> FlowSource:
        start, data = self.start, self.config.data
        self._stats = start.stats or norm_stats(episodes, start.robot, start.model.config.action_horizon, data)
        processor = start.processor(self._stats)
        samples = make_samples(episodes, processor, data)
        looking = self.config.looking
        if looking.no > 0 and looking.no_means == "reuse" and not isinstance(samples.images, Tensor):
            raise FoveateError(
                "looking.no: earlier pictures of a LeRobot data set are not at hand when it is streamed; train on "
                "demonstrations (`foveate data convert`), or with looking.no_means leave_out"
            )
        return FlowSource(samples, processor, data, self.config.seed, looking)

    def export(self, out: Path, steps: int, train_config: Mapping[str, Any], tasks: list[str]) -> None:
        assert self._stats is not None, "the source comes first: it computes the statistics of a new policy"
        pruner = train_config["pruner"]
        if pruner is not None:  # a method's own weights go into the folder
            pruner = {name: value for name, value in pruner.items() if name != "weights"}
        export_policy(
            out,
            self.start.model,
            self.start.robot,
            self._stats,
            self.start.tokenizer,
            pruner=pruner,
            train_config=train_config,
            tasks=tasks,
            steps=steps,
            asset_id=self.config.data.asset_id,
        )
        if self.objective.pruner is not None:
            self.objective.pruner.save(out)


class FlowSource(DemoSource):
    """Batches with their noise and times, and prompts as the tokenizer pads them."""

    def __init__(
        self,
        samples: Samples,
        processor: Processor,
        config: DataConfig,
        seed: int,
        looking: LookingConfig | None = None,
    ) -> None:
        """
        Args:
            looking: levels at which views are looked at; None: all at full resolution.
        """
        super().__init__(samples, config, seed)
        self.processor, self.looking = processor, looking or LookingConfig()

    def batch(self, share: Share) -> FlowBatch:
        draws = self.draws(share.step)
        mine = slice(share.start, share.stop)
        index = self.rows(share.step, share.size)[mine]
        actions = self.samples.actions[index]
        flows = (share.size, self.config.flow_samples)
        noise = torch.randn(*flows, *actions.shape[1:], generator=draws)[mine]
        time = sample_time(flows, draws)[mine]
        drawn = self._looks(share)
        images = self.images(index, mine, share.size, draws, None if drawn is None else drawn.ages[mine])
        tokens, token_masks = self._tokens(index, self.states(index, mine, share.size, draws))
        states = self.samples.states[index.numpy()]
        padded = torch.zeros(len(index), actions.shape[-1])
        padded[:, : states.shape[1]] = torch.from_numpy(states)
        spec = self.processor.spec
        given = sample_given(flows, spec.action_horizon, spec.max_delay, draws)[mine] if spec.max_delay else None
        present = self.samples.present.expand(images.shape[:2])
        looks = None if drawn is None else Looks(drawn.levels[mine])
        inputs = ModelInputs(images, present, tokens, token_masks, padded, looks=looks)
        return FlowBatch(inputs, actions, noise, time, self.samples.mask[index], given)

    def _looks(self, share: Share) -> DrawnLooks | None:
        """Of the whole batch; drawn apart, so that all else is what it is without."""
        if not self.looking.on:
            return None
        generator = Generator().manual_seed(seed_of(self.seed, DRAWS, share.step, 1))
        since = self.samples.since[self.rows(share.step, share.size)]
        return draw_looks(self.looking, since, len(self.processor.spec.views), generator)

    def _tokens(self, index: Tensor, states: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, L] and mask bool [B, L], cut to the longest prompt of the share."""
        tokenizer, with_state = self.processor.tokenizer, self.processor.state_in_prompt
        pairs = [
            tokenizer(self.samples.prompts[i], state if with_state else None)
            for i, state in zip(index.tolist(), states, strict=True)
        ]
        tokens, masks = (torch.from_numpy(np.stack(column)) for column in zip(*pairs, strict=True))
        longest = int(masks.sum(1).max())
        return tokens[:, :longest], masks[:, :longest]
