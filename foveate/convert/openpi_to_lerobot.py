"""π0 and π0.5 in openpi's layout (or foveate's) as LeRobot policies.

    openpi_to_lerobot(OpenpiToLeRobotConfig("pi05_openpi", "pi05_lerobot", robot="libero"))

    config.json  model.safetensors  policy_preprocessor.json  policy_postprocessor.json  their normalisers' files
    origin/  conversion.json

Weights keep their bits, statistics their numbers. The files are those of LeRobot 0.4, which later versions read too. A
folder that came from LeRobot (`origin/`) becomes what it was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.convert.folder import ORIGIN, RECORD, Converted, carry, copy_tensors, new_folder, write_record
from foveate.convert.statistics import Stats, read_stats, tensors_of_stats
from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import WEIGHTS
from foveate.models.pi0.config import GEMMA_2B, GEMMA_300M, SIGLIP_SO400M, Pi0Config
from foveate.models.pi0.detect import TOKENIZER_NAMES, CheckpointInfo, detect, stored_dtype
from foveate.models.pi0.lerobot import RELATIVE
from foveate.models.pi0.processing import choose_asset
from foveate.models.pi0.weights import TIED_EMBEDDING, UNUSED, check_keys
from foveate.util.files import read_json
from foveate.util.progress import SILENT, Reporter

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
_VARIANTS = {GEMMA_2B: "gemma_2b", GEMMA_300M: "gemma_300m"}
_MODES = {"quantile": "QUANTILES", "zscore": "MEAN_STD"}


@dataclass(frozen=True)
class OpenpiToLeRobotConfig:
    """A π0 or π0.5 in openpi's layout as a LeRobot policy."""

    policy_path: str
    """Folder with model.safetensors and assets, of openpi's PyTorch, of a conversion or of foveate's training."""
    output_path: str
    """Folder to write."""
    robot: str | None = None
    """Robot mapping, a shipped one or a YAML file, which names cameras and dimensions; null: as the folder says."""
    asset_id: str | None = None
    """Name of the norm stats, where the folder has several."""
    action_horizon: int | None = None
    """Actions per chunk, which openpi's layout does not tell; null: that of openpi's published policy."""
    overwrite: bool = False
    """Replace an earlier conversion in `output_path`."""


def openpi_to_lerobot(config: OpenpiToLeRobotConfig, report: Reporter = SILENT) -> Converted:
    """Convert; one tensor at a time is in memory. All is checked before anything is written.

    Raises:
        FoveateError: no π0 or π0.5, one that LeRobot's layout cannot hold, or the robot or norm stats are not known.
    """
    source = Path(config.policy_path)
    info = detect(source, robot=config.robot, action_horizon=config.action_horizon)
    if info.format == "lerobot":
        raise FoveateError(f"{source}: is a LeRobot policy already")
    asset_id, stats = _stats(info, config.asset_id)
    stored = check_keys(info.weights, info.keys, info.config)
    record = _record(source)
    before: Mapping[str, str] = record.get("keys") or {}
    if UNUSED[0] in info.keys.stored:
        stored[UNUSED[0]] = info.keys.stored[UNUSED[0]]
    notes: list[str] = []
    with new_folder(config.output_path, overwrite=config.overwrite) as folder:
        if before:
            stored[TIED_EMBEDDING[1]] = stored[TIED_EMBEDDING[0]]
            renamed = {key: stored[name] for key, name in before.items() if name in stored}
            _as_it_was(source / ORIGIN, folder, tensors_of_stats(stats, record.get("ends")))
        else:
            renamed = {f"model.{name}": entry for name, entry in stored.items()}
            assert info.robot is not None  # `_stats` has made sure
            notes += list(info.assumed) + _what_lerobot_lacks(info.robot, info.config)
            _write_policy(folder, info, info.robot, stats)
            named = [source / "config.json", source / "robot.yaml", *(source / "assets").rglob("*")]
            carry(source, [file for file in named if file.is_file()], folder)
        count = copy_tensors(folder / WEIGHTS, renamed, report)
        for name in TOKENIZER_NAMES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        write_record(folder, {"converted": dataclasses.asdict(config), "asset_id": asset_id, "notes": notes})
    return Converted(count, (), tuple(notes))


def _stats(info: CheckpointInfo, asset_id: str | None) -> tuple[str, Stats]:
    """The norm stats of the robot: their name and their numbers."""
    missing = [line for line in info.missing if not line.startswith("tokenizer")]
    if missing:
        raise FoveateError("\n  ".join([f"{info.path}: cannot be converted yet, missing:", *missing]))
    chosen = choose_asset(info, asset_id)
    return chosen, read_stats(info.path / "assets" / chosen)


def _record(source: Path) -> Mapping[str, Any]:
    """What was noted when the folder was made of a LeRobot policy with its pipelines; of another folder empty."""
    came = all((source / name).is_file() for name in (f"{ORIGIN}/{PREPROCESSOR}.json", RECORD))
    return read_json(source / RECORD) if came else {}


def _as_it_was(origin: Path, folder: Path, now: Mapping[str, Tensor]) -> None:
    """The small files of the LeRobot policy that the folder once was, with the statistics that it has now."""
    for file in sorted(origin.iterdir()):
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            other = {
                key: value
                for key, value in now.items()
                if key in tensors and not torch.equal(tensors[key].double().reshape(-1), value.double())
            }
            if other:
                save_file(tensors | other, folder / file.name)
                continue
        shutil.copyfile(file, folder / file.name)


