"""Arithmetic of one OpenVLA-OFT inference, counted from its sizes: 2 m n k for a product [m, k] x [k, n].

Counted are all matrix products and the patch convolutions. Not counted are norms, activations, rotary embeddings and
the pruner's scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from foveate.models.base import by_layer
from foveate.models.openvla_oft.config import OFTConfig, TowerConfig


def vision_flops(config: OFTConfig, views: int) -> float:
    """Both towers and the projector, over `views` images."""
    patches, seen = config.grid[0] * config.grid[1], config.dino.width + config.siglip.width
    towers = sum(_tower(tower, patches, config.patch_size) for tower in (config.dino, config.siglip))
    projector = 2 * patches * (4 * seen * seen + 4 * seen * config.llm.width + config.llm.width**2)
    return views * (towers + projector)


def _tower(t: TowerConfig, patches: int, patch_size: int) -> float:
    n = patches + t.registers
    embed = 2 * patches * 3 * patch_size**2 * t.width
    layer = 8 * n * t.width**2 + 4 * n * n * t.width + 4 * n * t.width * t.hidden
    return embed + (t.depth - 1) * layer


def prefill_flops(config: OFTConfig, tokens: int | Sequence[int]) -> float:
    """The backbone over a sequence of `tokens` tokens (after pruning and packing), or of so many in each layer."""
    g = config.llm

    def layer(n: int) -> float:
        projections = 4 * n * g.width * g.head_dim * (g.num_heads + g.num_kv_heads)
        return projections + 4 * n * n * g.num_heads * g.head_dim + 6 * n * g.width * g.mlp_dim

    return sum(map(layer, by_layer(tokens, g.depth)))


def head_flops(config: OFTConfig) -> float:
    """The action head over one chunk."""
    width = config.llm.width
    step = config.action_dim * width * width + 2 * width * width + width * config.action_dim
    return 2 * config.action_horizon * step


def gflops(config: OFTConfig, *, views: int, tokens: int | Sequence[int]) -> dict[str, float]:
    """GFLOP of one inference by stage, and their `total`; `denoise` is the action head."""
    stages = {
        "vision": vision_flops(config, views) / 1e9,
        "prefill": prefill_flops(config, tokens) / 1e9,
        "denoise": head_flops(config) / 1e9,
    }
    return {**stages, "total": sum(stages.values())}
