"""What a checkpoint folder is, from its small files and the header of its weights; no tensor is read.

Three layouts are known. foveate's own has a `config.json` with a `model` part, LeRobot's a `config.json` with a
`type`, openpi's no description of the network at all: its sizes follow from the shapes, and what no shape tells
(action horizon, prompt length, camera names) from openpi's published configurations.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from foveate.errors import FoveateError, unknown
from foveate.models.base import ModelSpec
from foveate.models.common.images import ResizeKind
from foveate.models.common.normalize import NORM_FILE, Normalizer, NormKind
from foveate.models.common.robots import ROBOTS_DIR, RobotMapping
from foveate.models.common.tensor_files import INDEX, find_weights, read_header
from foveate.models.pi0.config import SIGLIP_SO400M, GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.lerobot import read_lerobot
from foveate.models.pi0.openpi_configs import OpenpiConfig, openpi_config
from foveate.models.pi0.weights import KeySet, nearest, openpi_keys
from foveate.util.checks import of_type, one_of, whole
from foveate.util.files import read_json

CheckpointFormat = Literal["foveate", "openpi", "lerobot"]
Header = Mapping[str, tuple[Any, ...]]
"""Openpi's name -> shape, dtype, and more."""
TOKENIZER_NAMES = ("tokenizer.model", "paligemma_tokenizer.model")
OPENPI_HORIZONS = {("pi05", "droid"): 15, ("pi0", "droid"): 10, ("pi05", "libero"): 10}
"""Action horizons of openpi's published policies that are not the default of 50."""
_DEFAULT_HORIZON = 50

_PALIGEMMA = "paligemma_with_expert.paligemma."
_TOWER = _PALIGEMMA + "model.vision_tower.vision_model."


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint, as far as it can be known without reading its tensors."""

    path: Path
    format: CheckpointFormat
    weights: Path
    """The weights, or the index of their shards."""
    keys: KeySet
    config: Pi0Config
    parameters: int
    """Numbers stored in the file."""
    dtypes: Mapping[str, int]
    """Stored numbers per dtype, as safetensors names it."""
    robot: RobotMapping | None
    asset_ids: tuple[str, ...]
    """Folders under `assets/` that hold norm stats."""
    asset_id: str | None = field(default=None, kw_only=True)
    """The one of them that `config.json` names."""
    norm: NormKind
    tokenizer: Path | None
    state_norm: Normalizer | None = None
    """LeRobot brings its statistics itself; other formats have them under `assets/`."""
    action_norm: Normalizer | None = None
    resize: ResizeKind = "torch"
    image_pad: float = -1.0
    """What fills the borders that make a picture square, of pixels in [-1, 1]."""
    state_in_prompt: bool | None = None
    """None: as the robot mapping says."""
    state_width: int = 0
    """Numbers to which the state is padded with zeros in the prompt; 0: it is not padded."""
    clean_prompt: bool = True
    """Whether underscores and line breaks of the instruction become spaces."""
    pruner: Any = None
    """The pruner's config that the policy was trained with, as `config.json` has it."""
    assumed: tuple[str, ...] = ()
    """What is not stored and was taken from known configurations."""
    undetermined: tuple[str, ...] = ()
    """Sizes that nothing tells; the model cannot be built."""
    norm_problems: tuple[str, ...] = ()
    """Statistics that a LeRobot policy names and does not hold."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to be supplied before the policy can run, with what to do about it."""
        lines = [f"size: {line}" for line in self.undetermined]
        if self.tokenizer is None:
            lines.append(
                f"tokenizer: put the sentencepiece model into the folder as {TOKENIZER_NAMES[0]}, or pass --tokenizer "
                "FILE (published checkpoints: PaliGemma's paligemma_tokenizer.model)"
            )
        if self.format != "lerobot" and not self.asset_ids:
            lines.append("norm stats: no assets/<asset_id>/norm_stats.json in the folder")
        if self.robot is None:
            shipped = ", ".join(sorted(p.stem for p in ROBOTS_DIR.glob("*.yaml")))
            lines.append(f"robot mapping: pass --robot NAME or a YAML file (shipped: {shipped})")
        return (*lines, *self.norm_problems)

    def with_overrides(self, robot: str | Path | None = None, tokenizer: str | Path | None = None) -> CheckpointInfo:
        """The same checkpoint with another robot mapping or tokenizer; None leaves what was found."""
        return replace(
            self,
            robot=self.robot if robot is None else RobotMapping.load(robot, self.model),
            tokenizer=self.tokenizer if tokenizer is None else Path(tokenizer),
        )

    @property
    def model(self) -> Literal["pi0", "pi05"]:
        return "pi05" if self.config.pi05 else "pi0"

    @property
    def spec(self) -> ModelSpec:
        return self.config.spec


