"""Does it fit? The memory of a training of π0 or π0.5 before anything is loaded: `foveate train plan PRESET`.

One portion of a step is run on tensors without numbers (`foveate.training.memory`), as configured and with what would
save memory. Not counted: the device's own libraries (a GB or so), what an allocator leaves unused, passing tensors
of one layer, and a pruner; `gpu_memory` is therefore met with a tenth to spare.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import CheckpointInfo
from foveate.models.pi0.model import Pi0
from foveate.models.registry import detect
from foveate.training.loop import shares
from foveate.training.memory import StepMemory, in_parts, shapes_alone, step_memory
from foveate.training.policy.lora import LoraConfig
from foveate.training.policy.objective import stacked_layers
from foveate.training.policy.pi0.adapters import train_adapters
from foveate.training.policy.pi0.losses import FlowBatch, FlowMatching
from foveate.training.policy.pi0.units import units
from foveate.training.policy.train import TrainPolicyConfig
from foveate.util.shipped import find_policy
from foveate.util.world import World

SPARE = 0.9
"""Share of a device's memory that a plan may use."""
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "GIB": 2**30, "MIB": 2**20}


@dataclass(frozen=True)
class PlanConfig(TrainPolicyConfig):
    """Will a training fit? Predicts memory before anything is loaded, and says what would save some."""

    gpus: int = 1
    """Devices that train together."""
    gpu_memory: str = "80GB"
    """Memory of each: 80GB, 24GB, 40GiB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus < 1:
            raise FoveateError(f"gpus: expected at least 1, got {self.gpus}")
        bytes_of(self.gpu_memory)


@dataclass(frozen=True)
class Plan:
    """One way to run the training."""

    changes: tuple[str, ...]
    """Flags beside those given; none: as configured."""
    memory: StepMemory
    fits: bool


def bytes_of(text: str) -> int:
    """`80GB`, `40GiB` or a plain number in bytes.

    Raises:
        FoveateError: it is none of these.
    """
    found = re.fullmatch(r"(\d+\.?\d*)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in UNITS:
        raise FoveateError(f"gpu_memory: expected a size such as 80GB or 40GiB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])


def plans(config: PlanConfig) -> Iterator[Plan]:
    """As configured, and while that does not fit what would save memory, the least intrusive first.

    Raises:
        FoveateError: the batch cannot be cut, or `init_from` is no π0 or π0.5.
    """
    limit = SPARE * bytes_of(config.gpu_memory)
    model = _sizes(config)
    for changes, changed in _ways(config):
        memory = predict(model, changed)
        yield Plan(changes, memory, memory.total <= limit)
        if memory.total <= limit:
            return


def _sizes(config: PlanConfig) -> Pi0Config:
    if not config.init_from:
        return config.model
    family, info = detect(find_policy(config.init_from))
    if not isinstance(info, CheckpointInfo):
        raise FoveateError(f"init_from {config.init_from}: the memory of {family.name} is not planned, only π0's")
    return info.config


def _ways(config: PlanConfig) -> Iterator[tuple[tuple[str, ...], PlanConfig]]:
    changes: tuple[str, ...] = ()
    yield changes, config

    def with_loop(**values: Any) -> PlanConfig:
        return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **values))

    if config.loop.precision == "float32":
        config, changes = with_loop(precision="bfloat16"), (*changes, "--loop.precision bfloat16")
        yield changes, config
    if config.gpus > 1 and not config.fsdp:
        config, changes = dataclasses.replace(config, fsdp=True), (*changes, "--fsdp true")
        yield changes, config
    if not config.gradient_checkpointing:
        config = dataclasses.replace(config, gradient_checkpointing=True)
        changes = (*changes, "--gradient_checkpointing true")
        yield changes, config
    if (rows := _portion(config)) > 1:
        config = with_loop(accumulate=config.loop.accumulate * rows)
        changes = (*changes, f"--loop.accumulate {config.loop.accumulate}")
        yield changes, config
    if config.lora is None:
        lora = LoraConfig(rank=16, alpha=16)
        yield (*changes, "--lora.rank 16 --lora.alpha 16"), dataclasses.replace(config, lora=lora)


def _portion(config: PlanConfig) -> int:
    """Rows that a process computes at a time."""
    share = shares(0, config.loop, World(size=config.gpus))[0]
    return share.stop - share.start


def predict(model: Pi0Config, config: PlanConfig) -> StepMemory:
    """The memory of one process; prompts are taken to be as long as the model allows."""
    rows = _portion(config)
    # What the host reads has numbers: it is made outside.
    present, words = (torch.ones(rows, size, dtype=torch.bool) for size in (len(model.views), model.max_token_len))
    with shapes_alone():
        policy = Pi0(dataclasses.replace(model, dtype="float32"))
        if config.lora is not None:
            train_adapters(policy, config.lora, config.loop.precision)
        objective = FlowMatching(policy, config.pruner_noise)
        memory = step_memory(
            objective,
            blank_batch(model, rows, config.data.flow_samples, (present, words)),
            autocast=config.loop.precision == "bfloat16",
            recomputed=stacked_layers(policy) if config.gradient_checkpointing else (),
        )
        return in_parts(memory, objective, units(policy), config.gpus) if config.fsdp and config.gpus > 1 else memory


def blank_batch(
    model: Pi0Config, rows: int, flows: int = 1, host_masks: tuple[torch.Tensor, torch.Tensor] | None = None
) -> FlowBatch:
    """A batch of `rows` samples of zeros, all cameras there, the longest prompt."""
    views, side, length = len(model.views), model.vision.image_size, model.max_token_len
    horizon, width = model.action_horizon, model.action_dim
    inputs = ModelInputs(
        torch.zeros(rows, views, 3, side, side),
        torch.ones(rows, views, dtype=torch.bool),
        torch.zeros(rows, length, dtype=torch.int64),
        torch.ones(rows, length, dtype=torch.bool),
        torch.zeros(rows, width),
        host_masks,
    )
    noise, times = torch.zeros(rows, flows, horizon, width), torch.zeros(rows, flows)
    return FlowBatch(inputs, noise[:, 0], noise, times, torch.ones(rows, horizon, dtype=torch.bool))
