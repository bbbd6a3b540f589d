"""openpi's JAX checkpoints of π0 and π0.5 as PyTorch folders.

    result = jax_to_torch(JaxToTorchConfig("pi05_base", "pi05_base_pytorch", config_name="pi05_aloha"))

The folder has openpi's own key names, so that openpi reads it too, and what foveate needs besides:

    model.safetensors  assets/<asset id>/norm_stats.json  config.json  robot.yaml  conversion.json
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from foveate.convert.folder import copy_assets, new_folder, write_policy_files, write_record
from foveate.convert.jax_tree import Pi0Tree, parameters, read_pi0
from foveate.convert.orbax import OrbaxTree
from foveate.convert.tensor_writer import Slot, TensorWriter
from foveate.errors import FoveateError, unknown
from foveate.models.common.normalize import NORM_FILE
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import WEIGHTS
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.openpi_configs import OpenpiConfig, openpi_config
from foveate.models.pi0.weights import TIED_EMBEDDING, UNUSED, expected
from foveate.util.checks import number
from foveate.util.progress import SILENT, Reporter
from foveate.util.words import plural


@dataclass(frozen=True)
class JaxToTorchConfig:
    """openpi's JAX checkpoint of π0 or π0.5 as a PyTorch folder; LoRA adapters are merged."""

    checkpoint_dir: str
    """Folder of a training step or of a published checkpoint: the one that holds `params`."""
    output_path: str | None = None
    """Folder to write; not needed with `inspect_only`."""
    config_name: str | None = None
    """openpi's configuration that the checkpoint was trained with, as pi05_libero; null: the sizes are the checkpoint's
    own, and action_horizon must be given."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the weights; with `bfloat16` patch embedding, Gemma norms and action head stay float32."""
    action_horizon: int | None = None
    """Actions per chunk, where they are not the configuration's."""
    max_token_len: int | None = None
    """Text tokens of a prompt, where they are not the configuration's; without one 200 for π0.5, 48 for π0."""
    robot: str | None = None
    """Robot mapping, a shipped one or a YAML file, where it is not the configuration's."""
    asset_id: str | None = None
    """Name of the norm stats that the policy uses, where the checkpoint has several; null: the configuration's."""
    tokenizer: str | None = None
    """Sentencepiece model to copy into the folder."""
    lora_scale: float = 1.0
    """alpha / rank of LoRA adapters on attention; no checkpoint tells it, and all of openpi's configurations have 1."""
    overwrite: bool = False
    """Replace an earlier conversion in `output_path`."""
    inspect_only: bool = False
    """Read names and shapes alone, and write nothing."""

    def __post_init__(self) -> None:
        number("lora_scale", self.lora_scale)
        if self.output_path is None and not self.inspect_only:
            raise FoveateError("output_path: name the folder to write, or pass --inspect_only")
        if self.tokenizer is not None and not Path(self.tokenizer).is_file():
            raise FoveateError(f"tokenizer {self.tokenizer}: no such file; name PaliGemma's sentencepiece model")


@dataclass(frozen=True)
class JaxConversion:
    """What was found, and what it became."""

    model: Pi0Config
    arrays: Mapping[str, tuple[tuple[int, ...], str]]
    """Array of the tree -> shape and number format."""
    merged: tuple[str, ...]
    """Arrays with a LoRA adapter."""
    unused: tuple[str, ...]
    """Arrays that are no part of the model."""
    notes: tuple[str, ...]
    """What the person should know."""
    tensors: int = 0
    """PyTorch tensors written; 0 with `inspect_only`."""


