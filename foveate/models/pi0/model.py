"""π0 (Black et al. 2024) and π0.5 (2025): flow matching on action chunks, conditioned on a vision-language prefix.

The prefix (image and text tokens, all seeing one another) is prefilled once into keys and values. The suffix
(for π0 the state, then the noisy actions) reads them in every Euler step, through an expert of its own
width. Images reach the backbone unscaled, text scaled by sqrt(width), as in openpi.

Known here: tensors and the layout of tokens. Not known: files, normalisation, pruning methods, clocks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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
    pack,
    passed,
    span_counts,
)
from foveate.models.common.layers import (
    AdaRMSNorm,
    GatedMLP,
    RMSNorm,
    RotaryAttention,
    Run,
    SiglipTower,
    any_length,
    as_written,
    loop,
    rope_table,
)
from foveate.models.common.looks import embed_looks
from foveate.models.common.real_time import GivenActions, PreviousChunk, guided
from foveate.models.pi0.config import GemmaConfig, Pi0Config
from foveate.models.pi0.flops import gflops
from foveate.types import Phase, Prefix, Span, TokenLayout

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0
"""Of the sinusoidal time embedding; time runs over [0, 1]."""


class GemmaLayer(nn.Module):
    """One layer of the backbone (plain norms) or of the expert (adaptive norms in π0.5)."""

    def __init__(self, config: GemmaConfig, adaptive: bool) -> None:
        super().__init__()

        def norm() -> Any:
            return AdaRMSNorm(config.width, config.width) if adaptive else RMSNorm(config.width)

        self.input_layernorm = norm()
        self.self_attn = RotaryAttention(config.width, config.num_heads, config.num_kv_heads, config.head_dim)
        self.post_attention_layernorm = norm()
        self.mlp = GatedMLP(config.width, config.mlp_dim)

    def queries_keys(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        modulation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What some of the tokens that enter the layer ask and answer with; see `RotaryAttention.queries_keys`."""
        normed = self.input_layernorm(x) if modulation is None else self.input_layernorm(x, modulation[0])[0]
        return self.self_attn.queries_keys(normed, rope)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Of a layer whose output is not used: its keys (after RoPE) and values alone, without modulation."""
        return self.self_attn.keys_values(self.input_layernorm(x), rope)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None = None,
        modulation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, D] -> (x, own keys and values). `modulation`: one [B, 1, 3D] for each of the two norms."""
        if modulation is None:
            out, own = self.self_attn(self.input_layernorm(x), rope, mask, past)
            x = x + out
            return x + self.mlp(self.post_attention_layernorm(x)), own
        normed, gate = self.input_layernorm(x, modulation[0])
        out, own = self.self_attn(normed, rope, mask, past)
        x = torch.addcmul(x, out, gate)
        normed, gate = self.post_attention_layernorm(x, modulation[1])
        return torch.addcmul(x, self.mlp(normed), gate), own


class GemmaStack(nn.Module):
    """Layers and the final norm."""

    def __init__(self, config: GemmaConfig, adaptive: bool) -> None:
        super().__init__()
        layers = nn.ModuleList(GemmaLayer(config, adaptive) for _ in range(config.depth))
        self.layers: Sequence[GemmaLayer] = layers  # type: ignore[assignment]  # a ModuleList hides its items' type
        self.norm = AdaRMSNorm(config.width, config.width) if adaptive else RMSNorm(config.width)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.layers[0].mlp.down_proj.parameters()).dtype


