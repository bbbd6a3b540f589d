"""OpenVLA-OFT (Kim et al. 2025): actions regressed in parallel, in one pass over pictures, text and placeholders.

    sequence = BOS | patches of each view | state | prompt | one placeholder per number of the chunk | stop

Every token sees every real one, placeholders included: the causal mask of the Llama it was made of is gone, and a stock
Llama in its place acts at random. The placeholders' embeddings are zero; only their positions differ. `prefill` holds
the whole sequence, `decode` is the head.

Known here: tensors and the layout of tokens. Not known: files, normalisation, pruning methods, clocks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.models.base import (
    NOTHING_AFTER,
    LayerPruner,
    ModelInputs,
    Passage,
    PrefixCache,
    TowerLayer,
    embed_views,
    passed,
    span_counts,
)
from foveate.models.common.layers import (
    GatedMLP,
    RMSNorm,
    RotaryAttention,
    Run,
    ViTLayer,
    as_written,
    rope_table,
)
from foveate.models.openvla_oft.config import LlamaConfig, OFTConfig, TowerConfig
from foveate.models.openvla_oft.flops import gflops
from foveate.types import Phase, Prefix, Span, TokenLayout

STOP = 2
"""Token at the end of the sequence."""
BEHIND = 1
"""Tokens behind the placeholders: the stop token."""


class Tower(nn.Module):
    """A timm vision transformer up to the block before its last: patches alone, without a final norm."""

    def __init__(self, config: TowerConfig, image_size: int, patch_size: int) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, config.width, patch_size, patch_size)
        self.position_embedding = nn.Parameter(torch.randn(patches, config.width) * 0.02)
        self.registers = nn.Parameter(torch.randn(config.registers, config.width) * 0.02) if config.registers else None
        self.layers = nn.ModuleList(
            ViTLayer(config.width, config.num_heads, config.hidden, activation=F.gelu, layer_scale=config.layer_scale)
            for _ in range(config.depth - 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] -> [B, P, D], patches row by row."""
        x: Tensor = self.patch_embedding(images).flatten(2).transpose(1, 2) + self.position_embedding
        if self.registers is not None:
            x = torch.cat((self.registers.expand(len(x), -1, -1), x), 1)
        for layer in self.layers:
            x = layer(x)
        return x if self.registers is None else x[:, len(self.registers) :]


class LlamaLayer(nn.Module):
    """One layer of the backbone; who may look at whom is the caller's mask."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.rms_norm_eps, base=0.0)
        self.self_attn = RotaryAttention(config.width, config.num_heads, config.num_kv_heads, config.head_dim)
        self.post_attention_layernorm = RMSNorm(config.width, config.rms_norm_eps, base=0.0)
        self.mlp = GatedMLP(config.width, config.mlp_dim, F.silu)

    def queries_keys(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What some of the tokens that enter the layer ask and answer with; see `RotaryAttention.queries_keys`."""
        return self.self_attn.queries_keys(self.input_layernorm(x), rope)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, N, D] -> (x, own keys and values)."""
        out, own = self.self_attn(self.input_layernorm(x), rope, mask)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), own


class Llama(nn.Module):
    """Layers and the final norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.rms_norm_eps, base=0.0)


