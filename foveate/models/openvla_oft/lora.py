"""LoRA adapters on disk as peft keeps them, and into the weights that they adapt, to the bit as peft merges them.

A merge in another order or precision gives another policy; public reports of 0 % success come from that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import read_header, read_tensor
from foveate.util.checks import number, whole
from foveate.util.files import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before a module's name."""
MAX_RANK = 2**16


def merge_lora(base: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """base + scale * B A, in the base's dtype throughout, with one rounding after each operation.

    Args:
        base: [O, I], or a convolution's [O, C, h, w].
        lora_a, lora_b: [R, I] and [O, R]; of a convolution [R, C, h, w] and [O, R, 1, 1].
        scale: `lora_alpha / r` of the adapter's config.
    Raises:
        FoveateError: the adapter is of another rank or target.
    """
    rank = lora_a.shape[0]
    fits = lora_b.shape[:2] == (base.shape[0], rank) and lora_a.shape[1:] == base.shape[1:]
    if not fits:
        raise FoveateError(
            f"adapter of shapes A {tuple(lora_a.shape)}, B {tuple(lora_b.shape)} does not fit weights "
            f"{tuple(base.shape)}: expected A [R, {', '.join(map(str, base.shape[1:]))}], B [{base.shape[0]}, R]"
        )
    a, b = lora_a.to(base.dtype).flatten(1), lora_b.to(base.dtype).flatten(1)
    with torch.no_grad():
        return base + (b @ a).view(base.shape) * scale


def save_adapter(
    folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], *, alpha: float, dropout: float, base: str
) -> None:
    """Write an adapter's folder, float32.

    Args:
        pairs: module -> its A and B, all of one rank.
        base: what the adapter was trained on, for those who merge it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{PREFIX}{module}.{part}.weight": value.detach().float().cpu().contiguous()
        for module, pair in pairs.items()
        for part, value in zip(("lora_A", "lora_B"), pair, strict=True)
    }
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": len(next(iter(pairs.values()))[0]),
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(pairs),
        "init_lora_weights": "gaussian",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


class Adapter:
    """A LoRA adapter's folder as peft saves it: `adapter_config.json` and `adapter_model.safetensors`."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FoveateError: no such files, or an adapter of another kind.
        """
        file = folder / CONFIG
        config = read_json(file)
        if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
            raise FoveateError(f"{folder}: expected a plain LoRA adapter, got {config.get('peft_type')!r}")
        for pattern in ("rank_pattern", "alpha_pattern"):
            if config.get(pattern):
                raise FoveateError(
                    f"{file}: {pattern} gives some modules a scale of their own; expected one for all: merge this "
                    "adapter with peft, and name the merged checkpoint"
                )
        self.folder, self.rank = folder, whole(f"{file}: r", config.get("r"), 1, MAX_RANK)
        self.scale = number(f"{file}: lora_alpha", config.get("lora_alpha")) / self.rank
        self._stored = {key.removeprefix(PREFIX): entry for key, entry in read_header(folder / WEIGHTS).items()}
        ends = (".lora_A.weight", ".lora_B.weight", ".base_layer.weight")
        if strange := sorted(key for key in self._stored if not key.endswith(ends)):
            raise FoveateError(f"{folder}: {strange[0]!r} is no part of a LoRA adapter")
        self.targets = {key.removesuffix(ends[0]) for key in self._stored if key.endswith(ends[0])}

    def merged(self, module: str, base: Tensor) -> Tensor:
        """The weight of a module, adapted where the adapter has it as a target."""
        if module not in self.targets:
            return base
        parts = [self._stored.get(f"{module}.{part}.weight") for part in ("lora_A", "lora_B")]
        if None in parts:
            raise FoveateError(f"{self.folder}: {module!r} has one of lora_A and lora_B alone")
        lora_a, lora_b = (read_tensor(entry) for entry in parts if entry is not None)
        if lora_a.shape[0] != self.rank:
            raise FoveateError(
                f"{self.folder}: {module}: lora_A has rank {lora_a.shape[0]}, adapter_config.json says r {self.rank}; "
                "config and weights are of two adapters"
            )
        try:
            return merge_lora(base, lora_a, lora_b, self.scale)
        except FoveateError as error:
            raise FoveateError(f"{self.folder}: {module}: {error}") from None