class Pi0(nn.Module):
    """π0 or π0.5, as its config says; an `ActionModel`."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        v, width = config.vision, config.expert.width
        self.vision = SiglipTower(
            v.hidden_size, v.num_hidden_layers, v.num_attention_heads, v.intermediate_size, v.patch_size, v.image_size
        )
        self.projector = nn.Linear(v.hidden_size, v.projection_dim)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.llm.width)
        nn.init.normal_(self.embed_tokens.weight, std=config.llm.width**-0.5)
        self.llm = GemmaStack(config.llm, adaptive=False)
        self.expert = GemmaStack(config.expert, adaptive=config.pi05)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        if config.pi05:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(config.action_dim, width)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)
        if config.query_projection:
            self.query_proj = nn.Linear(width, config.llm.width, bias=False)
        self.spec = config.spec
        if config.dtype == "bfloat16":
            self.to_bfloat16()

    def to_bfloat16(self) -> None:
        """Round the matrices; patch embedding, Gemma norms, time, state and action layers stay float32."""
        self.projector.bfloat16()
        self.embed_tokens.bfloat16()
        self.vision.layers.bfloat16()
        self.vision.post_layernorm.bfloat16()
        for stack in (self.llm, self.expert):
            for layer in stack.layers:
                layer.self_attn.bfloat16()
                layer.mlp.bfloat16()

    # ---- prefix -------------------------------------------------------------------------------------

    def layout(self, text_len: int) -> TokenLayout:
        """One image span per view, then the text."""
        rows, cols = self.config.vision.grid
        n = rows * cols
        spans = [Span(view, "image", i * n, (i + 1) * n, (rows, cols)) for i, view in enumerate(self.config.views)]
        start = n * len(spans)
        return TokenLayout((*spans, Span("text", "text", start, start + text_len)))

    def embed_images(self, images: Tensor) -> Tensor:
        """images [n, 3, H, W] -> [n, P, D]."""
        embeds: Tensor = self.projector(self.vision(images))
        return embeds

    def embed_coarse(self, images: Tensor) -> Tensor:
        """images [n, 3, H, W] -> [n, P / 4, D]: the same at half the side."""
        return self.embed_images(F.avg_pool2d(images, 2))

    def embed_prefix(self, inputs: ModelInputs, *, run: Run = as_written) -> Prefix:
        """Tokens of all views and of the text, unpacked; masked tokens take part in no attention.

        Positions are counted over all patches of the cameras that are there, however closely each is looked at: text
        and actions stand where they always do.
        """
        V = len(self.config.views)
        if inputs.images.shape[1] != V:
            raise FoveateError(f"images: expected {V} views {self.config.views}, got {inputs.images.shape[1]}")
        full, looks = functools.partial(run, self.embed_images), inputs.looks
        there: np.ndarray | None = None
        if looks is None or looks.full:
            image_embeds = embed_views(inputs, full)
        else:
            coarse, present = functools.partial(run, self.embed_coarse), inputs.on_host()[0].numpy()
            grid, like = self.config.vision.grid, self.projector.weight
            image_embeds, there = embed_looks(inputs.images, present, looks, grid, full, coarse, like)
        text = self.embed_tokens(inputs.tokens) * math.sqrt(self.config.llm.width)
        patches = image_embeds.shape[1] // V
        mask = torch.cat((inputs.image_masks.repeat_interleave(patches, 1), inputs.token_masks), 1)
        position_ids = mask.cumsum(1) - 1
        if there is not None:
            mask = torch.cat((torch.from_numpy(there).to(mask.device), inputs.token_masks), 1)
        layout = self.layout(inputs.tokens.shape[1])
        seen = None if there is None else there.reshape(len(there), V, patches).sum(-1)
        return Prefix(
            embeds=torch.cat((image_embeds, text.to(image_embeds.dtype)), 1),
            mask=mask,
            position_ids=position_ids,
            layout=layout,
            at_most=span_counts(layout, *inputs.on_host(), seen),
        )

    def extra_queries(self, inputs: ModelInputs, noise: Tensor | None, wanted: str) -> Tensor | None:
        """What a pruner looks at beside the text: the state (π0; π0.5 has it in its text), the noisy actions.

        Args:
            noise: float32 [B, H, A], the noisy actions.
        """
        parts = []
        if "state" in wanted.split("+") and not self.config.pi05:
            parts.append(self.state_proj(inputs.state)[:, None])
        if "action" in wanted.split("+") and noise is not None:
            parts.append(self.action_in_proj(noise))
        if not parts:
            return None
        queries = torch.cat(parts, 1)
        if self.config.query_projection:
            queries = self.query_proj(queries)
        elif queries.shape[-1] != self.config.llm.width:
            raise FoveateError(
                f"pruner queries {wanted!r}: the expert's width {queries.shape[-1]} differs from the backbone's "
                f"{self.config.llm.width}; set `query_projection: true` in the model config and fine-tune"
            )
        return queries

    def prefill(
        self,
        prefix: Prefix,
        *,
        after: Mapping[int, LayerPruner] = NOTHING_AFTER,
        run: Run = as_written,
        return_hidden: bool = False,
    ) -> PrefixCache:
        """Run the backbone. Of its last layer only keys and values are needed, so only they are computed.

        Args:
            after: layer -> what may drop tokens behind it; not behind the last one, whose output is not used.
            return_hidden: finish the last layer and the final norm too.
        """
        depth = len(self.llm.layers)
        if beyond := [layer for layer in after if not 0 <= layer < depth - 1]:
            raise FoveateError(f"pruning after backbone layer {beyond[0]}: choose one of 0 to {depth - 2}")
        x, tokens = prefix.embeds.to(self.llm.dtype), prefix
        mask, rope = self._places(tokens, x.dtype)
        keys_values: list[tuple[Tensor, Tensor]] = []
        masks, runs = [mask], []
        edges = [0, *(layer + 1 for layer in sorted(after)), depth]
        for start, stop in itertools.pairwise(edges):
            x, own = run(self.backbone, x, rope, _keys(mask), start, stop, return_hidden)
            keys_values += own
            runs += [len(masks) - 1] * (stop - start)
            if stop < depth:
                tokens = after[stop - 1](dataclasses.replace(tokens, embeds=x))
                x = tokens.embeds
                mask, rope = self._places(tokens, x.dtype)
                masks.append(mask)
        # Of the prefix as it came: what was dropped on the way keeps its place before the suffix.
        next_position = prefix.position_ids.masked_fill(~prefix.mask, -1).amax(1) + 1
        hidden = x if return_hidden else None
        return PrefixCache(keys_values, masks, runs, next_position, tokens, hidden)

    def backbone(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        start: int,
        stop: int,
        finish: bool = False,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Some of the backbone's layers: x [B, N, D] -> (x, keys and values of each layer).

        Args:
            finish: compute the output of the last layer of all, and its norm, too.
        """
        keys_values = []
        for number in range(start, stop):
            layer = self.llm.layers[number]
            if number < len(self.llm.layers) - 1:
                x, own = layer(x, rope, mask)
            elif finish or layer.self_attn.observer is not None:
                x, own = layer(x, rope, mask)
                x = self.llm.norm(x)
            else:
                own = layer.keys_values(x, rope)
            keys_values.append(own)
        return x, keys_values

    def _places(self, prefix: Prefix, dtype: torch.dtype) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
        """The mask of a prefix (None where no slot is padding) and its rotary table."""
        mask = None if prefix.full else prefix.mask
        return mask, rope_table(prefix.position_ids, self.config.llm.head_dim, dtype)

    # ---- suffix -------------------------------------------------------------------------------------

    def time_embedding(self, time: Tensor) -> Tensor:
        """time [B] -> float64 [B, expert width]: sines, then cosines, periods geometric in [4e-3, 4]."""
        fraction = torch.linspace(0.0, 1.0, self.config.expert.width // 2, dtype=torch.float64, device=time.device)
        period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
        angle = (1.0 / period * 2 * math.pi) * time[:, None].double()
        return torch.cat((angle.sin(), angle.cos()), -1)

    def time_condition(self, time: Tensor) -> Tensor:
        """π0.5: time [B] -> condition of the adaptive norms, float32 [B, expert width]."""
        embedding = self.time_embedding(time).float()
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedding))))

    def modulations(self, time: Tensor) -> list[Tensor] | None:
        """π0.5: all [B, 1, 3D] that the expert's norms need at these times, in order; π0: None."""
        if not self.config.pi05:
            return None
        cond = self.time_condition(time)
        norms = [n for layer in self.expert.layers for n in (layer.input_layernorm, layer.post_attention_layernorm)]
        return [norm.modulation(cond) for norm in (*norms, self.expert.norm)]

    def embed_suffix(self, state: Tensor | None, x_t: Tensor, time: Tensor, given: Tensor | None = None) -> Tensor:
        """x_t [B, H, A] -> [B, H, W], behind π0's state token [B, 1 + H, W] unless `state` is None.

        Args:
            given: bool [B, H], the actions that are at time 0; None: all are at `time`.
        """
        actions: Tensor = self.action_in_proj(x_t)
        if self.config.pi05:
            return actions
        time_emb = self.time_embedding(time).to(actions.dtype)[:, None].expand_as(actions)
        if given is not None:
            ended = self.time_embedding(torch.zeros_like(time)).to(actions.dtype)[:, None]
            time_emb = torch.where(given[..., None], ended, time_emb)
        actions = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(torch.cat((actions, time_emb), -1))))
        return actions if state is None else torch.cat((self.state_proj(state)[:, None], actions), 1)

    def suffix_mask(self, mask: Tensor | None, keys: Tensor, length: int) -> Tensor | None:
        """What suffix tokens may look at: every real prefix token and one another; π0's state token itself alone.

        Args:
            mask: bool [B, N] of the prefix, None where all are real.
            keys: [B, G, N, K] of the prefix.
        """
        if length == self.config.action_horizon:
            return None if mask is None else _keys(F.pad(mask, (0, length), value=True))
        own = torch.ones(length, length, dtype=torch.bool, device=keys.device)
        own[0, 1:] = False
        seen = own.new_ones(keys.shape[0], keys.shape[2]) if mask is None else mask
        return torch.cat((seen[:, None].expand(-1, length, -1), own.expand(keys.shape[0], -1, -1)), 2)[:, None]

    def prefill_state(
        self,
        keys_values: list[tuple[Tensor, Tensor]],
        masks: list[Tensor | None],
        runs: list[int],
        next_position: Tensor,
        state: Tensor,
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor | None], Tensor]:
        """π0: the state token sees neither the time nor the actions, so its keys join the cache once for all steps."""
        x = self.state_proj(state)[:, None].to(self.expert.dtype)
        rope = rope_table(next_position[:, None], self.config.expert.head_dim, x.dtype)
        masks = [None if mask is None else F.pad(mask, (0, 1), value=True) for mask in masks]
        joined = []
        for layer, (keys, values), seen in zip(self.expert.layers, keys_values, runs, strict=True):
            if not keys.shape[2]:  # a layer that did not run in the prefill runs nowhere
                joined.append((keys, values))
                continue
            x, (k, v) = layer(x, rope, _keys(masks[seen]), (keys, values))
            joined.append((torch.cat((keys, k), 2), torch.cat((values, v), 2)))
        return joined, masks, next_position + 1

    def velocity(
        self, cache: PrefixCache, state: Tensor | None, x_t: Tensor, time: Tensor, given: Tensor | None = None
    ) -> Tensor:
        """One evaluation of the flow: v_t float32 [B, H, A] at x_t [B, H, A], time [B].

        Args:
            state: [B, A]; None where it is in the cache already.
            given: bool [B, H], the actions that are at time 0; None: all are at `time`.
        """
        length = x_t.shape[1] + (not self.config.pi05 and state is not None)
        masks, rope = self.suffix_places(cache.keys_values, cache.masks, cache.runs, cache.next_position, length)
        table = self.modulations(time)
        if table is not None and given is not None:
            table = _where_given(given, self.modulations(torch.zeros_like(time)), table)
        return self.flow(x_t, time, state, cache.keys_values, masks, cache.runs, rope, table, given)

    def suffix_places(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        masks: Sequence[Tensor | None],
        runs: Sequence[int],
        next_position: Tensor,
        length: int,
    ) -> tuple[list[Tensor | None], tuple[Tensor, Tensor]]:
        """What suffix tokens may look at, for each run of layers, and their rotary table."""
        first = [keys_values[runs.index(run)][0] for run in range(len(masks))]
        seen = [self.suffix_mask(mask, keys, length) for mask, keys in zip(masks, first, strict=True)]
        position_ids = next_position[:, None] + torch.arange(length, device=next_position.device)
        return seen, rope_table(position_ids, self.config.expert.head_dim, self.expert.dtype)

    @any_length(keys_values=2, masks=3)
    def flow(
        self,
        x_t: Tensor,
        time: Tensor,
        state: Tensor | None,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        masks: Sequence[Tensor | None],
        runs: Sequence[int],
        rope: tuple[Tensor, Tensor],
        table: Sequence[Tensor] | None,
        given: Tensor | None = None,
    ) -> Tensor:
        """`velocity` with everything that stays the same over the steps at hand.

        Args:
            keys_values: of the prefix, per layer [B, G, N, K].
            masks: bool [B, 1, 1 or T, N + T] of each run of layers.
            table: the modulations at `time`, of `given` actions at 0.
        """
        x = self.embed_suffix(state, x_t, time, given).to(self.expert.dtype)
        for i, (layer, past, seen) in enumerate(zip(self.expert.layers, keys_values, runs, strict=True)):
            if not past[0].shape[2]:  # skipped in the prefill
                continue
            x, _ = layer(x, rope, masks[seen], past, table and (table[2 * i], table[2 * i + 1]))
        x = self.expert.norm(x, table[-1])[0] if table else self.expert.norm(x)
        v_t: Tensor = self.action_out_proj(x[:, -self.config.action_horizon :].float())
        return v_t

    def times(self, num_steps: int) -> list[float]:
        """The times of the Euler steps, from 1 (noise) towards 0 (action)."""
        if self.config.times is not None:
            if len(self.config.times) != num_steps:
                raise FoveateError(f"{num_steps} steps, and the config has {len(self.config.times)} denoising times")
            return list(self.config.times)
        if self.config.time_grid == "exact":
            return [1.0 - k / num_steps for k in range(num_steps)]
        # openpi adds -1/n in float32 until the time passes half a step above zero.
        step = torch.tensor(-1.0 / num_steps, dtype=torch.float32)
        time, times = torch.tensor(1.0), []
        while time >= -step / 2:
            times.append(time.item())
            time = time + step
        return times

    def denoise(
        self,
        cache: PrefixCache,
        state: Tensor,
        noise: Tensor,
        num_steps: int | None = None,
        *,
        run: Run = as_written,
        previous: PreviousChunk | GivenActions | None = None,
    ) -> Tensor:
        """Integrate the flow with Euler steps: noise [B, H, A] -> actions [B, H, A].

        Args:
            previous: the chunk before that the flow is guided towards (gradients are needed then), or what is given of
                it; either runs as written.
        """
        times = tuple(self.times(num_steps or self.config.num_steps))
        grid = torch.tensor([times], dtype=torch.float32, device=noise.device)
        past = cache.keys_values, cache.masks, cache.runs, cache.next_position
        if previous is not None:
            return self.integrate(noise, state, times, grid, *past, previous=previous)
        actions: Tensor = run(self.integrate, noise, state, times, grid, *past)
        return actions

    @loop
    def integrate(
        self,
        noise: Tensor,
        state: Tensor,
        times: tuple[float, ...],
        grid: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
        masks: list[Tensor | None],
        runs: list[int],
        next_position: Tensor,
        run: Run = as_written,
        previous: PreviousChunk | GivenActions | None = None,
    ) -> Tensor:
        """All Euler steps; asks the device nothing.

        Args:
            times: of the steps; `grid` [1, steps] holds the same on the device.
            keys_values: with masks, runs and next_position, of a `PrefixCache`.
        """
        given = previous if isinstance(previous, GivenActions) else None
        # Behind those of the steps stand the modulations of time 0, which given actions are at.
        table = self.modulations(grid[0] if given is None else F.pad(grid[0], (0, 1)))
        if not self.config.pi05:
            keys_values, masks, next_position = self.prefill_state(keys_values, masks, runs, next_position, state)
        masks, rope = self.suffix_places(keys_values, masks, runs, next_position, noise.shape[1])
        x_t = noise
        for i, (now, then) in enumerate(zip(times, (*times[1:], 0.0), strict=True)):
            step = None if table is None else [m[i : i + 1] for m in table]
            time = grid[0, i].expand(len(noise))
            if previous is None:
                v_t = run(self.flow, x_t, time, None, keys_values, masks, runs, rope, step)
            elif isinstance(previous, GivenActions):
                x_t = previous.put(x_t)
                step = step and _where_given(previous.mask, [m[-1:] for m in table or ()], step)
                v_t = self.flow(x_t, time, None, keys_values, masks, runs, rope, step, previous.mask)
            else:
                same: dict[str, Any] = {
                    "keys_values": keys_values,
                    "masks": masks,
                    "runs": runs,
                    "rope": rope,
                    "table": step,
                }
                v_t = guided(functools.partial(self.flow, time=time, state=None, **same), x_t, now, previous)
            # Evenly spaced, openpi's sums end a rounding error beside 0: the step is exactly 1 / n all the same.
            x_t = x_t - (v_t / len(times) if self.config.times is None else v_t * (now - then))
        return x_t if given is None else given.put(x_t)

    # ---- as an ActionModel --------------------------------------------------------------------------

    def decode(
        self,
        cache: PrefixCache,
        inputs: ModelInputs,
        noise: Tensor | None,
        steps: int | None = None,
        *,
        run: Run = as_written,
    ) -> Tensor:
        """`denoise` as engines call it."""
        if noise is None:
            raise FoveateError("π0 decodes from noise: pass float32 [B, action_horizon, action_dim], standard normal")
        return self.denoise(cache, inputs.state, noise, steps, run=run)

    def decode_after(
        self,
        cache: PrefixCache,
        inputs: ModelInputs,
        noise: Tensor,
        steps: int | None,
        previous: PreviousChunk | GivenActions,
    ) -> Tensor:
        """`decode` that goes on from the chunk before (real-time chunking): guided towards it, or with its actions."""
        if isinstance(previous, GivenActions):
            return self.denoise(cache, inputs.state, noise, steps, previous=previous)
        # Autograd keeps none of the tensors that inference mode has made: what goes in is copied.
        with torch.inference_mode(False), torch.no_grad():
            copied = dataclasses.replace(
                cache,
                keys_values=[(keys.clone(), values.clone()) for keys, values in cache.keys_values],
                masks=[None if mask is None else mask.clone() for mask in cache.masks],
                next_position=cache.next_position.clone(),
            )
            towards = PreviousChunk(previous.actions.clone(), previous.weights.clone())
            return self.denoise(copied, inputs.state.clone(), noise.clone(), steps, previous=towards)

    def attention_stacks(self) -> Mapping[Phase, Sequence[nn.Module]]:
        return {"prefix": self.llm.layers, "suffix": self.expert.layers}

    @property
    def final_norm(self) -> nn.Module:
        return self.llm.norm

    @property
    def tower(self) -> TowerLayer:
        return TowerLayer(self.vision.layers[-1])

    def flops(
        self, views: int, tokens: int | Sequence[int], steps: int | None = None, coarse: int = 0
    ) -> dict[str, float]:
        """As an `ActionModel`'s.

        Args:
            coarse: further images that are looked at at half the side.
        """
        steps = steps or self.config.num_steps
        return gflops(self.config, views=views, tokens=tokens, num_steps=steps, coarse=coarse)

    # ---- whole passes -------------------------------------------------------------------------------

    def sample_actions(
        self, inputs: ModelInputs, noise: Tensor | None = None, *, num_steps: int | None = None, packed: bool = True
    ) -> Tensor:
        """Images, text and state -> actions float32 [B, H, A], normalised.

        Args:
            noise: float32 [B, H, A], standard normal; None draws it.
            packed: drop padding and absent cameras first; the actions are the same up to rounding.
        """
        if noise is None:
            noise = self.draw_noise(inputs.tokens.shape[0], inputs.images.device)
        prefix = self.embed_prefix(inputs)
        return self.denoise(self.prefill(pack(prefix) if packed else prefix), inputs.state, noise, num_steps)

    def draw_noise(self, batch: int, device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
        shape = (batch, self.config.action_horizon, self.config.action_dim)
        return torch.randn(shape, generator=generator, device=device)

    def forward(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
        prune: Callable[[Tensor], Passage] | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Flow-matching loss, element by element: (v_t - (noise - actions))^2 at x_t = t noise + (1 - t) actions.

        Args:
            actions: float32 [B, H, A], normalised.
            noise: [B, F, H, A] or [B, H, A]; F flow samples share one prefix.
            time: [B, F] or [B], in (0, 1].
            prune: what drops tokens of the prefix, given the first flow sample's noisy actions [B, H, A].
            given: bool, `noise`'s shape without the last axis: actions that enter without noise, at time 0.
        Returns:
            float32, of the shape of `noise`; of given actions it means nothing.
        """
        shape = noise.shape
        if noise.ndim == 3:
            noise, time, given = noise[:, None], time[:, None], None if given is None else given[:, None]
        flows = noise.shape[1]
        x_t = time[..., None, None] * noise + (1 - time[..., None, None]) * actions[:, None]
        if given is not None:
            x_t = torch.where(given[..., None], actions[:, None], x_t)
            given = given.flatten(0, 1)
        target = noise - actions[:, None]
        cache = passed(self, inputs, None if prune is None else prune(x_t[:, 0])).repeat(flows)
        v_t = self.velocity(cache, inputs.state.repeat_interleave(flows, 0), x_t.flatten(0, 1), time.flatten(), given)
        return F.mse_loss(target.flatten(0, 1), v_t, reduction="none").view(shape)

    loss = forward


def _where_given(given: Tensor, ended: Sequence[Tensor] | None, now: Sequence[Tensor]) -> list[Tensor]:
    """Modulations [B, 1, 3D] at the present time, and those of time 0 where an action is given: [B, H, 3D]."""
    return [torch.where(given[..., None], last, one) for last, one in zip(ended or (), now, strict=True)]


def _keys(mask: Tensor | None) -> Tensor | None:
    """bool [B, N] of keys as attention broadcasts it over heads and queries."""
    return None if mask is None else mask[:, None, None]
