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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from foveate.errors import FoveateError
from foveate.models.base import ModelSpec
from foveate.models.common.normalize import NORM_FILE, Normalizer, NormKind
from foveate.models.common.robots import ROBOTS_DIR, RobotMapping
from foveate.models.pi0.config import SIGLIP_SO400M, GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.lerobot import read_lerobot
from foveate.models.pi0.weights import read_header
from foveate.util.files import read_json

CheckpointFormat = Literal["foveate", "openpi", "lerobot"]
Header = Mapping[str, tuple[tuple[int, ...], str]]
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
    config: Pi0Config
    parameters: int
    """Numbers stored in the file."""
    dtypes: Mapping[str, int]
    """Stored numbers per dtype, as safetensors names it."""
    robot: RobotMapping | None
    asset_ids: tuple[str, ...]
    """Folders under `assets/` that hold norm stats."""
    norm: NormKind
    tokenizer: Path | None
    state_norm: Normalizer | None = None
    """LeRobot brings its statistics itself; other formats have them under `assets/`."""
    action_norm: Normalizer | None = None
    resize: Literal["pil", "torch"] = "torch"
    state_in_prompt: bool | None = None
    """None: as the robot mapping says."""
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

    def describe(self) -> dict[str, Any]:
        """Plain values for `foveate inspect`."""
        from foveate.models.pi0.describe import describe  # it builds a processor, which imports this module

        return describe(self)

    def summary(self) -> str:
        """The same in words, for people."""
        from foveate.models.pi0.describe import as_text

        return as_text(self.describe())


