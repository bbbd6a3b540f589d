"""What an OpenVLA-OFT folder is, from its small files and the headers of its weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.models.base import ModelOptions, ModelSpec
from foveate.models.common.normalize import Normalizer, NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import find_weights, read_header
from foveate.models.openvla_oft.config import DINOV2_LARGE, SIGLIP_SO400M, LlamaConfig, OFTConfig, TowerConfig
from foveate.models.openvla_oft.weights import COMPONENTS, LLM, REFUSED, TOWERS, find_component, read_component
from foveate.util.files import read_json

STATISTICS = "dataset_statistics.json"
ROBOT = "robot.yaml"
"""Beside the weights where foveate trained them; published folders have none."""
TOKENIZER_NAMES = ("tokenizer.model", "tokenizer.json")
EPS = 1e-8
"""Keeps a constant entry from a division by zero, as in the reference."""


@dataclass(frozen=True)
class OFTInfo:
    """A checkpoint, as far as it can be known without reading the tensors of its model."""

    path: Path
    weights: Path
    config: OFTConfig
    parameters: int
    """Numbers stored in the model's files."""
    dtypes: Mapping[str, int]
    """Stored numbers per dtype, as safetensors names it."""
    robot: RobotMapping | None
    statistics: Mapping[str, Any]
    """Data set -> its statistics, as stored."""
    tokenizer: Path | None
    components: Mapping[str, Path]
    assumed: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()
    pruner: Any = None
    """As foveate's training writes it into `config.json`; published folders name none."""

    @property
    def spec(self) -> ModelSpec:
        return self.config.spec

    @property
    def missing(self) -> tuple[str, ...]:
        lines = [f"size: {line}" for line in self.undetermined]
        if self.tokenizer is None:
            lines.append(f"tokenizer: put Llama's {TOKENIZER_NAMES[0]} into the folder, or pass --tokenizer FILE")
        if not self.statistics:
            lines.append(f"norm stats: no {STATISTICS} in the folder, and config.json has no norm_stats")
        for part, label in COMPONENTS.items():
            if part not in self.components:
                lines.append(f"{label}: no {label}--*_checkpoint.pt in the folder")
        return tuple(lines)

    def data_set(self, asset_id: str | None) -> str:
        """The data set whose statistics are meant.

        Raises:
            FoveateError: no such data set, or several and none is named.
        """
        if asset_id is not None and asset_id not in self.statistics:
            raise FoveateError(
                f"{self.path}: no statistics of the data set {asset_id!r}; there are those of "
                f"{', '.join(map(repr, self.statistics))}: pass one of them with --asset_id"
            )
        if asset_id is None and len(self.statistics) > 1:
            raise FoveateError(
                f"{self.path}: statistics of several data sets, {list(self.statistics)}: pass --asset_id"
            )
        return asset_id or next(iter(self.statistics))

    def norms(self, asset_id: str | None, ends: tuple[str, str] = ("q01", "q99")) -> tuple[Normalizer, Normalizer]:
        """Of state and actions; an action's entry outside the mask passes through.

        Args:
            ends: the statistics that become -1 and 1: LIBERO's policies take the quantiles (`BOUNDS_Q99`), others
                `min` and `max` (`BOUNDS`).
        Raises:
            FoveateError: no such data set, several and none is named, or statistics that are damaged.
        """
        name = self.data_set(asset_id)
        stats = self.statistics[name]
        try:
            action, state = dict(stats["action"]), stats["proprio"]
            mask = np.array(action.get("mask", [True] * len(action["q01"])), bool)
            # What is not normalised in training: an interval that maps onto itself.
            action |= {ends[0]: np.where(mask, action[ends[0]], -1.0), ends[1]: np.where(mask, action[ends[1]], 1.0)}
            read = [NormStats(*(values[key] for key in ("mean", "std", *ends))) for values in (state, action)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FoveateError(
                f"{self.path}: statistics of {name!r} lack or mistake {error}; "
                "expected action and proprio with mean, std, q01 and q99"
            ) from None
        state_norm, action_norm = (Normalizer(stats, "quantile", EPS) for stats in read)
        return state_norm, action_norm


def detect(folder: Path, options: ModelOptions) -> OFTInfo | None:
    """An OpenVLA-OFT folder; None where `config.json` names no OpenVLA.

    Raises:
        FoveateError: a variant that is not built here, or a damaged file.
    """
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict) or config.get("model_type") != "openvla":
        return None
    for name, variant in REFUSED.items():
        if files := sorted(p.name for p in folder.glob(f"{name}--*.pt")):
            raise FoveateError(f"{folder}: {files[0]} belongs to {variant}, which foveate does not build")
    weights = find_weights(folder)
    if weights is None:
        raise FoveateError(f"{folder}: no model.safetensors and no index of its shards; copy the whole folder")
    header = read_header(weights)
    dtypes: Counter[str] = Counter()
    for entry in header.values():
        dtypes[entry.dtype] += math.prod(entry.shape)
    shapes = {key: entry.shape for key, entry in header.items()}
    components = {part: found for part in COMPONENTS if (found := find_component(folder, part))}
    sizes, undetermined = _sizes(folder, config, shapes, components)
    statistics = read_json(folder / STATISTICS) if (folder / STATISTICS).exists() else config.get("norm_stats")
    tokenizer = Path(options.tokenizer) if options.tokenizer else None
    tokenizer = tokenizer or next((folder / n for n in TOKENIZER_NAMES if (folder / n).is_file()), None)
    horizon = options.action_horizon or OFTConfig.action_horizon
    assumed = [] if options.action_horizon else [f"action_horizon {horizon}: not stored, that of LIBERO's policies"]
    rows: dict[str, Any] = {"action_rows": options.action_rows} if options.action_rows else {}
    own = folder / ROBOT if (folder / ROBOT).exists() else None
    assumed += [] if options.robot or own else ["robot libero_oft: not stored; override with --robot"]
    return OFTInfo(
        path=folder,
        weights=weights,
        config=OFTConfig(**sizes, action_horizon=horizon, dtype=options.dtype, **rows),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes),
        robot=RobotMapping.load(options.robot or own or "libero_oft"),
        statistics=statistics if isinstance(statistics, dict) else {},
        tokenizer=tokenizer,
        components=components,
        assumed=tuple(assumed),
        undetermined=undetermined,
        pruner=config.get("pruner"),
    )