def _what_lerobot_lacks(robot: RobotMapping, model: Pi0Config) -> list[str]:
    """What foveate and openpi do for this robot, and the pipelines that are written here do not."""
    notes = []
    if any(robot.delta_mask):
        notes.append(
            f"{sum(robot.delta_mask)} actions are relative to the state: LeRobot adds it from its version 0.6 on, and "
            "earlier ones refuse the folder"
        )
    if robot.gripper.dims or -1 in robot.joint_signs:
        notes.append(f"joints and grippers of {robot.name} are in the model's units; LeRobot does not convert them")
    if model.pi05 and robot.state_in_prompt is False:
        notes.append("trained without the state in the prompt; LeRobot's π0.5 always writes it there: fine-tune first")
    if {model.llm, model.expert} - set(_VARIANTS):
        notes.append("LeRobot itself builds gemma_2b and gemma_300m alone; foveate reads these sizes")
    return notes


def _write_policy(folder: Path, info: CheckpointInfo, robot: RobotMapping, stats: Stats) -> None:
    """LeRobot's own files, as its version 0.4 writes them."""
    model, kind = info.config, "pi05" if info.config.pi05 else "pi0"
    if model.llm.num_kv_heads != 1:
        raise FoveateError(f"{info.path}: {model.llm.num_kv_heads} key heads; LeRobot's π0 has one")
    size = model.vision.image_size
    picture = {"type": "VISUAL", "shape": [3, size, size]}
    cameras = [names[0] for view, names in robot.views.items() if names and view in model.views]
    inputs: dict[str, Any] = {f"observation.images.{name}": picture for name in cameras}
    inputs["observation.state"] = {"type": "STATE", "shape": [_width(info, "state", robot.state_dim, stats)]}
    actions = _width(info, "actions", robot.action_dim, stats)
    outputs = {"action": {"type": "ACTION", "shape": [actions]}}
    modes = {"VISUAL": "IDENTITY", "STATE": _MODES[info.norm], "ACTION": _MODES[info.norm]}
    document = {
        "type": kind,
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": outputs,
        "paligemma_variant": _VARIANTS.get(model.llm, "gemma_2b"),
        "action_expert_variant": _VARIANTS.get(model.expert, "gemma_300m"),
        "dtype": "bfloat16" if stored_dtype(info) == "bfloat16" else "float32",
        "chunk_size": model.action_horizon,
        "n_action_steps": model.action_horizon,
        "max_state_dim": model.action_dim,
        "max_action_dim": model.action_dim,
        "num_inference_steps": model.num_steps,
        "image_resolution": [size, size],
        "empty_cameras": len(model.views) - len(cameras),
        "tokenizer_max_length": model.max_token_len,
        "normalization_mapping": modes,
    }
    relative = _relative(robot, actions)
    if relative:
        named = {"exclude_joints": "relative_exclude_joints", "action_names": "action_feature_names"}
        document |= {"use_relative_actions": True, **{named[key]: value for key, value in relative.items()}}
    if model.vision.hidden_size != SIGLIP_SO400M.hidden_size:
        document["vision_heads"] = model.vision.num_attention_heads
    normaliser = {"eps": 1e-8, "features": inputs | outputs, "norm_map": modes}
    before, after = f"{PREPROCESSOR}_step_{{}}_normalizer_processor", f"{POSTPROCESSOR}_step_0_unnormalizer_processor"
    rename = _step("rename_observations_processor", {"rename_map": {}})
    prompt = {"max_length": model.max_token_len, "task_key": "task", "padding_side": "right", "padding": "max_length"}
    tokenizer = _step(
        "tokenizer_processor", {**prompt, "truncation": True, "tokenizer_name": "google/paligemma-3b-pt-224"}
    )
    device = _step("device_processor", {"device": "cpu", "float_dtype": None})
    if model.pi05:
        place = 2
        state = _step("pi05_prepare_state_tokenizer_processor_step", {})
        steps = [rename, _step("to_batch_processor", {}), None, state, tokenizer, device]
    else:
        place = 5
        steps = [rename, _step("to_batch_processor", {}), _step("pi0_new_line_processor", {}), tokenizer, device, None]
    absolute = []
    if relative:
        steps.insert(place, _step(RELATIVE[0], {"enabled": True, **relative}))
        absolute.append(_step("absolute_actions_processor", {"enabled": True}))
        place += 1
    name = f"{before.format(place)}.safetensors"
    steps[place] = _step("normalizer_processor", normaliser, name)
    unnormaliser = _step("unnormalizer_processor", normaliser | {"features": outputs}, f"{after}.safetensors")
    documents = {
        "config": document,
        PREPROCESSOR: {"name": PREPROCESSOR, "steps": steps},
        POSTPROCESSOR: {"name": POSTPROCESSOR, "steps": [unnormaliser, *absolute, device]},
    }
    for title, values in documents.items():
        (folder / f"{title}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for file in (name, f"{after}.safetensors"):
        save_file(tensors_of_stats(stats), folder / file)


def _relative(robot: RobotMapping, width: int) -> dict[str, list[str]]:
    """Which actions LeRobot takes relative to the state: all whose name contains none of the excluded ones."""
    if not any(robot.delta_mask):
        return {}
    names = [f"action_{i:03}" for i in range(width)]
    absolute = [name for i, name in enumerate(names) if i >= len(robot.delta_mask) or not robot.delta_mask[i]]
    return {"exclude_joints": absolute, "action_names": names}


def _step(name: str, config: Mapping[str, Any], state_file: str | None = None) -> dict[str, Any]:
    return {"registry_name": name, "config": dict(config)} | ({"state_file": state_file} if state_file else {})


def _width(info: CheckpointInfo, group: str, width: int, stats: Stats) -> int:
    """The robot's own width, which the statistics must have: LeRobot normalises vectors as they are."""
    found = len(stats[group]["mean"])
    if found != width:
        raise FoveateError(
            f"{info.path}: norm stats of {group} have {found} entries, the robot has {width}; LeRobot needs as many"
        )
    return width