def detect(
    path: str | Path,
    *,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    action_horizon: int | None = None,
) -> CheckpointInfo:
    """Look at a checkpoint folder.

    Args:
        robot: overrides the mapping that the folder names or suggests.
        tokenizer: a sentencepiece model, where the folder has none.
        action_horizon: for an openpi checkpoint, whose files do not tell it.
    Raises:
        FoveateError: no weights there, a damaged file, or a network that is neither π0 nor π0.5.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FoveateError(f"{folder}: no such checkpoint folder")
    weights = folder / "model.safetensors"
    if not weights.exists():
        params = " (it holds JAX parameters: convert them with openpi's convert_jax_model_to_pytorch.py)"
        hint = params if (folder / "params").is_dir() else f", found {sorted(p.name for p in folder.iterdir())[:8]}"
        raise FoveateError(f"{folder}: no model.safetensors{hint}")
    header = {key.removeprefix("model."): value for key, value in read_header(weights).items()}
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    dtypes: Counter[str] = Counter()
    for shape, dtype in header.values():
        dtypes[dtype] += math.prod(shape)
    common = CheckpointInfo(
        path=folder,
        format="openpi",
        weights=weights,
        config=Pi0Config(),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes),
        robot=None,
        asset_ids=_asset_ids(folder),
        norm="quantile",
        tokenizer=Path(tokenizer) if tokenizer else None,
    )
    if "model" in config:
        info = _foveate(common, config, robot)
    elif "type" in config:
        info = _lerobot(common, config, header, robot)
    else:
        info = _openpi(common, config, header, robot, action_horizon)
    if info.tokenizer is None:
        info = replace(info, tokenizer=_find_tokenizer(folder, info.config.vocab_size))
    return info


def _foveate(info: CheckpointInfo, config: Mapping[str, Any], robot: str | Path | None) -> CheckpointInfo:
    try:
        model = Pi0Config.from_dict(config["model"])
    except FoveateError as error:
        raise FoveateError(f"{info.path / 'config.json'}: {error}") from None
    kind: Literal["pi0", "pi05"] = "pi05" if model.pi05 else "pi0"
    named = config.get("robot")
    if robot is None and (info.path / "robot.yaml").exists():
        robot = info.path / "robot.yaml"
    elif robot is None and named is not None:
        robot = info.path / named if str(named).endswith((".yaml", ".yml")) else named
    ids = info.asset_ids
    chosen = config.get("asset_id")
    return replace(
        info,
        format="foveate",
        config=model,
        robot=None if robot is None else RobotMapping.load(robot, kind),
        # The named one first: it is the default where there are several.
        asset_ids=(chosen, *(i for i in ids if i != chosen)) if chosen in ids else ids,
        norm=config.get("norm", "quantile" if model.pi05 else "zscore"),
        resize=config.get("resize", "torch"),
        state_in_prompt=config.get("state_in_prompt"),
        pruner=config.get("pruner"),
    )


def _lerobot(
    info: CheckpointInfo, config: Mapping[str, Any], header: Header, robot: str | Path | None
) -> CheckpointInfo:
    policy = read_lerobot(info.path, config)
    sizes, undetermined = sizes_from_header(header, config.get("vision_heads"))
    if sizes["pi05"] != policy.pi05:
        raise FoveateError(f"{info.path}: config.json says {config['type']}, the weights are the other of π0 and π0.5")
    model = Pi0Config(
        **sizes,
        action_horizon=policy.action_horizon,
        max_token_len=policy.max_token_len,
        views=policy.views,
        num_steps=policy.num_steps,
        time_grid="exact",
    )
    if model.vision.image_size != policy.image_size:
        raise FoveateError(
            f"{info.path}: config.json says images of {policy.image_size} px, the position embedding holds "
            f"{model.vision.image_size} px"
        )
    return replace(
        info,
        format="lerobot",
        config=model,
        robot=policy.robot if robot is None else RobotMapping.load(robot, "pi05" if policy.pi05 else "pi0"),
        norm="quantile" if policy.pi05 else "zscore",
        state_norm=policy.state_norm,
        action_norm=policy.action_norm,
        undetermined=undetermined,
        norm_problems=policy.missing,
    )


def _openpi(
    info: CheckpointInfo, config: Mapping[str, Any], header: Header, robot: str | Path | None, horizon: int | None
) -> CheckpointInfo:
    sizes, undetermined = sizes_from_header(header, config.get("vision_heads"))
    kind: Literal["pi0", "pi05"] = "pi05" if sizes["pi05"] else "pi0"
    mapping = _robot_of_assets(info.asset_ids, kind) if robot is None else RobotMapping.load(robot, kind)
    # A checkpoint with the statistics of several robots is a base model.
    name = mapping.name if mapping and len(info.asset_ids) == 1 else "base"
    assumed = []
    if mapping is not None and robot is None:
        space = mapping.conventions.get("action_space")
        assumed.append(f"robot {mapping.name} ({space}): from its norm stats' name; override with --robot")
    # openpi's converter leaves a small config.json with it; its trainer does not.
    horizon = horizon or config.get("action_horizon")
    if horizon is None:
        horizon = OPENPI_HORIZONS.get((kind, name), _DEFAULT_HORIZON)
        assumed.append(
            f"action_horizon {horizon}: not stored, that of openpi's {kind}_{name}; override with --action_horizon"
        )
    model = Pi0Config(**sizes, action_horizon=int(horizon), max_token_len=200 if sizes["pi05"] else 48)
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


def sizes_from_header(header: Header, vision_heads: int | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of `Pi0Config` that shapes tell, and what they leave open.

    Args:
        header: key -> (shape, dtype), keys without LeRobot's `model.`.
        vision_heads: of the image tower; None: SigLIP So400m's, if the tower has its width.
    Raises:
        FoveateError: keys of π0 are not there.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in header:
            raise FoveateError(f"the weights are neither π0 nor π0.5: they lack {key!r} (among {len(header)} keys)")
        return header[key][0]

    def depth(prefix: str) -> int:
        found = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in header]
        return 1 + max((int(m.group(1)) for m in found if m), default=-1)

    def gemma(prefix: str) -> GemmaConfig:
        mlp_dim, width = shape(prefix + "layers.0.mlp.gate_proj.weight")
        # Every Gemma of openpi has one key-value head, so its key projection has head_dim rows.
        head_dim = shape(prefix + "layers.0.self_attn.k_proj.weight")[0]
        heads = shape(prefix + "layers.0.self_attn.q_proj.weight")[0] // head_dim
        return GemmaConfig(width, depth(prefix + "layers."), mlp_dim, heads, 1, head_dim)

    embedding = next(
        (
            k
            for k in (_PALIGEMMA + "lm_head.weight", _PALIGEMMA + "model.language_model.embed_tokens.weight")
            if k in header
        ),
        _PALIGEMMA + "lm_head.weight",
    )
    hidden, _, patch, _ = shape(_TOWER + "embeddings.patch_embedding.weight")
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


def _find_tokenizer(folder: Path, vocab_size: int) -> Path | None:
    """In the folder, or, for a PaliGemma vocabulary, where openpi keeps its download."""
    places = [folder / name for name in TOKENIZER_NAMES]
    if vocab_size == Pi0Config.vocab_size:
        cache = Path(os.environ.get("OPENPI_DATA_HOME", "~/.cache/openpi")).expanduser()
        places.append(cache / "big_vision" / "paligemma_tokenizer.model")
    return next((place for place in places if place.is_file()), None)


def stored_dtype(info: CheckpointInfo) -> str:
    """The dtype of most stored numbers, in torch's words."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    largest = max(info.dtypes, key=lambda d: info.dtypes[d])
    return names.get(largest, largest)
