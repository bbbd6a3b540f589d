"""From trained weights to a folder as OpenVLA-OFT's training writes it, which `load_policy` and the reference open.

config.json  model-*.safetensors (and its index)  action_head--STEP_checkpoint.pt  proprio_projector--STEP_checkpoint.pt
dataset_statistics.json  lora_adapter/  and the base's tokenizer and processor files
robot.yaml  train_config.yaml  README.md  are foveate's own
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import read_header, read_tensor
from foveate.models.openvla_oft.detect import ROBOT, STATISTICS, OFTInfo
from foveate.models.openvla_oft.lora import Adapter
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.models.openvla_oft.weights import COMPONENTS, Place, pieces, read_component, shapes_of

ADAPTER = "lora_adapter"
CARD = """# OpenVLA-OFT for {robot}

A policy, fine-tuned from `{base}` by `foveate train policy` with `train_config.yaml`: {steps}
steps of {batch} samples{pruned}. {what}

Instructions in the demonstrations: {tasks}.

Measured: not yet. Fill in with `foveate eval sim --policy FOLDER`.
"""
WHOLE = "All weights were trained."
ADAPTED = (
    f"The vision-language model was trained by the adapter in `{ADAPTER}`, which is merged into the weights here; head "
    "and proprio projector were trained as a whole."
)


def export_policy(
    out: Path,
    model: OpenVLAOFT,
    base: OFTInfo,
    data_set: str,
    *,
    steps: int,
    adapted: bool,
    pruner: Mapping[str, Any] | None,
    train_config: Mapping[str, Any],
    tasks: list[str],
) -> Path:
    """Write the policy folder; the model's weights in the base's number formats, head and projector in float32.

    Args:
        base: what the training began with.
        data_set: whose statistics the policy was trained with.
        steps: of training that are done.
        adapted: whether `out/lora_adapter` holds what the vision-language model learned. It is merged as its users
            would merge it; otherwise all weights are taken from the model.
        pruner: the config that the policy was trained with, as plain values with `name`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        header = read_header(base.weights)
        stored = {part: read_component(path) for part, path in base.components.items()}
        own = {n: p for n, p in model.named_parameters() if not adapted or n.startswith(("head.", "proprio."))}
        trained = dict(pieces(own.items(), shapes_of(header, stored)))
        _write_model(out, base, trained, Adapter(out / ADAPTER) if adapted else None)
        for part, label in COMPONENTS.items():
            # Data-parallel training puts `module.` before the names; the reference's loader takes it off.
            values = {f"module.{key}": trained[Place(part, key)] for key in stored[part]}
            path = out / f"{label}--{steps}_checkpoint.pt"
            torch.save({key: value.detach().float().cpu().clone() for key, value in values.items()}, path)
        _write_small_files(out, base, data_set, pruner, train_config)
        (out / "README.md").write_text(_card(base, steps, adapted, pruner, train_config, tasks), encoding="utf-8")
    except OSError as error:
        raise FoveateError(f"cannot write policy {out}: {error}; free some space or choose another --out") from error
    return out


def _write_model(out: Path, base: OFTInfo, trained: Mapping[Place, Tensor], adapter: Adapter | None) -> None:
    """The base's files, shard by shard, with what was trained in its place."""
    header = read_header(base.weights)
    for file in sorted({entry.file for entry in header.values()}):
        tensors = {}
        for key, entry in header.items():
            if entry.file == file:
                value = read_tensor(entry)
                if (place := Place("model", key)) in trained:
                    value = trained[place].detach().to(value.dtype).cpu().clone()
                elif adapter is not None:
                    value = adapter.merged(key.removesuffix(".weight"), value)
                tensors[key] = value.contiguous()
        save_file(tensors, out / file.name, {"format": "pt"})
    if base.weights.suffix == ".json":
        shutil.copyfile(base.weights, out / base.weights.name)


def _write_small_files(
    out: Path, base: OFTInfo, data_set: str, pruner: Mapping[str, Any] | None, train_config: Mapping[str, Any]
) -> None:
    assert base.robot is not None and base.tokenizer is not None
    for path in (*base.path.glob("*.json"), base.tokenizer):
        shutil.copyfile(path, out / path.name)
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    config |= {"pruner": None if pruner is None else dict(pruner)}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    statistics = {data_set: base.statistics[data_set]}
    (out / STATISTICS).write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    robot = {key: value for key, value in base.robot.to_dict().items() if value is not None}
    (out / ROBOT).write_text(yaml.safe_dump(robot, sort_keys=False), encoding="utf-8")
    (out / "train_config.yaml").write_text(yaml.safe_dump(dict(train_config), sort_keys=False), encoding="utf-8")


def _card(
    base: OFTInfo,
    steps: int,
    adapted: bool,
    pruner: Mapping[str, Any] | None,
    train_config: Mapping[str, Any],
    tasks: list[str],
) -> str:
    return CARD.format(
        robot=base.robot.name if base.robot else "an unknown robot",
        base=base.path,
        steps=steps,
        batch=train_config["loop"]["batch_size"],
        pruned="" if pruner is None else f", its visual tokens pruned by `{pruner['name']}`",
        what=ADAPTED if adapted else WHOLE,
        tasks="; ".join(tasks),
    )
