"""Weights of π0 and π0.5 on disk, under the names that openpi and LeRobot use.

Reading is strict, through safetensors' memory map, one parameter at a time; no pickle is ever executed. Key names that
other versions and wrappers are known to write are understood (`RENAMES`). Fused projections (`qkv_proj`,
`gate_up_proj`) are stored as their parts.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import Stored, check_floats, copy_finite, read_header, read_tensor
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.util.files import draft
from foveate.util.words import plural

_PALIGEMMA = "paligemma_with_expert.paligemma."
_VISION = _PALIGEMMA + "model.vision_tower.vision_model."
_EXPERT = "paligemma_with_expert.gemma_expert."
TIED_EMBEDDING = (_PALIGEMMA + "lm_head.weight", _PALIGEMMA + "model.language_model.embed_tokens.weight")
"""Two names of one tensor; a file holds either or both."""
UNUSED = (_EXPERT + "lm_head.weight",)
"""In every openpi checkpoint, read by nothing (263 M parameters at the published size)."""
NORMALISERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Statistics that LeRobot kept among the weights before its version 0.4."""

RENAMES = (
    (
        r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.",
        "",
        "wrapped by torch.compile, DDP or FSDP",
    ),
    (r"^(model\.)+", "", ""),  # LeRobot's layout
    (r"(paligemma)\.language_model\.lm_head\.", r"\1.lm_head.", "names of transformers before 4.52"),
    (r"(paligemma)\.language_model\.(model\.)?", r"\1.model.language_model.", "names of transformers before 4.52"),
    (
        r"(paligemma)\.(vision_tower|multi_modal_projector)\.",
        r"\1.model.\2.",
        "names of transformers before 4.52",
    ),
    (r"(vision_tower)\.(?!vision_model\.)", r"\1.vision_model.", "SigLIP without its level vision_model"),
)
"""(pattern, what takes its place, who writes so) in the order in which they are applied to a file's keys."""

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


def expected(config: Pi0Config) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Every key that a checkpoint of this size must hold -> its shape, and its format at the config's dtype.

    Nothing is allocated.
    """
    with torch.device("meta"):
        model = Pi0(config)
    slots: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        parts = split_parameter(name, parameter, config)
        slots |= {key: (tuple(part.shape), part.dtype) for key, part in parts.items()}
    return slots


def expected_shapes(config: Pi0Config) -> dict[str, tuple[int, ...]]:
    """Every key that a checkpoint of this size must hold, and its shape."""
    return {key: shape for key, (shape, _) in expected(config).items()}


@dataclass(frozen=True)
class KeySet:
    """A file's tensors under openpi's names."""

    stored: Mapping[str, Stored]
    """Openpi's name -> where it is stored."""
    renamed: tuple[str, ...]
    """A line per kind of name that was understood, with an example."""


def openpi_keys(header: Mapping[str, Stored]) -> KeySet:
    """The tensors of a file under openpi's names, whichever of the known names it uses.

    Raises:
        FoveateError: two keys of the file are one tensor.
    """
    stored: dict[str, Stored] = {}
    applied: dict[str, list[str]] = defaultdict(list)
    for key, entry in header.items():
        name = key
        for pattern, place, reason in RENAMES:
            name, count = re.subn(pattern, place, name)
            if count and reason and applied[reason][-1:] != [key]:
                applied[reason].append(key)
        if name in stored:
            raise FoveateError(
                f"{entry.file}: {stored[name].key!r} and {key!r} are two keys of one tensor, and nothing tells which "
                "counts; save the checkpoint with one of them"
            )
        stored[name] = entry
    lines = [f"{reason}: {plural(len(keys), 'key')}, such as {keys[0]!r}" for reason, keys in applied.items() if keys]
    return KeySet(stored, tuple(lines))


def check_keys(path: Path, keys: KeySet, config: Pi0Config) -> dict[str, Stored]:
    """The entry of every key that a model of this size needs; nothing is allocated or read.

    Raises:
        FoveateError: keys are missing, unexpected, wrongly shaped or of a format that is not read; all are named.
    """
    expected, found = expected_shapes(config), dict(keys.stored)
    if TIED_EMBEDDING[0] not in found and TIED_EMBEDDING[1] in found:
        found[TIED_EMBEDDING[0]] = found[TIED_EMBEDDING[1]]
    missing = sorted(set(expected) - set(found))
    ignored = {TIED_EMBEDDING[1], *UNUSED}
    unexpected = sorted(k for k in set(found) - set(expected) - ignored if not k.startswith(NORMALISERS))
    if missing or unexpected:
        lines = [f"{path}: the keys do not fit the model"]
        lines += [f"  missing ({len(missing)}): {', '.join(missing)}"] if missing else []
        lines += [f"  unexpected ({len(unexpected)}): {', '.join(unexpected)}"] if unexpected else []
        lines.append(f"  {nearest(found)}")
        raise FoveateError("\n".join([*lines, "see what the file holds with `foveate inspect`"]))
    check_floats(path, {name: found[name] for name in expected})
    wrong = [
        f"  {name}: expected {shape}, got {found[name].shape}"
        for name, shape in expected.items()
        if found[name].shape != shape
    ]
    if wrong:
        raise FoveateError("\n".join([f"{path}: wrong shapes ({len(wrong)})", *wrong]))
    return {name: found[name] for name in expected}


