"""Every intermediate of π0 that the golden data names, read with hooks from an untouched model.

The names are those of the golden data (`prefix.layer0.input`, `denoise.layer1.ln1`, ...); a recorder is a context
manager, and its hooks are gone when the context is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.base import ModelInputs, PrefixCache
from foveate.models.pi0.model import Pi0
from foveate.types import Prefix
from foveate.util.attention import attention_rows

Recorded = dict[str, Tensor]


@contextmanager
def hooks() -> Iterator[tuple[Callable[..., None], Callable[..., None], Callable[..., None]]]:
    """`(before, after, attention)`: call a function with a module's input, its output, or its q, k and mask."""
    with ExitStack() as stack:

        def before(module: nn.Module, call: Callable[[tuple], None]) -> None:
            stack.callback(module.register_forward_pre_hook(lambda _, args: call(args)).remove)

        def after(module: nn.Module, call: Callable[[Any], None]) -> None:
            stack.callback(module.register_forward_hook(lambda _, args, out: call(out)).remove)

        def attention(module: Any, call: Callable[[Tensor, Tensor, Tensor | None], None]) -> None:
            module.observer = call
            stack.callback(setattr, module, "observer", None)

        yield before, after, attention


def _to(store: Recorded, name: str) -> Callable[[Any], None]:
    """A function that keeps what it is given: the first of a tuple."""
    return lambda value: store.__setitem__(name, (value[0] if isinstance(value, tuple) else value).detach())


def _whole_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """What a mask of any broadcastable shape lets each query see: bool [B, T, S]."""
    shape = (q.shape[0], q.shape[2], k.shape[2])
    return q.new_ones(shape, dtype=torch.bool) if mask is None else mask[:, 0].expand(shape)


def _block_starts(sees: Tensor) -> Tensor:
    """openpi's `att_masks` read back from a square mask [B, T, T]: token j opens a block if j - 1 cannot see it."""
    starts = torch.zeros_like(sees[:, 0])
    starts[:, 1:] = ~sees.diagonal(offset=1, dim1=1, dim2=2)
    return starts


def record_vision(model: Pi0, inputs: ModelInputs) -> tuple[Recorded, Prefix]:
    """`vision0.*` and the embedded prefix. The tower sees only the cameras that are there: image 0 is picked out."""
    out: Recorded = {}
    present = inputs.image_masks.flatten().cumsum(0).view(inputs.image_masks.shape) - 1
    first = present[inputs.image_masks[:, 0], 0]
    tower = model.vision
    with hooks() as (before, after, _):
        before(tower.layers[0], _to(out, "vision0.embeddings"))
        for i, layer in enumerate(tower.layers):
            after(layer, _to(out, f"vision0.layer{i}"))
        after(tower.post_layernorm, _to(out, "vision0.post_layernorm"))
        after(model.projector, _to(out, "vision0.projected"))
        prefix = model.embed_prefix(inputs)
    return {name: value[first] for name, value in out.items()}, prefix