def _sizes(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], components: Mapping[str, Path]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The sizes that the shapes and `config.json` tell, and what neither does."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise FoveateError(f"{folder}: the weights are no OpenVLA's: they lack {key!r} (among {len(shapes)} keys)")
        return shapes[key]

    def component(part: str, key: str) -> tuple[int, ...]:
        tensors = read_component(components[part])
        if key not in tensors:
            raise FoveateError(f"{components[part]}: no {COMPONENTS[part]} is in it, it lacks {key!r}")
        return tuple(tensors[key].shape)

    def depth(prefix: str) -> int:
        found = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in shapes]
        return 1 + max((int(m.group(1)) for m in found if m), default=-1)

    undetermined, towers = [], {}
    heads = config.get("vision_heads") or {}
    for name, prefix in TOWERS.items():
        width, _, patch, _ = shape(f"{prefix}patch_embed.proj.weight")
        known = next((t.num_heads for t in (DINOV2_LARGE, SIGLIP_SO400M) if t.width == width), None)
        count = heads.get(name) or known
        if count is None:
            undetermined.append(
                f"heads of the {name} tower of width {width}, which no shape tells; write "
                '"vision_heads": {"dino": N, "siglip": N} into config.json'
            )
        towers[name] = TowerConfig(
            width=width,
            depth=depth(f"{prefix}blocks."),
            num_heads=count or 1,
            hidden=shape(f"{prefix}blocks.0.mlp.fc1.weight")[0],
            registers=sum(shapes[prefix + key][1] for key in ("cls_token", "reg_token") if prefix + key in shapes),
            layer_scale=f"{prefix}blocks.0.ls1.scale_factor" in shapes,
        )
    text = config.get("text_config") or {}
    vocab, width = shape(LLM + "embed_tokens.weight")
    llm = LlamaConfig(
        width=width,
        depth=depth(LLM + "layers."),
        mlp_dim=shape(LLM + "layers.0.mlp.gate_proj.weight")[0],
        num_heads=int(text.get("num_attention_heads", 32)),
        num_kv_heads=int(text.get("num_key_value_heads") or text.get("num_attention_heads", 32)),
        vocab_size=vocab,
        rms_norm_eps=float(text.get("rms_norm_eps", 1e-6)),
        rope_theta=float(text.get("rope_theta", 10_000.0)),
    )
    sizes: dict[str, Any] = {"dino": towers["dino"], "siglip": towers["siglip"], "llm": llm, "patch_size": patch}
    sizes["image_size"] = math.isqrt(shape(TOWERS["siglip"] + "pos_embed")[1]) * patch
    if "head" in components:
        sizes["action_dim"] = component("head", "model.fc2.weight")[0]
    if "proprio" in components:
        sizes["state_dim"] = component("proprio", "fc1.weight")[1]
    processor = folder / "preprocessor_config.json"
    stored = read_json(processor).get("tvf_normalize_params") if processor.exists() else None
    if stored:
        sizes |= {"dino_mean": tuple(stored[0]["mean"]), "dino_std": tuple(stored[0]["std"])}
    return sizes, tuple(undetermined)