class Residual(nn.Module):
    """x + relu(linear(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.linear(self.norm(x)))


class ActionHead(nn.Module):
    """L1 regression: the hidden states of one step's placeholders, side by side, give its action."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.norm_in, self.linear_in = nn.LayerNorm(width * action_dim), nn.Linear(width * action_dim, width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(2))
        self.norm_out, self.linear_out = nn.LayerNorm(width), nn.Linear(width, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, H, A * D] -> [B, H, A]."""
        x = F.relu(self.linear_in(self.norm_in(hidden)))
        for block in self.blocks:
            x = block(x)
        actions: Tensor = self.linear_out(self.norm_out(x))
        return actions


class OpenVLAOFT(nn.Module):
    """An `ActionModel`; the parameters are in the dtype of its config throughout."""

    dino_mean: Tensor
    dino_std: Tensor

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        width, seen = config.llm.width, config.dino.width + config.siglip.width
        self.dino = Tower(config.dino, config.image_size, config.patch_size)
        self.siglip = Tower(config.siglip, config.image_size, config.patch_size)
        self.projector = nn.Sequential(
            nn.Linear(seen, 4 * seen), nn.GELU(), nn.Linear(4 * seen, width), nn.GELU(), nn.Linear(width, width)
        )
        self.proprio = nn.Sequential(nn.Linear(config.state_dim, width), nn.GELU(), nn.Linear(width, width))
        self.embed_tokens = nn.Embedding(config.llm.vocab_size, width)
        self.llm = Llama(config.llm)
        self.head = ActionHead(width, config.action_dim)
        self.register_buffer("dino_mean", torch.tensor(config.dino_mean)[:, None, None], persistent=False)
        self.register_buffer("dino_std", torch.tensor(config.dino_std)[:, None, None], persistent=False)
        if config.dtype == "bfloat16":
            self.bfloat16()

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    # ---- the sequence -------------------------------------------------------------------------------

    def layout(self, text_len: int) -> TokenLayout:
        """`text_len` counts the prompt's tokens without BOS."""
        (rows, cols), stop = self.config.grid, 0
        spans = [Span("bos", "text", 0, stop := 1)]
        for view in self.config.views:
            spans.append(Span(view, "image", stop, stop := stop + rows * cols, (rows, cols)))
        spans.append(Span("state", "state", stop, stop := stop + 1))
        spans.append(Span("text", "text", stop, stop := stop + text_len))
        spans.append(Span("action", "action", stop, stop := stop + self.config.placeholders))
        return TokenLayout((*spans, Span("stop", "text", stop, stop + BEHIND)))

    def embed_images(self, images: Tensor) -> Tensor:
        """images [n, 3, H, W] in [-1, 1] -> [n, P, D]."""
        # SigLIP's input has mean and deviation 0.5, which is [-1, 1].
        for_dino = ((images + 1) / 2 - self.dino_mean.float()) / self.dino_std.float()
        fused = torch.cat((self.dino(for_dino.to(self.dtype)), self.siglip(images.to(self.dtype))), -1)
        embeds: Tensor = self.projector(fused)
        return embeds

    def embed_prefix(self, inputs: ModelInputs, *, run: Run = as_written) -> Prefix:
        """The whole sequence, unpacked. Shorter prompts of a batch are padded between BOS and their first word, so that
        what the head reads stands behind the prompt in every row."""
        batch, text_len = len(inputs.tokens), inputs.tokens.shape[1] - 1
        pictures = embed_views(inputs, functools.partial(run, self.embed_images))
        words, state = self.embed_tokens(inputs.tokens), self.proprio(inputs.state.to(self.dtype))[:, None]
        empty = words.new_zeros(batch, self.config.placeholders, words.shape[-1])
        stop = self.embed_tokens(inputs.tokens.new_full((batch, BEHIND), STOP))
        embeds = torch.cat((words[:, :1], pictures, state, words[:, 1:], empty, stop), 1)
        patches = pictures.shape[1] // len(self.config.views)
        always = inputs.token_masks.new_ones(batch, 1)
        mask = torch.cat(
            (
                always,
                inputs.image_masks.repeat_interleave(patches, 1),
                always,
                inputs.token_masks[:, 1:],
                always.expand(-1, self.config.placeholders + BEHIND),
            ),
            1,
        )
        layout, (present, words_there) = self.layout(text_len), inputs.on_host()
        at_most = span_counts(layout, present, words_there[:, 1:])
        return Prefix(embeds, mask, (mask.cumsum(1) - 1).clamp_min(0), layout, at_most=at_most)

    # ---- as an ActionModel --------------------------------------------------------------------------

    def extra_queries(self, inputs: ModelInputs, noise: Tensor | None, wanted: str) -> Tensor | None:
        """State and actions stand in the sequence: a pruner finds them there."""
        return None

    def prefill(
        self, prefix: Prefix, *, after: Mapping[int, LayerPruner] = NOTHING_AFTER, run: Run = as_written
    ) -> PrefixCache:
        depth = len(self.llm.layers)
        if beyond := [layer for layer in after if not 0 <= layer < depth - 1]:
            raise FoveateError(f"pruning after backbone layer {beyond[0]}: choose one of 0 to {depth - 2}")
        x, tokens = prefix.embeds, prefix
        mask, rope = self._places(tokens)
        keys_values: list[tuple[Tensor, Tensor]] = []
        masks, runs = [mask], []
        edges = [0, *(layer + 1 for layer in sorted(after)), depth]
        for start, stop in itertools.pairwise(edges):
            x, own = run(self.backbone, x, rope, None if mask is None else mask[:, None, None], start, stop)
            keys_values += own
            runs += [len(masks) - 1] * (stop - start)
            if stop < depth:
                tokens = after[stop - 1](dataclasses.replace(tokens, embeds=x))
                x = tokens.embeds
                mask, rope = self._places(tokens)
                masks.append(mask)
        next_position = prefix.position_ids.masked_fill(~prefix.mask, -1).amax(1) + 1
        return PrefixCache(keys_values, masks, runs, next_position, tokens, x)

    def backbone(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, start: int, stop: int
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Some of the backbone's layers, behind the last one the final norm: x [B, N, D] -> (x, keys and values)."""
        keys_values = []
        for number in range(start, stop):
            x, own = self.llm.layers[number](x, rope, mask)
            keys_values.append(own)
        return self.llm.norm(x) if stop == len(self.llm.layers) else x, keys_values

    def _places(self, prefix: Prefix) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
        """The mask of a prefix (None where no slot is padding) and its rotary table."""
        llm = self.config.llm
        rope = rope_table(prefix.position_ids, llm.head_dim, self.dtype, llm.rope_theta)
        return None if prefix.full else prefix.mask, rope

    def action_hidden(self, cache: PrefixCache) -> Tensor:
        """The hidden states that the head reads, [B, H * A, D]; see `ActionRows`."""
        assert cache.last_hidden is not None
        mask = cache.prefix.mask
        rank, count = mask.cumsum(1) - 1, self.config.placeholders
        first = mask.sum(1, keepdim=True) - BEHIND - count  # the first placeholder, among a row's real tokens
        first = first + (-1 if self.config.action_rows == "trained" else 1)
        wanted = mask & (rank >= first) & (rank < first + count)
        # As many in every row: a stable sort finds them without asking the device how many there are.
        slots = torch.argsort(~wanted, dim=1, stable=True)[:, :count, None]
        return cache.last_hidden.gather(1, slots.expand(-1, -1, cache.last_hidden.shape[-1]))

    def decode(
        self,
        cache: PrefixCache,
        inputs: ModelInputs,
        noise: Tensor | None,
        steps: int | None = None,
        *,
        run: Run = as_written,
    ) -> Tensor:
        """Actions float32 [B, H, A], normalised: the head alone."""
        if noise is not None or steps is not None:
            raise FoveateError("OpenVLA-OFT decodes in one pass: it takes neither noise nor a number of steps")
        hidden = self.action_hidden(cache)
        actions: Tensor = run(self.head, hidden.reshape(len(hidden), self.config.action_horizon, -1)).float()
        return actions

    def forward(self, inputs: ModelInputs, actions: Tensor, passage: Passage | None = None) -> Tensor:
        """L1 loss, element by element: |predicted - actions|, float32 [B, H, A].

        Args:
            actions: float32 [B, H, A], normalised.
            passage: what drops tokens of the sequence.
        """
        return (self.decode(passed(self, inputs, passage), inputs, None) - actions).abs()

    def attention_stacks(self) -> Mapping[Phase, Sequence[nn.Module]]:
        layers: Sequence[nn.Module] = self.llm.layers  # type: ignore[assignment]  # a ModuleList is one in practice
        return {"prefix": layers, "suffix": layers}

    @property
    def final_norm(self) -> nn.Module:
        return self.llm.norm

    @property
    def tower(self) -> TowerLayer:
        """DINOv2's, which has a class token; of a tower without one SigLIP's."""
        leading = self.config.dino.registers
        if leading:
            return TowerLayer(self.dino.layers[-1], leading, class_token=True)
        return TowerLayer(self.siglip.layers[-1])

    def flops(self, views: int, tokens: int | Sequence[int], steps: int | None = None) -> dict[str, float]:
        return gflops(self.config, views=views, tokens=tokens)
