"""Vision attention over pictures of one size in one call.

Qwen's vision towers put all pictures of a batch into one sequence. With `sdpa` they then run a Python loop over them;
an implementation whose name says `flash` gets the whole sequence and its cuts instead. The one here, registered with
transformers under such a name, takes pictures (or windows) of one length as a batch of `sdpa`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKED_SDPA = "foveate_flash_sdpa"
"""Name in transformers' registry; it needs no flash-attention package."""


def batch_equal_pictures(model: Any) -> None:
    """Let the vision tower of a transformers model attend to pictures (or windows) of one size at once.

    A tower with another attention than the default `sdpa` keeps it.
    """
    from transformers import AttentionInterface

    if model.config.vision_config._attn_implementation == "sdpa":
        AttentionInterface.register(PACKED_SDPA, packed_sdpa)
        model.set_attn_implementation({"vision_config": PACKED_SDPA})


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each chunk of a packed sequence, as transformers calls it.

    Args:
        query, key, value: [1, H, N, C], the chunks one after the other.
        cu_seq_lens_q: int [chunks + 1], where they begin, and N.
        max_length_q: the longest chunk's length.
    Returns:
        [1, N, H, C].
    """
    chunks = len(cu_seq_lens_q) - 1
    if chunks * max_length_q == query.shape[2]:  # all are as long as the longest; known without waiting for the GPU
        q, k, v = (x[0].unflatten(1, (chunks, max_length_q)).transpose(0, 1) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).flatten(0, 1)[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    outs = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling).transpose(1, 2) for q, k, v in parts
    ]
    return torch.cat(outs, dim=1), None
