"""Attention evidence: which image patches the text looked at, per layer and head.

Only the rows asked for are computed, from a layer's queries and keys after RoPE, beside the fused kernel,
which runs on as if nobody watched. The model is as it was when the context is left, also by an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.types import Prefix


def attention_rows(q_BHRK: Tensor, k_BGSK: Tensor, mask: Tensor | None) -> Tensor:
    """Attention probabilities of the given query rows, float32 [B, H, R, S].

    Args:
        mask: bool, broadcastable to [B, H, R, S]; masked keys get exactly 0.
    """
    heads, groups = q_BHRK.shape[1], k_BGSK.shape[1]
    keys = k_BGSK.float().repeat_interleave(heads // groups, 1)
    scores = q_BHRK.float() @ keys.transpose(-1, -2) * q_BHRK.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1)


@contextmanager
def capture_task_to_vis(layers: Sequence[Any], wanted: Iterable[int], prefix: Prefix) -> Iterator[dict[int, Tensor]]:
    """While the context is open, a prefill of `prefix` fills {layer: float32 [B, heads, P]}.

    Each value is the mean, over the valid text rows, of the attention that a patch receives; P counts patches in
    the layout's coordinates, and dropped or absent ones hold 0.

    Args:
        layers: the backbone's layers, each with a `self_attn` that has an `observer`.
        wanted: layer numbers, negative ones count from the end.
        prefix: the very prefix that is about to be prefilled.
    """
    numbers = []
    for number in wanted:
        if not -len(layers) <= number < len(layers):
            raise FoveateError(f"attention layer {number}: the backbone has layers 0 to {len(layers) - 1}")
        numbers.append(number % len(layers))
    maps: dict[int, Tensor] = {}
    if not numbers:
        yield maps
        return
    batch, slots = prefix.mask.shape
    device = prefix.mask.device
    source = torch.arange(slots, device=device).expand(batch, -1) if prefix.source is None else prefix.source
    # One cell beyond the layout takes what padding slots write.
    total = len(prefix.layout)
    token = torch.where(prefix.mask, source, total)
    slot_of = torch.full((batch, total + 1), slots, device=device).scatter_(
        1, token, torch.arange(slots, device=device).expand(batch, -1)
    )
    text = torch.as_tensor(prefix.layout.tokens_of("text"), device=device)
    rows = slot_of[:, text]
    valid = rows < slots
    weight = valid / valid.sum(1, keepdim=True).clamp(min=1)
    rows = rows.clamp(max=slots - 1)
    patches = torch.as_tensor(prefix.layout.patch_index, device=device)

    def observe(layer: int, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        index = rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1])
        received = torch.einsum("bhrs,br->bhs", attention_rows(q.gather(2, index), k, mask), weight)
        full = received.new_zeros(batch, q.shape[1], total + 1)
        full.scatter_(2, token[:, None].expand(-1, q.shape[1], -1), received)
        maps[layer] = full[:, :, patches]

    modules = [layers[number].self_attn for number in numbers]
    try:
        for number, module in zip(numbers, modules, strict=True):
            module.observer = lambda q, k, mask, number=number: observe(number, q, k, mask)
        yield maps
    finally:
        for module in modules:
            module.observer = None
