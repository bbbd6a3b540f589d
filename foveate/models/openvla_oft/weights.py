"""Weights of OpenVLA-OFT on disk, under the names that its training script writes; nothing pickled is ever executed.

The merged model is one safetensors file or shards with an index; action head and proprio projector stand beside it as
`.pt` files, of which plain tensors alone are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.common.pt_files import read_weights
from foveate.models.common.tensor_files import Stored, check_floats, copy_finite, read_header, read_tensor
from foveate.models.openvla_oft.config import OFTConfig
from foveate.models.openvla_oft.lora import Adapter
from foveate.models.openvla_oft.model import OpenVLAOFT

LLM = "language_model.model."
TOWERS = {"dino": "vision_backbone.featurizer.", "siglip": "vision_backbone.fused_featurizer."}
_BLOCK = {
    "layer_norm1": "norm1",
    "qkv_proj": "attn.qkv",
    "out_proj": "attn.proj",
    "layer_norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "attention_scale": "ls1.scale_factor",
    "mlp_scale": "ls2.scale_factor",
}
_PROJECTOR = {"0": "fc1", "2": "fc2", "4": "fc3"}
_PROPRIO = {"0": "fc1", "2": "fc2"}
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_HEAD = {
    "norm_in": "layer_norm1",
    "linear_in": "fc1",
    "norm_out": "layer_norm2",
    "linear_out": "fc2",
    "norm": "ffn.0",
    "linear": "ffn.1",
}
COMPONENTS = {"head": "action_head", "proprio": "proprio_projector"}
"""Part of the model -> how its own file is called."""
REFUSED = {
    "vision_backbone": "FiLM (a language-conditioned tower)",
    "noisy_action_projector": "a diffusion action head",
}
"""Component files of variants that are not built here."""


class Place(NamedTuple):
    """Where a piece of a parameter is stored."""

    part: str
    """`model`, or a key of `COMPONENTS`."""
    key: str


def places_of(name: str) -> tuple[Place, ...]:
    """The stored pieces of a parameter of `OpenVLAOFT`, in the order of their rows."""
    part, _, rest = name.partition(".")
    if part in TOWERS:
        return tuple(Place("model", TOWERS[part] + key) for key in _tower_keys(rest))
    if part == "projector":
        layer, _, kind = rest.partition(".")
        return (Place("model", f"projector.{_PROJECTOR[layer]}.{kind}"),)
    if part == "embed_tokens":
        return (Place("model", LLM + name),)
    if part == "llm":
        layer = next((layer for layer in _PARTS if f".{layer}." in rest), "")
        return tuple(Place("model", LLM + rest.replace(layer, piece)) for piece in _PARTS.get(layer, (layer,)))
    if part == "proprio":
        layer, _, kind = rest.partition(".")
        return (Place("proprio", f"{_PROPRIO[layer]}.{kind}"),)
    *block, layer, kind = rest.split(".")
    return (
        Place("head", ".".join(["model", *(["mlp_resnet_blocks", block[1]] if block else []), _HEAD[layer], kind])),
    )


def _tower_keys(rest: str) -> tuple[str, ...]:
    if rest.startswith("patch_embedding."):
        return (rest.replace("patch_embedding", "patch_embed.proj"),)
    if rest == "position_embedding":
        return ("pos_embed",)
    if rest == "registers":
        return ("cls_token", "reg_token")
    _, number, layer, *kind = rest.split(".")
    return (".".join(["blocks", number, _BLOCK[layer], *kind]),)


def is_unused(key: str, config: OFTConfig) -> bool:
    """Whether every checkpoint holds a key that the model does not read: of the towers' last blocks, final norms and
    pooling, or of the language head."""
    if key == "language_model.lm_head.weight":
        return True
    for name, prefix in TOWERS.items():
        last = getattr(config, name).depth - 1
        if key.startswith((f"{prefix}blocks.{last}.", f"{prefix}norm.", f"{prefix}attn_pool.")):
            return True
    return False


def find_component(folder: Path, part: str) -> Path | None:
    """The one file of a component; None: there is none.

    Raises:
        FoveateError: there are several.
    """
    found = sorted(p for p in folder.glob("*.pt") if COMPONENTS[part] in p.name and "checkpoint" in p.name)
    if len(found) > 1:
        raise FoveateError(
            f"{folder}: several files of the {COMPONENTS[part]}, {[p.name for p in found]}; leave the one of the step "
            "that the model is of"
        )
    return found[0] if found else None


def read_component(path: Path) -> dict[str, Tensor]:
    """A component's plain tensors, without the `module.` that data-parallel training puts before their names.

    Raises:
        FoveateError: the file holds something else than tensors, or a number that is not finite.
    """
    values = read_weights(path)
    if strange := sorted(str(key) for key, value in values.items() if not isinstance(value, Tensor)):
        raise FoveateError(f"{path}: expected tensors alone, but {strange[0]!r} is none")
    found = {re.sub(r"^(module\.)+", "", str(key)): value for key, value in values.items()}
    for key, value in found.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise FoveateError(f"{path}: {key!r} holds NaN, infinity, or no float numbers; copy the file again")
    return found


def load_weights(
    folder: Path,
    weights: Path,
    config: OFTConfig,
    device: str | torch.device = "cpu",
    adapter: Adapter | None = None,
) -> OpenVLAOFT:
    """A model with the folder's weights, in evaluation mode; read one parameter at a time.

    Args:
        adapter: merged into the stored weights, in their own dtype. Published folders are merged already.
    Raises:
        FoveateError: keys are missing, unexpected or wrongly shaped (all named), or a file is damaged.
    """
    header = read_header(weights)
    components: dict[str, dict[str, Tensor]] = {}
    for part, label in COMPONENTS.items():
        path = find_component(folder, part)
        if path is None:
            raise FoveateError(
                f"{folder}: no {label}--*_checkpoint.pt; it stands beside the merged model: copy the whole folder"
            )
        components[part] = read_component(path)
    with torch.device("meta"):
        model = OpenVLAOFT(config)
    _check(folder, model, config, header, components)
    if adapter is not None and (unknown := sorted(t for t in adapter.targets if f"{t}.weight" not in header)):
        raise FoveateError(f"{adapter.folder}: adapts {unknown[0]!r}, which {folder} does not hold")
    model = model.to_empty(device=device).eval()
    with torch.no_grad():
        model.dino_mean.copy_(torch.tensor(config.dino_mean)[:, None, None])
        model.dino_std.copy_(torch.tensor(config.dino_std)[:, None, None])
        for (part, key), target in pieces(model.named_parameters(), shapes_of(header, components)):
            if part == "model":
                copy_finite(target, header[key])
                module = key.removesuffix(".weight")
                if adapter is not None and module in adapter.targets:
                    target.copy_(adapter.merged(module, read_tensor(header[key])))
            else:
                target.copy_(components[part][key])
    return model


def read_components_whole(model: OpenVLAOFT, components: Mapping[str, Path]) -> None:
    """Head and proprio projector in float32, read anew: a model in bfloat16 has rounded what is to be trained."""
    for part, path in components.items():
        stored = read_component(path)
        own = [(f"{part}.{name}", value) for name, value in getattr(model, part).float().named_parameters()]
        with torch.no_grad():
            for (_, key), target in pieces(own, shapes_of({}, {part: stored})):
                target.copy_(stored[key])


def shapes_of(
    header: Mapping[str, Stored], components: Mapping[str, Mapping[str, Tensor]]
) -> dict[Place, tuple[int, ...]]:
    """The shapes of everything that a folder stores."""
    shapes = {Place("model", key): entry.shape for key, entry in header.items()}
    for part, tensors in components.items():
        shapes |= {Place(part, key): tuple(value.shape) for key, value in tensors.items()}
    return shapes


def pieces(
    parameters: Iterable[tuple[str, Tensor]], shapes: Mapping[Place, tuple[int, ...]]
) -> Iterator[tuple[Place, Tensor]]:
    """Where each part of the parameters is stored, and the part itself, a view of the shape that it is stored in."""
    for name, parameter in parameters:
        row = 0
        for place in places_of(name):
            shape = shapes[place]
            yield place, parameter[row : row + _rows(name, shape)].view(shape)
            row += _rows(name, shape)


def _rows(name: str, shape: tuple[int, ...]) -> int:
    """How many rows of a parameter a stored piece takes: timm keeps tokens and positions behind a batch axis of one."""
    return shape[1] if name.endswith(("registers", "position_embedding")) else shape[0]


def _check(
    folder: Path,
    model: OpenVLAOFT,
    config: OFTConfig,
    header: Mapping[str, Stored],
    components: Mapping[str, Mapping[str, Tensor]],
) -> None:
    expected: dict[Place, tuple[str, tuple[int, ...]]] = {}
    for name, parameter in model.named_parameters():
        for place in places_of(name):
            expected[place] = (name, tuple(parameter.shape))
    shapes = shapes_of(header, components)
    missing = sorted(place.key for place in expected if place not in shapes)
    unexpected = sorted(place.key for place in shapes if place not in expected and not is_unused(place.key, config))
    if missing or unexpected:
        lines = [f"{folder}: the keys do not fit the model"]
        lines += [f"  missing ({len(missing)}): {', '.join(missing)}"] if missing else []
        lines += [f"  unexpected ({len(unexpected)}): {', '.join(unexpected)}"] if unexpected else []
        if any("lora_" in key for key in unexpected):
            lines.append("  these are adapters (LoRA) and not whole weights: merge them into their base first")
        raise FoveateError("\n".join([*lines, "see what the file holds with `foveate inspect`"]))
    check_floats(folder, {place.key: header[place.key] for place in expected if place.part == "model"})
    sums: dict[str, list[tuple[int, ...]]] = {}
    for place, (name, _) in expected.items():
        sums.setdefault(name, []).append(shapes[place])
    wrong = []
    for name, parameter in model.named_parameters():
        pieces = sums[name]
        rows = sum(_rows(name, piece) for piece in pieces)
        rest = {piece[2:] if name.endswith(("registers", "position_embedding")) else piece[1:] for piece in pieces}
        if (rows, rest) != (parameter.shape[0], {tuple(parameter.shape[1:])}):
            keys = ", ".join(place.key for place in places_of(name))
            wrong.append(f"  {keys}: expected {tuple(parameter.shape)} in all, got {pieces}")
    if wrong:
        raise FoveateError("\n".join([f"{folder}: wrong shapes ({len(wrong)})", *wrong]))
