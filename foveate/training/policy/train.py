"""Train a policy on demonstrations, from nothing or from a policy folder, pruned or not; see `recipe` for the rest."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config
from foveate.pruning import PrunerConfig
from foveate.training.config import RESUME_FREE, DataConfig, LoopConfig, NoiseConfig, OptimConfig
from foveate.training.loop import fit
from foveate.training.policy.data import check_path, load_demos
from foveate.training.policy.lora import LoraConfig
from foveate.training.policy.recipe import begin
from foveate.training.policy.stream import StreamedImages
from foveate.util.run_folder import to_dict
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
    lora: LoraConfig | None = None
    """Low-rank adapters, trained in place of all weights; OpenVLA-OFT."""
    pruner: PrunerConfig | None = None
    """Pruning method during training, which the finished policy remembers."""
    pruner_noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Exploration noise of a pruner that explores."""
    model: Pi0Config = field(default_factory=Pi0Config)
    """Sizes of a new π0 or π0.5; not for `init_from`."""
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
    recipe = begin(config)
    episodes = load_demos(config.data, progress, recipe.robot)
    tasks = sorted({episode.task for episode in episodes})
    source = recipe.source(episodes)
    told = plural(len(episodes), "episode"), plural(len(source.samples), "sample")
    logging.getLogger("foveate").info("%s, %s", *told)
    objective = recipe.objective.to(world.device)
    ema = fit(
        objective, source, config.loop, config.optim, out, world=world, seed=config.seed, identity=identity(config)
    )
    if isinstance(source.samples.images, StreamedImages):
        logging.getLogger("foveate").info("%s", source.samples.images.loader.report)
    if world.is_main:
        values = to_dict(config)
        if config.init_from:
            del values["model"]  # sizes came from there
        with ema.applied():
            recipe.export(out / "policy", values, tasks)
    world.barrier()
    return out / "policy"
