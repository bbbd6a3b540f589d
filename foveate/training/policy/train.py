"""Train a policy on demonstrations, from nothing or from a policy folder, pruned or not; see `recipe` for the rest.

Each checkpoint of a run is a policy folder as well, OUT/STEP. With a preset and an `exp_name` OUT is
`checkpoints/PRESET/EXP_NAME`, as in openpi; without, the finished policy stands in OUT/policy too.
"""

from __future__ import annotations

import copy
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config
from foveate.pruning import PrunerConfig
from foveate.training.checkpoint import checkpoints
from foveate.training.config import (
    RESUME_FREE,
    DataConfig,
    EvalConfig,
    LookingConfig,
    LoopConfig,
    NoiseConfig,
    OptimConfig,
    RtcConfig,
)
from foveate.training.loop import Evaluate, fit
from foveate.training.policy.data import check_path, load_demos
from foveate.training.policy.lengths import plan_lengths
from foveate.training.policy.lora import LoraConfig
from foveate.training.policy.recipe import Recipe, begin
from foveate.training.policy.stream import StreamedImages
from foveate.util.run_folder import to_dict
from foveate.util.words import plural
from foveate.util.world import World, join_world

OUT = "runs/train"


@dataclass(frozen=True)
class TrainPolicyConfig:
    """Train a policy on demonstrations."""

    config_name: str = ""
    """The shipped configuration that the others are changes of."""
    exp_name: str = ""
    """Name of the run; its folder is `checkpoint_base_dir`/`config_name`/`exp_name`, in place of `out`."""
    checkpoint_base_dir: str = "checkpoints"
    """Where runs that have a name stand."""
    out: str = OUT
    """Folder of the run: a policy folder per checkpoint, metrics.jsonl, tensorboard; the finished one in `policy`."""
    overwrite: bool = False
    """Begin again, without the checkpoints that are there; otherwise a run goes on from its newest one."""
    init_from: str = ""
    """Policy folder to fine-tune; its model, robot, tokenizer and norm stats are used. Empty: a new model."""
    weights_from: str = ""
    """Policy folder from which a new model, of another robot say, takes the weights whose name and shape agree."""
    pytorch_weight_path: str = ""
    """Folder of a model.safetensors with all weights of a π0 or π0.5 of the sizes of `model`: openpi's base, say."""
    seed: int = 0
    """Random seed of new weights, order of the data, noise and augmentation."""
    lora: LoraConfig | None = None
    """Low-rank adapters, trained in place of the large matrices."""
    gradient_checkpointing: bool = False
    """Keep of each layer its input alone and compute the rest anew in the backward pass: less memory, more time."""
    fsdp: bool = False
    """Under torchrun each process holds a part of weights, gradients and moments, not all of them (FSDP2)."""
    pruner: PrunerConfig | None = None
    """Pruning method during training, which the finished policy remembers."""
    pruner_noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Exploration noise of a pruner that explores."""
    rtc: RtcConfig = field(default_factory=RtcConfig)
    """Training for real-time chunking; π0 and π0.5."""
    looking: LookingConfig = field(default_factory=LookingConfig)
    """Views looked at at random levels; π0 and π0.5."""
    model: Pi0Config = field(default_factory=Pi0Config)
    """Sizes of π0 or π0.5; not for `init_from`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Demonstrations and augmentation."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Length, batch, device, checkpoints."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation during the training."""

    def __post_init__(self) -> None:
        if self.init_from and self.model != Pi0Config():
            raise FoveateError(
                f"init_from {self.init_from!r} and a model of its own exclude each other; leave out the model section"
            )
        if self.exp_name:
            run = str(Path(self.checkpoint_base_dir, self.config_name, self.exp_name))
            if self.out not in (OUT, run):
                raise FoveateError(
                    f"exp_name {self.exp_name!r} and out {self.out!r} both name the run's folder; give one"
                )
            object.__setattr__(self, "out", run)
        if self.eval.every is not None and self.eval.every % self.loop.save_every:
            raise FoveateError(
                f"eval.every {self.eval.every} is no multiple of loop.save_every {self.loop.save_every}, and only "
                "checkpoints are evaluated"
            )
        begins = [name for name in ("init_from", "weights_from", "pytorch_weight_path") if getattr(self, name)]
        if len(begins) > 1:
            raise FoveateError(f"{' and '.join(begins)} exclude each other: training begins with one set of weights")
        if self.loop.compile and self.fsdp:
            raise FoveateError("loop.compile does not go with fsdp: weights are gathered between the compiled parts")
        if self.loop.compile and self.pruner is not None:
            raise FoveateError(
                "loop.compile does not go with a pruner: compiling its data-dependent choice takes minutes"
            )


def identity(config: TrainPolicyConfig) -> dict[str, Any]:
    """What must be equal for a run to go on from a checkpoint."""
    values = to_dict(config)
    for name in (
        "config_name",
        "exp_name",
        "checkpoint_base_dir",
        "out",
        "overwrite",
        "gradient_checkpointing",
        "fsdp",
        "eval",
    ):
        del values[name]
    values["loop"] = {k: v for k, v in values["loop"].items() if k not in RESUME_FREE}
    return values


def train_policy(config: TrainPolicyConfig, progress: Any = None, evaluate: Evaluate | None = None) -> Path:
    """Train, or go on with training, and export; returns the policy folder.

    Args:
        progress: called with (episodes loaded, episodes in all).
        evaluate: looks at each checkpoint; what it says is logged.
    """
    with join_world(config.loop.device) as world:
        return _train(config, world, progress, evaluate)


def _train(config: TrainPolicyConfig, world: World, progress: Any, evaluate: Evaluate | None) -> Path:
    out = Path(config.out)
    check_path(config.data)  # before a model of full size is made
    recipe = begin(config)
    episodes = load_demos(config.data, progress, recipe.robot)
    tasks = sorted({episode.task for episode in episodes})
    source = recipe.source(episodes)
    told = plural(len(episodes), "episode"), plural(len(source.samples), "sample")
    logging.getLogger("foveate").info("%s, %s", *told)
    objective, carrier = _on_device(recipe, config, world)
    values = to_dict(config)
    if config.init_from:
        del values["model"]  # sizes came from there

    def export(folder: Path, steps: int) -> None:
        recipe.export(folder, steps, values, tasks)

    if config.overwrite and world.is_main:
        for checkpoint in checkpoints(out):
            shutil.rmtree(checkpoint)
    world.barrier()
    ema = fit(
        objective,
        source,
        config.loop,
        config.optim,
        out,
        world=world,
        seed=config.seed,
        identity=identity(config),
        export=export,
        evaluate=evaluate,
        carrier=carrier,
    )
    if isinstance(source.samples.images, StreamedImages):
        logging.getLogger("foveate").info("%s", source.samples.images.loader.report)
    policy = out / (str(config.loop.steps) if config.exp_name else "policy")
    with ema.applied():
        if world.is_main and not config.exp_name:
            export(policy, config.loop.steps)
        if world.is_main and carrier is None:
            plan_lengths(recipe.objective, source, config.loop, world, policy)
    world.barrier()
    return policy


def _on_device(recipe: Recipe, config: TrainPolicyConfig, world: World) -> tuple[nn.Module, nn.Module | None]:
    """What trains, and beside one in parts the whole one that is exported, in the main process's host memory."""
    if not config.fsdp or world.size == 1:
        return recipe.objective.to(world.device), None
    trained = copy.deepcopy(recipe.objective)
    trained.shard(world)
    carrier = recipe.objective if world.is_main else recipe.objective.to("meta")
    return trained, carrier