def detect(
    path: str | Path,
    *,
    robot: str | Path | None = None,
    config_name: str | None = None,
    tokenizer: str | Path | None = None,
    action_horizon: int | None = None,
    lerobot_version: Literal["0.4", "0.5"] | None = None,
    clean_prompt: bool | None = None,
) -> CheckpointInfo:
    """Look at a checkpoint folder.

    Args:
        robot: overrides the mapping that the folder names or suggests.
        config_name: openpi's configuration that the checkpoint was trained under; what the folder says itself counts.
        tokenizer: a sentencepiece model, where the folder has none.
        action_horizon: for an openpi checkpoint, whose files do not tell it.
        lerobot_version: of the LeRobot that trained a LeRobot policy; None: 0.5 or later.
        clean_prompt: whether underscores and line breaks of the instruction become spaces; None: as the folder's
            format has it.
    Raises:
        FoveateError: no weights there, a damaged file, a network that is neither π0 nor π0.5, or one that was not
            trained under `config_name`.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FoveateError(f"{folder}: no such checkpoint folder")
    named = None if config_name is None else openpi_config(config_name)
    weights = find_weights(folder)
    if weights is None:
        raise FoveateError(f"{folder}: no model.safetensors{_instead_of_weights(folder)}")
    keys = openpi_keys(read_header(weights))
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    dtypes: Counter[str] = Counter()
    for entry in keys.stored.values():
        dtypes[entry.dtype] += math.prod(entry.shape)
    common = CheckpointInfo(
        path=folder,
        format="openpi",
        weights=weights,
        keys=keys,
        config=Pi0Config(),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes),
        robot=None,
        asset_ids=_asset_ids(folder),
        norm="quantile",
        tokenizer=Path(tokenizer) if tokenizer else None,
    )
    if lerobot_version is not None and ("model" in config or "type" not in config):
        raise FoveateError(f"{folder}: --lerobot_version is for LeRobot's policies, and this is none of them")
    if "model" in config:
        info = _foveate(common, config, robot)
    elif "type" in config:
        info = _lerobot(common, config, robot, lerobot_version, clean_prompt)
    else:
        info = _openpi(common, config, robot, action_horizon, named)
    if named is not None:
        info = _under(info, config_name or "", named, robot is None)
    if clean_prompt is not None:
        info = replace(info, clean_prompt=clean_prompt)
    if info.tokenizer is None:
        info = replace(info, tokenizer=find_tokenizer(folder, info.config.vocab_size))
    return info


def _under(info: CheckpointInfo, name: str, named: OpenpiConfig, own_robot: bool) -> CheckpointInfo:
    """The checkpoint as one that was trained under openpi's configuration of this name."""
    if named.model.pi05 != info.config.pi05:
        kinds = ("π0", "π0.5")
        raise FoveateError(
            f"{info.path}: openpi config {name} is of {kinds[named.model.pi05]}, these weights are "
            f"{kinds[info.config.pi05]}'s; name the configuration that they were trained under"
        )
    robot = named.robot()
    if own_robot and robot is not None and info.robot is not None and not _alike(robot, info.robot):
        raise FoveateError(
            f"{info.path}: openpi config {name} is for robot {robot.name}, the checkpoint for {info.robot.name}, as it "
            "says itself; leave the configuration out"
        )
    return replace(
        info,
        robot=info.robot or robot,
        asset_id=info.asset_id or (named.asset_id if named.asset_id in info.asset_ids else None),
        pruner=info.pruner or named.pruner,
    )


