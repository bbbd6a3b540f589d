"""Train a π0 or π0.5 policy on demonstrations, from nothing or from a policy folder, pruned or not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError
from foveate.models.common.normalize import Normalizer, NormStats, load_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import detect
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.processing import Processor
from foveate.models.pi0.weights import load_weights
from foveate.pruning import PrunerConfig, make_pruner
from foveate.training.config import RESUME_FREE, DataConfig, LoopConfig, NoiseConfig, OptimConfig
from foveate.training.loop import fit, seed_of
from foveate.training.policy.data import DemoSource, check_path, load_demos, make_samples, norm_stats
from foveate.training.policy.export import export_policy
from foveate.training.policy.losses import FlowMatching
from foveate.training.policy.stream import StreamedImages
from foveate.util.run_folder import to_dict
from foveate.util.shipped import TINY_TOKENIZER, find_policy
from foveate.util.words import plural
from foveate.util.world import World, join_world


@dataclass(frozen=True)
class TrainPolicyConfig:
    """Train a policy on demonstrations."""

    out: str = "runs/train"
    """Folder of the run: checkpoints, metrics.jsonl, tensorboard, and the finished policy in `policy`."""
    init_from: str = ""
    """Policy folder to fine-tune; its model, robot, tokenizer and norm stats are used. Empty: a new model."""
    weights_from: str = ""
    """Policy folder from which a new model, of another robot say, takes the weights whose name and shape agree."""
    seed: int = 0
    """Random seed of new weights, order of the data, noise and augmentation."""
    pruner: PrunerConfig | None = None
    """Pruning method during training, which the finished policy remembers."""
    pruner_noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Exploration noise of a pruner that explores."""
    model: Pi0Config = field(default_factory=Pi0Config)
    """Sizes of a new model; not for `init_from`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Demonstrations and augmentation."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Length, batch, device, checkpoints."""

    def __post_init__(self) -> None:
        if self.init_from and self.model != Pi0Config():
            raise FoveateError(
                f"init_from {self.init_from!r} and a model of its own exclude each other; leave out the model section"
            )
        if self.init_from and self.weights_from:
            raise FoveateError("init_from and weights_from exclude each other: the former takes all weights over")
        if self.loop.compile and self.pruner is not None:
            raise FoveateError(
                "loop.compile does not go with a pruner: compiling its data-dependent choice takes minutes"
            )


@dataclass(frozen=True)
class Start:
    """What training begins with, besides the demonstrations."""

    model: Pi0
    robot: RobotMapping
    tokenizer: Path
    stats: Mapping[str, NormStats] | None
    """None: to be computed from the demonstrations."""


def begin(config: TrainPolicyConfig) -> Start:
    """A new model, or the one of `init_from`; weights in float32."""
    torch.manual_seed(seed_of(config.seed))
    if not config.init_from:
        robot = RobotMapping.load(config.data.robot, "pi05" if config.model.pi05 else "pi0")
        tokenizer = Path(config.data.tokenizer) if config.data.tokenizer else TINY_TOKENIZER
        model = Pi0(config.model)
        if config.weights_from:
            take_over(model, config.weights_from)
        return Start(model, robot.restricted(config.model.views), tokenizer, None)
    info = detect(find_policy(config.init_from))
    if info.missing or info.robot is None or info.tokenizer is None or info.format == "lerobot":
        need = info.missing or ("LeRobot folders cannot be fine-tuned yet; export it as an openpi checkpoint",)
        raise FoveateError("\n  ".join([f"init_from {info.path}: cannot be trained, missing:", *need]))
    stats = load_norm_stats(info.path / "assets" / info.asset_ids[0])
    model = load_weights(info.weights, dataclasses.replace(info.config, dtype="float32")).float()
    return Start(model, info.robot.restricted(info.config.views), info.tokenizer, stats)


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


def make_processor(start: Start, stats: Mapping[str, NormStats]) -> Processor:
    config = start.model.config
    norms = [Normalizer(stats[key], "quantile" if config.pi05 else "zscore") for key in ("state", "actions")]
    tokenizer = PromptTokenizer(start.tokenizer, config.max_token_len, config.vocab_size)
    return Processor(config, start.robot, tokenizer, *norms)


def identity(config: TrainPolicyConfig) -> dict[str, Any]:
    """What must be equal for a run to go on from a checkpoint."""
    values = to_dict(config)
    del values["out"]
    values["loop"] = {k: v for k, v in values["loop"].items() if k not in RESUME_FREE}
    return values


def train_policy(config: TrainPolicyConfig, progress: Any = None) -> Path:
    """Train, or go on with training, and export; returns the policy folder `out/policy`.

    Args:
        progress: called with (episodes loaded, episodes in all).
    """
    with join_world(config.loop.device) as world:
        return _train(config, world, progress)


def _train(config: TrainPolicyConfig, world: World, progress: Any) -> Path:
    out = Path(config.out)
    check_path(config.data)  # before a model of full size is made
    start = begin(config)
    episodes = load_demos(config.data, progress, start.robot)
    tasks = sorted({episode.task for episode in episodes})
    stats = start.stats or norm_stats(episodes, start.robot, start.model.config.action_horizon)
    processor = make_processor(start, stats)
    samples = make_samples(episodes, processor, config.data)
    logging.getLogger("foveate").info("%s, %s", plural(len(episodes), "episode"), plural(len(samples), "sample"))
    objective = FlowMatching(start.model, config.pruner_noise, make_pruner(config.pruner)).to(world.device)
    source = DemoSource(samples, processor, config.data, config.seed)
    ema = fit(
        objective, source, config.loop, config.optim, out, world=world, seed=config.seed, identity=identity(config)
    )
    if isinstance(samples.images, StreamedImages):
        logging.getLogger("foveate").info("%s", samples.images.loader.report)
    if world.is_main:
        values = to_dict(config)
        if config.init_from:
            del values["model"]  # sizes came from there
        with ema.applied():
            export_policy(
                out / "policy",
                start.model,
                start.robot,
                stats,
                start.tokenizer,
                pruner=values["pruner"],
                train_config=values,
                tasks=tasks,
            )
    world.barrier()
    return out / "policy"
