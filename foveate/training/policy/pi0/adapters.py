"""LoRA on π0 and π0.5: which layers have adapters, and what else trains beside them."""

from __future__ import annotations

import re
from typing import Literal

import torch

from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import split_parameter
from foveate.training.policy.lora import LoraConfig, adapt

ADAPTED = re.compile(r"(llm|expert)\.layers\.\d+\.(self_attn|mlp)\.\w+")
FROZEN = ("llm.", "expert.", "embed_tokens.")
"""Beginnings of the names of what stays as it is, adapters apart."""


def train_adapters(model: Pi0, config: LoraConfig, precision: Literal["float32", "bfloat16"]) -> None:
    """Freeze both Gemma stacks and the token embedding, and put trained adapters beside their attention and MLP.

    Args:
        precision: of the frozen matrices; what trains is float32.
    Raises:
        FoveateError: a target is no projection's name.
    """

    def projections(layer: str) -> dict[str, int]:
        if not ADAPTED.fullmatch(layer):
            return {}
        pieces = split_parameter(f"{layer}.weight", model.get_parameter(f"{layer}.weight"), model.config)
        return {name.removesuffix(".weight"): len(piece) for name, piece in pieces.items()}

    adapt(model, projections, config)
    for name, parameter in model.named_parameters():
        if not name.startswith(FROZEN):
            parameter.requires_grad_(True)
    if precision == "bfloat16":
        for name, parameter in model.named_parameters():
            # Norms stay float32, as in every bfloat16 model.
            if not parameter.requires_grad and parameter.ndim == 2 and ".dense." not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
