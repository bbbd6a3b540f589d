"""Policies with random weights, for measurements of time and for tests: a π0 of any size as a folder that loads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from foveate.engine.registry import make_engine
from foveate.errors import unknown
from foveate.models.common.normalize import Normalizer, NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.processing import Processor
from foveate.policy import Policy, load_policy
from foveate.training.policy.pi0.export import export_policy
from foveate.util.shipped import TINY_TOKENIZER

MID = Pi0Config(
    vocab_size=2048,
    llm=GemmaConfig(width=512, depth=8, mlp_dim=2048, num_heads=8, num_kv_heads=1, head_dim=64),
    expert=GemmaConfig(width=256, depth=8, mlp_dim=1024, num_heads=8, num_kv_heads=1, head_dim=64),
    vision=VisionConfig(384, 12, 6, 1536, 14, 224, 512),
    views=("corner", "gripperPOV"),
)
"""65 M parameters, two views of 256 patches: large enough that arithmetic, not overhead, takes the time."""

_SMALL = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16)
TINY = replace(
    MID,
    action_dim=4,
    max_token_len=32,
    llm=_SMALL,
    expert=_SMALL,
    vision=VisionConfig(32, 1, 2, 64, 14, 56, 32),
    num_steps=2,
)
"""Two views of 16 patches: small enough for the tests of every verb that runs a policy."""

THREE_CAMERAS = replace(MID, views=Pi0Config().views)
SIZES = {
    "pi05": Pi0Config(),
    "pi0": Pi0Config(pi05=False),
    "pi05_mid": THREE_CAMERAS,
    "pi0_mid": replace(THREE_CAMERAS, pi05=False),
}
"""Sizes by name: the published ones, and 65 M parameters; three cameras each, all but the first may be absent."""


def untrained_policy(size: str, *, device: str = "cpu", dtype: Literal["float32", "bfloat16"] = "float32") -> Policy:
    """A policy of LIBERO's robot with random weights made on the device; no file is written, and all tokens are kept.

    Args:
        size: a name of `SIZES`.
        dtype: `float32` or `bfloat16`, of the large matrices.
    """
    if size not in SIZES:
        raise unknown("size of random weights", size, SIZES)
    config = replace(SIZES[size], dtype=dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = Pi0(config).eval()
    robot = RobotMapping.load("libero", "pi05")
    robot = replace(robot, views={view: (view,) for view in config.views}, optional_views=config.views[1:])
    unit = Normalizer(NormStats(*(np.full(robot.state_dim, v, np.float32) for v in (0, 1, -1, 1))))
    prompts = PromptTokenizer(TINY_TOKENIZER, config.max_token_len, config.vocab_size)
    processor = Processor(config, robot, prompts, unit, unit)
    return Policy(make_engine(model), processor, name=f"{size}, random weights", device=device)


@contextmanager
def random_policy(config: Pi0Config, pruner: str | None, robot_name: str = "metaworld") -> Iterator[Policy]:
    """A policy of this size with random weights, for measurements of time alone."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        robot = RobotMapping.load(robot_name, "pi05").restricted(config.views)
        unit = NormStats(*(np.full(robot.state_dim, v, np.float32) for v in (0, 1, -1, 1)))
        export_policy(
            Path(folder),
            Pi0(config),
            robot,
            {"state": unit, "actions": unit},
            TINY_TOKENIZER,
            pruner={"name": pruner} if pruner else None,
            train_config={"loop": {"steps": 0, "batch_size": 0}},
            tasks=[],
        )
        yield load_policy(folder)
