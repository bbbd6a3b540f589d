"""The network: patches, words and one placeholder per action, in a stack without any causal mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.models.base import NOTHING_AFTER, LayerPruner, ModelInputs, ModelSpec, PrefixCache, by_layer
from foveate.models.common.layers import GatedMLP, RMSNorm, RotaryAttention, Run, as_written, rope_table
from foveate.types import Phase, Prefix, Span, TokenLayout

WIDTH, HEADS, PATCH, WORDS = 32, 2, 7, 256


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_norm, self.output_norm = RMSNorm(WIDTH), RMSNorm(WIDTH)
        self.self_attn, self.mlp = RotaryAttention(WIDTH, HEADS, 1, WIDTH // HEADS), GatedMLP(WIDTH, 64)

    def queries_keys(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        return self.self_attn.queries_keys(self.input_norm(x), rope)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> tuple[Tensor, Any]:
        out, own = self.self_attn(self.input_norm(x), rope, mask)
        x = x + out
        return x + self.mlp(self.output_norm(x)), own


class ToyOFT(nn.Module):
    def __init__(self, views: Sequence[str], horizon: int = 8, action_dim: int = 4, depth: int = 3) -> None:
        super().__init__()
        side = 28 // PATCH
        self.spec = ModelSpec(
            views=tuple(views),
            grids=((side, side),) * len(views),
            image_size=28,
            action_horizon=horizon,
            action_dim=action_dim,
            state_dim=action_dim,
            noise_shape=None,
            depth=depth,
            heads=HEADS,
            num_steps=None,
        )
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.placeholders = nn.Parameter(torch.randn(horizon, WIDTH))
        self.state = nn.Linear(action_dim, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, action_dim)

    def embed_prefix(self, inputs: ModelInputs, *, run: Run = as_written) -> Prefix:
        batch, views = inputs.image_masks.shape
        patches = self.patches(inputs.images.flatten(0, 1)).flatten(2).transpose(1, 2)
        count = patches.shape[1]
        pictures = patches.reshape(batch, views * count, WIDTH)
        text = self.words(inputs.tokens)
        text = text + self.state(inputs.state)[:, None]
        actions = self.placeholders.expand(batch, -1, -1)
        always = inputs.token_masks.new_ones(batch, actions.shape[1])
        mask = torch.cat((inputs.image_masks.repeat_interleave(count, 1), inputs.token_masks, always), 1)
        embeds = torch.cat((pictures, text, actions), 1)
        return Prefix(embeds, mask, (mask.cumsum(1) - 1).clamp_min(0), self._layout(count, text.shape[1]))

    def _layout(self, patches: int, words: int) -> TokenLayout:
        start, spans = 0, []
        for view, grid in zip(self.spec.views, self.spec.grids, strict=True):
            spans.append(Span(view, "image", start, start := start + patches, grid))
        spans.append(Span("text", "text", start, start := start + words))
        return TokenLayout((*spans, Span("action", "action", start, start + self.spec.action_horizon)))

    def extra_queries(self, inputs: ModelInputs, noise: Tensor | None, wanted: str) -> Tensor | None:
        return self.state(inputs.state)[:, None] if "state" in wanted else None

    def prefill(
        self, prefix: Prefix, *, after: Mapping[int, LayerPruner] = NOTHING_AFTER, run: Run = as_written
    ) -> PrefixCache:
        x, tokens, keys_values = prefix.embeds, prefix, []
        masks, runs = [None if prefix.full else prefix.mask], []
        for number in range(len(self.layers)):
            rope = rope_table(tokens.position_ids, WIDTH // HEADS, x.dtype)
            mask = masks[-1]
            x, own = run(self.backbone, x, rope, None if mask is None else mask[:, None, None], number, number + 1)
            keys_values += own
            runs.append(len(masks) - 1)
            if number in after:
                tokens = after[number](dataclasses.replace(tokens, embeds=x))
                x = tokens.embeds
                masks.append(None if tokens.full else tokens.mask)
        next_position = prefix.position_ids.amax(1) + 1
        return PrefixCache(keys_values, masks, runs, next_position, tokens, self.norm(x))

    def backbone(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, start: int, stop: int
    ) -> tuple[Tensor, list[Any]]:
        made = []
        for layer in self.layers[start:stop]:
            x, own = layer(x, rope, mask)
            made.append(own)
        return x, made

    def decode(
        self,
        cache: PrefixCache,
        inputs: ModelInputs,
        noise: Tensor | None,
        steps: int | None,
        *,
        run: Run = as_written,
    ) -> Tensor:
        if noise is not None or steps is not None:
            raise FoveateError("this family decodes in one pass, without noise or steps")
        hidden, prefix = cache.last_hidden, cache.prefix
        assert hidden is not None
        start = len(prefix.layout) - self.spec.action_horizon
        token = torch.arange(hidden.shape[1]).expand(len(hidden), -1) if prefix.source is None else prefix.source
        # Every row holds each placeholder once, in order, whatever else was dropped.
        return self.head(hidden[token >= start].view(len(hidden), self.spec.action_horizon, WIDTH))

    tower = None
    """Patches come out of a convolution."""

    @property
    def final_norm(self) -> nn.Module:
        return self.norm

    def attention_stacks(self) -> Mapping[Phase, Sequence[nn.Module]]:
        return {"prefix": self.layers, "suffix": self.layers}

    def flops(self, views: int, tokens: int | Sequence[int], steps: int | None) -> dict[str, float]:
        stages = {"vision": views * 1e-6, "prefill": sum(by_layer(tokens, len(self.layers))) * 1e-6, "denoise": 1e-6}
        return {**stages, "total": sum(stages.values())}