def _alike(one: RobotMapping, other: RobotMapping) -> bool:
    """Whether clients send the same to two robots' policies, and get the same back."""
    return (one.remote.keys(one), one.action_dim) == (other.remote.keys(other), other.action_dim)


def _instead_of_weights(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    if (folder / "params").is_dir():
        return " (it holds JAX parameters: convert them with `foveate convert jax-to-torch`)"
    if "adapter_model.safetensors" in names:
        return " (it holds adapters alone: merge them into the model that they adapt, and save that)"
    found = f", found {names[:8]}"
    if any(re.fullmatch(r"model-\d+-of-\d+\.safetensors", name) for name in names):
        return f"{found}; shards are read through their index, {INDEX}: copy it too"
    return found


def _foveate(info: CheckpointInfo, config: Mapping[str, Any], robot: str | Path | None) -> CheckpointInfo:
    file = info.path / "config.json"
    for key in config:
        if key not in _KEYS:
            raise unknown(f"{file}: key", key, _KEYS)
    model = _sized(file, lambda: Pi0Config.from_dict(config["model"]))
    kind: Literal["pi0", "pi05"] = "pi05" if model.pi05 else "pi0"
    text = (str, type(None))
    named, chosen = (of_type(f"{file}: {key}", config.get(key), *text) for key in ("robot", "asset_id"))
    if robot is None and (info.path / "robot.yaml").exists():
        robot = info.path / "robot.yaml"
    elif robot is None and named is not None:
        # A path in a downloaded file must not reach outside the folder.
        if Path(named).is_absolute() or ".." in Path(named).parts:
            raise FoveateError(
                f"{file}: robot {named!r} lies outside the folder; put the file into it, or pass --robot"
            )
        robot = info.path / named if named.endswith((".yaml", ".yml")) else named
    ids = info.asset_ids
    if chosen is not None and ids and chosen not in ids:
        raise FoveateError(f"{file}: asset_id {chosen!r} is not under assets, found {list(ids)}")
    return replace(
        info,
        format="foveate",
        config=model,
        robot=None if robot is None else RobotMapping.load(robot, kind),
        # The named one first: it is the default where there are several.
        asset_ids=(chosen, *(i for i in ids if i != chosen)) if chosen in ids else ids,
        asset_id=chosen if chosen in ids else None,
        norm=one_of(f"{file}: norm", config.get("norm", "quantile" if model.pi05 else "zscore"), get_args(NormKind)),
        resize=one_of(f"{file}: resize", config.get("resize", "torch"), get_args(ResizeKind)),
        state_in_prompt=of_type(f"{file}: state_in_prompt", config.get("state_in_prompt"), bool, type(None)),
        pruner=of_type(f"{file}: pruner", config.get("pruner"), dict, str, type(None)),
    )


_KEYS = ("model", "robot", "asset_id", "norm", "resize", "state_in_prompt", "pruner")
"""Of foveate's own config.json."""


def _sized(file: Path, build: Callable[[], Pi0Config]) -> Pi0Config:
    """The config that `build` makes; what it refuses, with the file's name."""
    try:
        return build()
    except FoveateError as error:
        raise FoveateError(f"{file}: {error}") from None


def _lerobot(
    info: CheckpointInfo,
    config: Mapping[str, Any],
    robot: str | Path | None,
    version: str | None,
    clean_prompt: bool | None,
) -> CheckpointInfo:
    policy = read_lerobot(info.path, config, info.keys.stored)
    sizes, undetermined = _sizes(info, config)
    if sizes["pi05"] != policy.pi05:
        raise FoveateError(f"{info.path}: config.json says {config['type']}, the weights are the other of π0 and π0.5")
    model = _sized(
        info.path / "config.json",
        lambda: Pi0Config(
            **sizes,
            action_horizon=policy.action_horizon,
            max_token_len=policy.max_token_len,
            views=policy.views,
            num_steps=policy.num_steps,
            time_grid="exact",
        ),
    )
    if model.vision.image_size != policy.image_size:
        raise FoveateError(
            f"{info.path}: config.json says images of {policy.image_size} px, the position embedding holds "
            f"{model.vision.image_size} px"
        )
    assumed = []
    if version is None and not policy.since_0_5:
        padded, not_padded = "", ""
        if policy.pi05:
            padded = f", and padded the state in the prompt to {policy.state_width} numbers"
            not_padded = ", the state in the prompt not padded"
        assumed.append(
            f"LeRobot 0.5 or later (not stored): pictures padded with -1{not_padded}; LeRobot up to 0.4.4 padded "
            f"pictures with -3{padded}: --lerobot_version 0.4"
        )
    if not policy.pi05 and clean_prompt is None:
        assumed.append(
            "the instruction enters the prompt as it is, underscores too, as LeRobot's π0 has it; openpi's, which "
            "makes them spaces: --clean_prompt true"
        )
    return replace(
        info,
        format="lerobot",
        config=model,
        robot=policy.robot if robot is None else RobotMapping.load(robot, "pi05" if policy.pi05 else "pi0"),
        norm="quantile" if policy.pi05 else "zscore",
        image_pad=-3.0 if version == "0.4" else -1.0,
        state_width=policy.state_width if policy.pi05 and version == "0.4" else 0,
        clean_prompt=policy.pi05,
        assumed=tuple(assumed),
        state_norm=policy.state_norm,
        action_norm=policy.action_norm,
        undetermined=undetermined,
        norm_problems=policy.missing,
    )


def _openpi(
    info: CheckpointInfo,
    config: Mapping[str, Any],
    robot: str | Path | None,
    horizon: int | None,
    named: OpenpiConfig | None,
) -> CheckpointInfo:
    sizes, undetermined = _sizes(info, config)
    kind: Literal["pi0", "pi05"] = "pi05" if sizes["pi05"] else "pi0"
    if robot is not None:
        mapping: RobotMapping | None = RobotMapping.load(robot, kind)
    else:
        mapping = _robot_of_assets(info.asset_ids, kind) if named is None else named.robot()
    # A checkpoint with the statistics of several robots is a base model.
    name = mapping.name if mapping and len(info.asset_ids) == 1 else "base"
    assumed = []
    if mapping is not None and robot is None and named is None:
        space = mapping.conventions.get("action_space")
        assumed.append(f"robot {mapping.name} ({space}): from its norm stats' name; override with --robot")
    # openpi's converter leaves a small config.json with it; its trainer does not.
    horizon = horizon or (named.model.action_horizon if named else None) or config.get("action_horizon")
    if horizon is None:
        horizon = OPENPI_HORIZONS.get((kind, name), _DEFAULT_HORIZON)
        assumed.append(
            f"action_horizon {horizon}: not stored, that of openpi's {kind}_{name}; override with --action_horizon"
        )
    length = 200 if sizes["pi05"] else 48
    model = _sized(info.path / "config.json", lambda: Pi0Config(**sizes, action_horizon=horizon, max_token_len=length))
    assumed.append(f"max_token_len {model.max_token_len} and views {', '.join(model.views)}: openpi's {kind}")
    return replace(
        info,
        config=model,
        robot=mapping,
        norm="quantile" if sizes["pi05"] else "zscore",
        resize="pil",
        assumed=tuple(assumed),
        undetermined=undetermined,
    )


def _sizes(info: CheckpointInfo, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    heads = config.get("vision_heads")
    if heads is not None:
        heads = whole(f"{info.path / 'config.json'}: vision_heads", heads, 1, 512)
    try:
        return sizes_from_header(info.keys.stored, heads)
    except FoveateError as error:
        raise FoveateError(f"{info.weights}: {error}") from None


def sizes_from_header(header: Header, vision_heads: int | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of `Pi0Config` that shapes tell, and what they leave open.

    Args:
        header: openpi's name -> (shape, dtype).
        vision_heads: of the image tower; None: SigLIP So400m's, if the tower has its width.
    Raises:
        FoveateError: keys of π0 are not there; the text says what the file is nearest to.
    """

    def shape(key: str, rank: int = 2) -> tuple[int, ...]:
        if key not in header:
            raise FoveateError(
                f"the weights are neither π0 nor π0.5: they lack {key!r} (among {len(header)} keys); {nearest(header)}"
            )
        found: tuple[int, ...] = header[key][0]
        if len(found) != rank or not all(found):
            raise FoveateError(f"the weights are neither π0 nor π0.5: {key!r} has shape {found}, expected {rank} sizes")
        return found

    def depth(prefix: str) -> int:
        found = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in header]
        return 1 + max((int(m.group(1)) for m in found if m), default=-1)

    def gemma(prefix: str) -> GemmaConfig:
        mlp_dim, width = shape(prefix + "layers.0.mlp.gate_proj.weight")
        # Every Gemma of openpi has one key-value head, so its key projection has head_dim rows.
        head_dim = shape(prefix + "layers.0.self_attn.k_proj.weight")[0]
        heads = shape(prefix + "layers.0.self_attn.q_proj.weight")[0] // head_dim
        return GemmaConfig(width, depth(prefix + "layers."), mlp_dim, max(heads, 1), 1, head_dim)

    embedding = next(
        (
            k
            for k in (_PALIGEMMA + "lm_head.weight", _PALIGEMMA + "model.language_model.embed_tokens.weight")
            if k in header
        ),
        _PALIGEMMA + "lm_head.weight",
    )
    hidden, _, patch, _ = shape(_TOWER + "embeddings.patch_embedding.weight", 4)
    positions = shape(_TOWER + "embeddings.position_embedding.weight")[0]
    if vision_heads is None and hidden == SIGLIP_SO400M.hidden_size:
        vision_heads = SIGLIP_SO400M.num_attention_heads
    vision = VisionConfig(
        hidden_size=hidden,
        num_hidden_layers=depth(_TOWER + "encoder.layers."),
        num_attention_heads=vision_heads or 1,
        intermediate_size=shape(_TOWER + "encoder.layers.0.mlp.fc1.weight")[0],
        patch_size=patch,
        image_size=math.isqrt(positions) * patch,
        projection_dim=shape(_PALIGEMMA + "model.multi_modal_projector.linear.weight")[0],
    )
    sizes = {
        "pi05": "time_mlp_in.weight" in header,
        "action_dim": shape("action_in_proj.weight")[1],
        "vocab_size": shape(embedding)[0],
        "llm": gemma(_PALIGEMMA + "model.language_model."),
        "expert": gemma("paligemma_with_expert.gemma_expert.model."),
        "vision": vision,
    }
    if not sizes["pi05"]:
        shape("action_time_mlp_in.weight")
    if vision_heads:
        return sizes, ()
    line = f"vision.num_attention_heads: a tower of width {hidden} is not SigLIP So400m, and no shape tells its heads"
    return sizes, (f'{line}; write "vision_heads": N into config.json',)


def _asset_ids(folder: Path) -> tuple[str, ...]:
    assets = folder / "assets"
    return tuple(sorted(p.parent.relative_to(assets).as_posix() for p in assets.rglob(NORM_FILE)))


def _robot_of_assets(asset_ids: tuple[str, ...], kind: Literal["pi0", "pi05"]) -> RobotMapping | None:
    """The shipped mapping that the only norm stats belong to; a base model with several leaves the choice open."""
    mappings = [RobotMapping.load(p.stem, kind) for p in sorted(ROBOTS_DIR.glob("*.yaml"))]
    return next((m for m in mappings if len(asset_ids) == 1 and asset_ids[0] in m.asset_ids), None)


def find_tokenizer(folder: Path | None, vocab_size: int) -> Path | None:
    """In the folder, or, for a PaliGemma vocabulary, where openpi keeps its download; None: not there."""
    places = [] if folder is None else [folder / name for name in TOKENIZER_NAMES]
    if vocab_size == Pi0Config.vocab_size:
        cache = Path(os.environ.get("OPENPI_DATA_HOME", "~/.cache/openpi")).expanduser()
        places.append(cache / "big_vision" / "paligemma_tokenizer.model")
    return next((place for place in places if place.is_file()), None)


def stored_dtype(info: CheckpointInfo) -> str:
    """The dtype of most stored numbers, in torch's words."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    largest = max(info.dtypes, key=lambda d: info.dtypes[d])
    return names.get(largest, largest)