def record_prefix(model: Pi0, prefix: Prefix, attn_rows: list[int] | None) -> tuple[Recorded, PrefixCache]:
    """`prefix.*` and the cache.

    Args:
        attn_rows: the query rows kept as `attn_rows` beside `attn_received`; None keeps whole maps as `attn`.
    """
    out: Recorded = {
        "prefix.embs": prefix.embeds,
        "prefix.pad_masks": prefix.mask,
        "prefix.position_ids": prefix.position_ids,
    }

    def rope(args: tuple) -> None:
        out["prefix.rope_cos"], out["prefix.rope_sin"] = (table[:, 0] for table in args[1])

    def watch(layer: int, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        sees = _whole_mask(mask, q, k) & prefix.mask[:, :, None]
        out["prefix.att_2d_masks"] = sees
        # Padding neither sees nor is seen; it opens no block.
        out["prefix.att_masks"] = _block_starts(sees) & prefix.mask & prefix.mask.roll(1, 1)
        attn = attention_rows(q, k, mask)
        if attn_rows is None:
            out[f"prefix.layer{layer}.attn"] = attn
            return
        out[f"prefix.layer{layer}.attn_rows"] = attn[:, :, attn_rows]
        weight = prefix.mask / prefix.mask.sum(1, keepdim=True)
        out[f"prefix.layer{layer}.attn_received"] = torch.einsum("bhts,bt->bhs", attn, weight)

    with hooks() as (before, _, attention):
        before(model.llm.layers[0], rope)
        for i, layer in enumerate(model.llm.layers):
            before(layer, _to(out, f"prefix.layer{i}.input"))
            attention(layer.self_attn, lambda q, k, mask, i=i: watch(i, q, k, mask))
        cache = model.prefill(prefix, return_hidden=True)
    assert cache.last_hidden is not None
    out["prefix.last_hidden_state"] = cache.last_hidden
    for i, (k, v) in enumerate(cache.keys_values):
        out[f"prefix.layer{i}.k_cache"], out[f"prefix.layer{i}.v_cache"] = k, v
    return out, cache


def record_denoise(model: Pi0, cache: PrefixCache, state: Tensor, x_t: Tensor, time: Tensor) -> Recorded:
    """`suffix.*` and `denoise.*` of one evaluation of the flow."""
    out: Recorded = {
        "suffix.embs": model.embed_suffix(state, x_t, time),
        "suffix.time_emb_f64": model.time_embedding(time),
    }
    if model.config.pi05:
        out["suffix.adarms_cond"] = model.time_condition(time)

    def watch(layer: int, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        own = _whole_mask(mask, q, k)[:, :, -q.shape[2] :]
        starts = _block_starts(own)
        starts[:, 0] = True  # The prefix was prefilled without the suffix: it cannot see it.
        out["suffix.att_masks"] = starts.float()
        out["suffix.pad_masks"] = own[:, -1]
        out[f"denoise.layer{layer}.attn"] = attention_rows(q, k, mask)

    def norm(name: str, value: Any) -> None:
        if isinstance(value, tuple):
            value, out[name + "_gate"] = value
        out[name] = value

    with hooks() as (before, after, attention):
        for i, layer in enumerate(model.expert.layers):
            before(layer, _to(out, f"denoise.layer{i}.input"))
            after(layer.input_layernorm, lambda value, i=i: norm(f"denoise.layer{i}.ln1", value))
            after(layer.self_attn, _to(out, f"denoise.layer{i}.attn_out"))
            attention(layer.self_attn, lambda q, k, mask, i=i: watch(i, q, k, mask))
        before(model.expert.norm, _to(out, "denoise.final_norm_in"))
        after(model.expert.norm, _to(out, "denoise.final_norm_out"))
        out["denoise.v_t"] = model.velocity(cache, state, x_t, time)
    return out


@contextmanager
def record_steps(model: Pi0) -> Iterator[dict[str, list[Tensor]]]:
    """`x_t` and `v_t` [B, H, A] of every Euler step while the context is open."""
    steps: dict[str, list[Tensor]] = {"x_t": [], "v_t": []}
    with hooks() as (before, after, _):
        before(model.action_in_proj, lambda args: steps["x_t"].append(args[0].detach()))
        after(model.action_out_proj, lambda out: steps["v_t"].append(out.detach()))
        yield steps


def record_training(model: Pi0, inputs: ModelInputs, actions: Tensor, noise: Tensor, time: Tensor) -> Recorded:
    """`train.loss`, `train.prefix_out`, `train.suffix_out`; the gradients of the mean loss stay in the model."""
    out: Recorded = {}
    with hooks() as (_, after, attention):
        # A watched last layer is run to its end, though its keys and values alone are needed.
        attention(model.llm.layers[-1].self_attn, lambda q, k, mask: None)
        after(model.llm.norm, _to(out, "train.prefix_out"))
        after(model.expert.norm, _to(out, "train.suffix_out"))
        loss = model(inputs, actions, noise, time)
    out["train.loss"] = loss.detach()
    loss.mean().backward()
    with torch.no_grad():
        mask = model.embed_prefix(inputs).mask
    out["train.prefix_out"] = _in_place(out["train.prefix_out"], mask)
    return out


def _in_place(packed: Tensor, mask: Tensor) -> Tensor:
    """Rows that training has packed, [B, N, D], where they were in the prefix, bool mask [B, S]: [B, S, D]."""
    if packed.shape[:2] == mask.shape:  # not packed
        return packed
    whole = packed.new_zeros(*mask.shape, packed.shape[-1])
    whole[mask] = packed[torch.arange(packed.shape[1], device=mask.device) < mask.sum(1, keepdim=True)]
    return whole