def nearest(names: Iterable[str]) -> str:
    """Which of π0 and π0.5 a set of openpi's names is nearest to, and how it differs, in one sentence."""
    kinds = {_kind(name) for name in names if not name.startswith(NORMALISERS)}
    if hint := next((hint for word, hint in _OTHERS.items() if any(word in kind for kind in kinds)), None):
        return f"such keys are {hint}"
    tail = "action_in_proj.weight"
    before = next((kind.removesuffix(tail) for kind in kinds if kind.endswith("." + tail)), "")
    kinds = {kind.removeprefix(before) for kind in kinds}
    models = {label: {_kind(name) for name in _smallest(label == "π0.5")} for label in ("π0", "π0.5")}
    label, expected = max(models.items(), key=lambda item: len(item[1] & kinds) / len(item[1] | kinds))
    if before:
        return f"nearest: {label} with {before!r} before its keys; save them without it"
    common, missing = expected & kinds, sorted(expected - kinds)
    if not common:
        some = ", ".join(sorted(kinds)[:3]) or "none"
        return f"nearest: none; no key is one of π0 or π0.5 (those here: {some})"
    strange = sorted(kinds - expected - {_kind(name) for name in (*TIED_EMBEDDING, *UNUSED)})
    pairs = [(kind, difflib.get_close_matches(kind, strange, n=1, cutoff=0.8)) for kind in missing]
    like = [f"{close[0]} in place of {kind}" for kind, close in pairs if close]
    text = f"nearest: {label}, {len(common)} of whose {len(expected)} kinds of keys are there"
    return "; ".join([text, *like[:3]])


_OTHERS = {
    "lora_A": "adapters (LoRA) and not whole weights: merge them into the model that they adapt, and save that",
    "vlm_with_expert.": "SmolVLA's, which foveate does not load",
    "eagle": "GR00T's, which foveate does not load",
    "action_queries": "OpenVLA's or OFT's, which this family does not load",
    "vision_backbone.": "OpenVLA's, which this family does not load",
}
"""Part of a key -> whose keys these are."""


def _kind(name: str) -> str:
    """A key without the numbers of its layers."""
    return re.sub(r"\.\d+\.", ".N.", name)


def _smallest(pi05: bool) -> Iterable[str]:
    gemma = GemmaConfig(width=8, depth=1, mlp_dim=8, num_heads=1, num_kv_heads=1, head_dim=8)
    vision = VisionConfig(8, 1, 1, 8, patch_size=14, image_size=14, projection_dim=8)
    return expected_shapes(Pi0Config(pi05=pi05, vocab_size=8, llm=gemma, expert=gemma, vision=vision))


def load_weights(path: str | Path, config: Pi0Config, device: torch.device | str = "cpu") -> Pi0:
    """Build the model and read its weights, each parameter in its own dtype.

    Args:
        path: a `model.safetensors`, or the `model.safetensors.index.json` of its shards, with openpi's or LeRobot's
            key names or others of `RENAMES`.
    Raises:
        FoveateError: a file is absent or cut short; keys are missing, unexpected, wrongly shaped or twice there (all
            are listed by name); a tensor is no float, or holds NaN or infinity.
    """
    path = Path(path)
    keys = openpi_keys(read_header(path))
    stored = check_keys(path, keys, config)
    _check_tied(path, keys)
    with torch.device("meta"):
        model = Pi0(config)
    for name, parameter in list(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        for key, part in split_parameter(name, value, config).items():
            copy_finite(part, stored[key])
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=parameter.requires_grad))
    return model.eval()


def _check_tied(path: Path, keys: KeySet) -> None:
    """Raises FoveateError where a file has both names of the embedding, with different numbers."""
    pair = [keys.stored[name] for name in TIED_EMBEDDING if name in keys.stored]
    if len(pair) == 2 and (pair[0].dtype != pair[1].dtype or not torch.equal(*map(read_tensor, pair))):
        raise FoveateError(
            f"{path}: {pair[0].key!r} and {pair[1].key!r} are one tensor (the embedding is tied) and differ; save the "
            "checkpoint with one of them"
        )


def openpi_state_dict(
    model: Pi0, dtype: torch.dtype | None = None, parameters: Iterable[tuple[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """All parameters under openpi's names (the embedding under the name that openpi's files have).

    Args:
        parameters: name and value of each parameter of a `Pi0` of this size, where they are not the model's own.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters() if parameters is None else parameters:
        for key, part in split_parameter(name, parameter.detach(), model.config).items():
            state[key] = part.to(dtype=dtype or part.dtype, device="cpu").contiguous().clone()
    return state


def save_weights(
    model: Pi0,
    path: str | Path,
    dtype: torch.dtype | None = None,
    parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Write `model.safetensors` in openpi's layout; renamed into place when whole. Arguments as `openpi_state_dict`."""
    path = Path(path)
    with draft(path, "the weights") as begun:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(openpi_state_dict(model, dtype, parameters), begun, metadata={"format": "pt"})
