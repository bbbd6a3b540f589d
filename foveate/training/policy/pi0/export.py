"""From averaged weights to a policy folder that `load_policy` opens.

config.json  model.safetensors  tokenizer.model  robot.yaml  train_config.yaml  README.md
assets/<asset_id>/norm_stats.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from foveate.errors import FoveateError
from foveate.models.common.normalize import NormStats, save_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import save_weights
from foveate.training.policy.lora import merged_parameters
from foveate.util.words import plural

CARD = """# {kind} for {robot}

A policy of {parameters:.2f} M parameters, {views} of {size} px ({patches} visual
tokens), chunks of {horizon} actions. Trained by `foveate train policy` with `train_config.yaml`: {steps} steps of
{batch} samples{pruned}.

Tasks in the demonstrations: {tasks}.

Measured: not yet. Fill in with `foveate eval sim --policy FOLDER`.
"""


def export_policy(
    out: Path,
    model: Pi0,
    robot: RobotMapping,
    stats: Mapping[str, NormStats],
    tokenizer: Path,
    *,
    pruner: Mapping[str, Any] | None,
    train_config: Mapping[str, Any],
    tasks: list[str],
    steps: int = 0,
    asset_id: str = "",
) -> Path:
    """Write the policy folder; adapters are merged into the weights, which are rounded to float16.

    Args:
        steps: of training that are done.
        asset_id: name of the norm stats; empty: the robot's.
        pruner: the config that the policy was trained with, as plain values with `name`.
    """
    try:
        asset_id = asset_id or (robot.asset_ids[0] if robot.asset_ids else robot.name)
        save_norm_stats(out / "assets" / asset_id, stats)
        document = {
            "model": model.config.to_dict(),
            "robot": robot.name,
            "norm": "quantile" if model.config.pi05 else "zscore",
            "asset_id": asset_id,
            "resize": "torch",
        }
        if pruner is not None:
            document["pruner"] = dict(pruner)
        (out / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        (out / "robot.yaml").write_text(robot.to_yaml())
        (out / "train_config.yaml").write_text(yaml.safe_dump(dict(train_config), sort_keys=False))
        (out / "README.md").write_text(_card(model, robot, pruner, steps, train_config, tasks))
        if tokenizer.resolve() != (out / "tokenizer.model").resolve():
            shutil.copyfile(tokenizer, out / "tokenizer.model")
        save_weights(model, out / "model.safetensors", torch.float16, merged_parameters(model))
    except OSError as error:
        raise FoveateError(f"cannot write policy {out}: {error}; free some space or choose another --out") from error
    return out


def _card(
    model: Pi0,
    robot: RobotMapping,
    pruner: Mapping[str, Any] | None,
    steps: int,
    train_config: Mapping[str, Any],
    tasks: list[str],
) -> str:
    config = model.config
    return CARD.format(
        kind="π0.5" if config.pi05 else "π0",
        robot=robot.name,
        parameters=sum(p.numel() for name, p in model.named_parameters() if ".adapters." not in name) / 1e6,
        views=plural(len(config.views), "view"),
        size=config.vision.image_size,
        patches=len(config.views) * config.vision.grid[0] * config.vision.grid[1],
        horizon=config.action_horizon,
        steps=steps,
        batch=train_config["loop"]["batch_size"],
        pruned="" if pruner is None else f", its visual tokens pruned by `{pruner['name']}`",
        tasks="; ".join(tasks),
    )
