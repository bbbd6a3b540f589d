"""Weights of π0 and π0.5 on disk, under the names that openpi and LeRobot use.

Reading is strict, through safetensors' memory map, one parameter at a time; no pickle is ever executed.
Fused projections (`qkv_proj`, `gate_up_proj`) are stored as their parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.util.files import draft

_PALIGEMMA = "paligemma_with_expert.paligemma."
_VISION = _PALIGEMMA + "model.vision_tower.vision_model."
_EXPERT = "paligemma_with_expert.gemma_expert."
TIED_EMBEDDING = (_PALIGEMMA + "lm_head.weight", _PALIGEMMA + "model.language_model.embed_tokens.weight")
"""Two names of one tensor; a file holds either or both."""
UNUSED = (_EXPERT + "lm_head.weight",)
"""In every openpi checkpoint, read by nothing (263 M parameters at the published size)."""

_PREFIXES = {
    "vision.patch_embedding": _VISION + "embeddings.patch_embedding",
    "vision.position_embedding": _VISION + "embeddings.position_embedding.weight",
    "vision.post_layernorm": _VISION + "post_layernorm",
    "vision.layers": _VISION + "encoder.layers",
    "projector": _PALIGEMMA + "model.multi_modal_projector.linear",
    "embed_tokens.weight": TIED_EMBEDDING[0],
    "llm": _PALIGEMMA + "model.language_model",
    "expert": _EXPERT + "model",
}
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_VISION_FOLDERS = {"qkv_proj": "self_attn.", "out_proj": "self_attn.", "fc1": "mlp.", "fc2": "mlp."}


def openpi_names(name: str) -> tuple[str, ...]:
    """The openpi name of a parameter of `Pi0`, or the names of its parts, in the order of their rows."""
    for ours, theirs in _PREFIXES.items():
        if name == ours or name.startswith(ours + "."):
            stem = theirs + name[len(ours) :]
            break
    else:
        return (name,)
    *_, layer, kind = ("", *stem.split("."))
    if name.startswith("vision.layers"):
        stem = stem[: -len(f"{layer}.{kind}")] + _VISION_FOLDERS.get(layer, "") + f"{layer}.{kind}"
    if layer in _PARTS:
        return tuple(stem.replace(layer, part) for part in _PARTS[layer])
    return (stem,)


def _row_counts(name: str, rows: int, config: Pi0Config) -> list[int]:
    """How many rows of a (fused) parameter each of its parts takes."""
    parts = len(openpi_names(name))
    if "qkv_proj" in name and not name.startswith("vision."):
        gemma = config.llm if name.startswith("llm.") else config.expert
        return [n * gemma.head_dim for n in (gemma.num_heads, gemma.num_kv_heads, gemma.num_kv_heads)]
    return [rows // parts] * parts


def split_parameter(name: str, tensor: Tensor, config: Pi0Config) -> dict[str, Tensor]:
    """A parameter of `Pi0`, or its gradient -> views of its parts under openpi's names."""
    counts = _row_counts(name, tensor.shape[0], config)
    return dict(zip(openpi_names(name), tensor.split(counts), strict=True))


def expected_shapes(config: Pi0Config) -> dict[str, tuple[int, ...]]:
    """Every key that a checkpoint of this size must hold, and its shape; nothing is allocated."""
    with torch.device("meta"):
        model = Pi0(config)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        shapes |= {key: tuple(part.shape) for key, part in split_parameter(name, parameter, config).items()}
    return shapes


def read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key -> (shape, dtype as safetensors writes it); tensors are not read."""
    if not path.exists():
        raise FoveateError(f"{path}: no such file; a checkpoint folder holds its weights as model.safetensors")
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise FoveateError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None


def _resolve(keys: Iterable[str], path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Openpi's name -> the key in the file: LeRobot prefixes `model.`, the embedding has two names."""
    found = {key.removeprefix("model."): key for key in keys}
    if TIED_EMBEDDING[0] not in found and TIED_EMBEDDING[1] in found:
        found[TIED_EMBEDDING[0]] = found[TIED_EMBEDDING[1]]
    ignored = {TIED_EMBEDDING[1], *UNUSED}
    normaliser = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(k for k in set(found) - set(expected) - ignored if not k.startswith(normaliser))
    if missing or unexpected:
        lines = [f"{path}: the keys do not fit the model"]
        lines += [f"  missing ({len(missing)}): {', '.join(missing)}"] if missing else []
        lines += [f"  unexpected ({len(unexpected)}): {', '.join(unexpected)}"] if unexpected else []
        raise FoveateError("\n".join([*lines, "see what the file holds with `foveate inspect`"]))
    return found


def load_weights(path: str | Path, config: Pi0Config, device: torch.device | str = "cpu") -> Pi0:
    """Build the model and read its weights, each parameter in its own dtype.

    Args:
        path: a `model.safetensors` with openpi's or LeRobot's key names.
    Raises:
        FoveateError: the file is absent or cut short, or keys are missing, unexpected or wrongly shaped
            (all are listed by name).
    """
    path = Path(path)
    header = read_header(path)
    expected = expected_shapes(config)
    keys = _resolve(header, path, expected)
    wrong = [
        f"  {name}: expected {shape}, got {header[keys[name]][0]}"
        for name, shape in expected.items()
        if header[keys[name]][0] != shape
    ]
    if wrong:
        raise FoveateError("\n".join([f"{path}: wrong shapes ({len(wrong)})", *wrong]))
    with torch.device("meta"):
        model = Pi0(config)
    for name, parameter in list(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        # Opened anew for each parameter: pages of the map that were read are given back when it closes.
        with safe_open(path, "pt") as file:
            for key, part in split_parameter(name, value, config).items():
                part.copy_(file.get_tensor(keys[key]))
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=parameter.requires_grad))
    return model.eval()


def openpi_state_dict(model: Pi0, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All parameters under openpi's names (the embedding under the name that openpi's files have)."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, part in split_parameter(name, parameter.detach(), model.config).items():
            state[key] = part.to(dtype=dtype or part.dtype, device="cpu").contiguous().clone()
    return state


def save_weights(model: Pi0, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write `model.safetensors` in openpi's layout; renamed into place when whole."""
    path = Path(path)
    with draft(path, "the weights") as begun:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(openpi_state_dict(model, dtype), begun, metadata={"format": "pt"})