def jax_to_torch(config: JaxToTorchConfig, report: Reporter = SILENT) -> JaxConversion:
    """Convert. Killed at any time, it leaves no folder that looks whole; run again, it starts anew.

    Raises:
        FoveateError: no such configuration; no orbax checkpoint, a damaged one or another model's; sizes that are not
            the configuration's; something else is in `output_path`.
    """
    named = None if config.config_name is None else openpi_config(config.config_name)
    tree = OrbaxTree.open(config.checkpoint_dir)
    try:
        found = read_pi0(tree.arrays, config.lora_scale)
        model = _model(config, named, found.sizes)
        robot = _robot(config, named, model)
    except FoveateError as error:
        raise FoveateError(f"{tree.folder}: {error}") from None
    asset_id, notes = _asset(config, named, tree.step / "assets")
    if named is not None and named.toy:
        notes.append(f"{config.config_name} has made-up sizes: those of the checkpoint count")
    if robot is None:
        notes.append("no robot mapping: pass --robot, here or to whatever runs the policy")
    result = JaxConversion(
        model=model,
        arrays={name: (array.shape, array.dtype) for name, array in tree.arrays.items()},
        merged=tuple(found.adapters),
        unused=(*found.unused, *tree.others),
        notes=tuple(notes),
    )
    if config.inspect_only or config.output_path is None:
        return result
    with new_folder(config.output_path, overwrite=config.overwrite) as folder:
        result = replace(result, tensors=_write_weights(folder / WEIGHTS, tree, found, model, report))
        copy_assets(tree.step / "assets", folder)
        if config.tokenizer is not None:
            shutil.copyfile(config.tokenizer, folder / "tokenizer.model")
        norm = "quantile" if model.pi05 else "zscore"
        write_policy_files(folder, model, robot, asset_id, norm=norm, resize="pil")
        write_record(folder, {"converted": dataclasses.asdict(config), **_facts(result)})
    return result


def _facts(result: JaxConversion) -> dict[str, object]:
    return {
        "arrays": {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in result.arrays.items()},
        "lora_merged": result.merged,
        "unused": result.unused,
        "notes": result.notes,
    }


def _model(config: JaxToTorchConfig, named: OpenpiConfig | None, sizes: Pi0Config) -> Pi0Config:
    """The sizes of the tree, with what no array tells."""
    horizon, length = config.action_horizon, config.max_token_len
    if named is not None:
        _check_fit(config.config_name or "", named, sizes)
        horizon, length = horizon or named.model.action_horizon, length or named.model.max_token_len
    if horizon is None:
        raise FoveateError(
            "the checkpoint does not tell how many actions a chunk has: name the configuration that it was trained "
            "with (--config_name pi05_libero), or pass --action_horizon"
        )
    return replace(sizes, dtype=config.precision, action_horizon=horizon, max_token_len=length or sizes.max_token_len)


def _check_fit(name: str, named: OpenpiConfig, sizes: Pi0Config) -> None:
    """Raises FoveateError where the configuration is of another model than the tree."""
    kinds = {True: "π0.5", False: "π0"}
    if named.model.pi05 != sizes.pi05:
        raise FoveateError(
            f"the tree is a {kinds[sizes.pi05]}'s, and {name} is a {kinds[named.model.pi05]}'s configuration; name the "
            "one that it was trained with"
        )
    if named.toy:
        return
    pairs = [(part, getattr(named.model, part), getattr(sizes, part)) for part in ("llm", "expert", "vision")]
    wrong = [
        f"  {part}.{field.name}: {getattr(theirs, field.name)} in {name}, {getattr(ours, field.name)} in the checkpoint"
        for part, theirs, ours in pairs
        for field in dataclasses.fields(theirs)
        if getattr(theirs, field.name) != getattr(ours, field.name)
    ]
    if wrong:
        lines = [
            f"the sizes are not those of {name}:",
            *wrong,
            "name the configuration that it was trained with, or leave --config_name out and pass --action_horizon",
        ]
        raise FoveateError("\n".join(lines))


