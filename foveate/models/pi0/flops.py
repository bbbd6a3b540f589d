"""Arithmetic of one π0 / π0.5 inference, counted from its sizes: 2 m n k for a product [m, k] x [k, n].

Counted are all matrix products and the patch convolution, as foveate's own model computes them (of the
backbone's last layer only keys and values). Not counted are norms, activations, rotary embeddings and the
pruner's scores, together below one percent at the published sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from foveate.models.base import by_layer
from foveate.models.pi0.config import GemmaConfig, Pi0Config


def vision_flops(config: Pi0Config, views: int, coarse: int = 0) -> float:
    """The SigLIP tower and the projector, over `views` images, and over `coarse` further ones of half the side."""
    patches = config.vision.grid[0] * config.vision.grid[1]
    return views * _tower(config, patches) + coarse * _tower(config, patches // 4)


def _tower(config: Pi0Config, n: int) -> float:
    """Tower and projector over one image of `n` patches."""
    v = config.vision
    h = v.hidden_size
    embed = 2 * n * 3 * v.patch_size**2 * h
    layer = 8 * n * h * h + 4 * n * n * h + 4 * n * h * v.intermediate_size
    return embed + v.num_hidden_layers * layer + 2 * n * h * v.projection_dim


def prefill_flops(config: Pi0Config, tokens: int | Sequence[int]) -> float:
    """The backbone over a prefix of `tokens` tokens (after pruning and packing), or of so many in each layer."""
    g = config.llm
    *layers, last = by_layer(tokens, g.depth)
    keys_values = 4 * last * g.width * g.num_kv_heads * g.head_dim
    return sum(_layer(g, n, n) for n in layers) + keys_values


def denoise_flops(config: Pi0Config, tokens: int | Sequence[int], num_steps: int) -> float:
    """All Euler steps of the action expert against `tokens` cached prefix tokens, or so many of each layer."""
    g, horizon, width = config.expert, config.action_horizon, config.expert.width
    seen = [n for n in by_layer(tokens, g.depth) if n]  # a layer that did not run has no expert's layer either
    own = horizon if config.pi05 else 1 + horizon
    step = 4 * horizon * config.action_dim * width + sum(_layer(g, horizon, n + own) for n in seen)
    if config.pi05:  # the condition of the adaptive norms: two layers of the time MLP, one map per norm
        return num_steps * (step + 4 * width * width + (2 * g.depth + 1) * 6 * width * width)
    # π0's state token goes through the expert once and stays in the cache.
    state = 2 * config.action_dim * width + sum(_layer(g, 1, n + 1) for n in seen)
    return state + num_steps * (step + 6 * horizon * width * width)


def gflops(
    config: Pi0Config, *, views: int, tokens: int | Sequence[int], num_steps: int, coarse: int = 0
) -> dict[str, float]:
    """GFLOP of one inference by stage, and their `total`.

    Args:
        views: images that are really there.
        tokens: prefix tokens that the backbone saw, `post_seq_len` in a trace; or those of each layer.
        coarse: further images that are looked at at half the side.
    """
    stages = {
        "vision": vision_flops(config, views, coarse) / 1e9,
        "prefill": prefill_flops(config, tokens) / 1e9,
        "denoise": denoise_flops(config, tokens, num_steps) / 1e9,
    }
    return {**stages, "total": sum(stages.values())}


def _layer(g: GemmaConfig, rows: int, keys: int) -> float:
    """One Gemma layer over `rows` tokens that attend to `keys` tokens."""
    projections = 4 * rows * g.width * g.head_dim * (g.num_heads + g.num_kv_heads)
    attention = 4 * rows * keys * g.num_heads * g.head_dim
    return projections + attention + 6 * rows * g.width * g.mlp_dim