def _robot(config: JaxToTorchConfig, named: OpenpiConfig | None, model: Pi0Config) -> RobotMapping | None:
    if config.robot is not None:
        robot: RobotMapping | None = RobotMapping.load(config.robot, "pi05" if model.pi05 else "pi0")
    else:
        robot = None if named is None else named.robot()
    if robot is not None and robot.action_dim > model.action_dim:
        raise FoveateError(
            f"robot {robot.name} takes actions of {robot.action_dim} numbers, the checkpoint's have "
            f"{model.action_dim}; name the configuration that it was trained with, or its robot with --robot"
        )
    return robot


def _asset(config: JaxToTorchConfig, named: OpenpiConfig | None, assets: Path) -> tuple[str | None, list[str]]:
    """The norm stats that the policy shall use, None where that is open; and what is to be said about it."""
    ids = sorted(file.parent.relative_to(assets).as_posix() for file in assets.rglob(NORM_FILE))
    if config.asset_id is not None:
        if config.asset_id not in ids:
            raise unknown(f"norm stats in {assets}:", config.asset_id, ids)
        return config.asset_id, []
    wanted = None if named is None else named.asset_id
    if wanted in ids:
        return wanted, []
    if len(ids) == 1:
        other = f", those of {config.config_name} are called {wanted}" if wanted else ""
        return ids[0], [f"norm stats: {ids[0]} is all that the checkpoint has{other}"] if other else []
    if not ids:
        return None, [
            f"no norm stats: no {assets}/<asset id>/{NORM_FILE}; `foveate norm-stats` computes them from data"
        ]
    return None, [f"several norm stats ({', '.join(ids)}): choose with --asset_id, here or when the policy is run"]


def _write_weights(path: Path, tree: OrbaxTree, found: Pi0Tree, model: Pi0Config, report: Reporter) -> int:
    """Write every tensor that openpi's PyTorch model has; returns their number."""
    slots = {name: Slot(shape, dtype) for name, (shape, dtype) in expected(model).items()}
    # Nobody reads the expert's head, but openpi's reader is strict.
    slots[UNUSED[0]] = Slot((model.vocab_size, model.expert.width), slots[TIED_EMBEDDING[0]].dtype)
    with TensorWriter(path, slots) as file, report.bar("converting", "arrays", total=len(found.rules)) as bar:
        file.write_zeros(UNUSED[0])
        for rule in found.rules:
            array = tree.arrays[rule.source]
            try:
                for name, value in parameters(rule, array, found.adapters.get(rule.source)):
                    file.write(name, value)
            except FoveateError as error:
                raise FoveateError(f"{tree.folder}: {rule.source} {array.shape}: {error}") from None
            bar.advance()
    return len(slots)


def summary(result: JaxConversion) -> list[str]:
    """What was converted, in lines for a person."""
    model, tower = result.model, result.model.vision
    total = sum(torch.Size(shape).numel() for shape, _ in result.arrays.values())
    kinds = sorted({dtype for _, dtype in result.arrays.values()})
    lines = [
        f"{'π0.5' if model.pi05 else 'π0'}: {plural(len(result.arrays), 'array')}, {total:,} numbers as "
        f"{', '.join(kinds)}",
        *(
            f"  {name:<8} {g.depth} layers, width {g.width}, mlp {g.mlp_dim}, {g.num_heads} heads of {g.head_dim}, "
            f"{g.num_kv_heads} for keys"
            for name, g in (("backbone", model.llm), ("expert", model.expert))
        ),
        f"  vision   {tower.num_hidden_layers} layers, width {tower.hidden_size}, {tower.num_attention_heads} heads, "
        f"{tower.image_size} px in patches of {tower.patch_size}",
        f"  actions  {model.action_horizon} steps of {model.action_dim} numbers; prompts of {model.max_token_len} "
        "tokens",
    ]
    if result.merged:
        lines.append(f"LoRA adapters of {plural(len(result.merged), 'array')} merged")
    if result.unused:
        lines.append(f"unused: {', '.join(result.unused)}")
    return lines
