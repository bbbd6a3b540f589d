"""Vision attention over pictures of one size in one call.

Qwen's vision towers put all pictures of a batch into one sequence, and the stock attention then runs a Python loop over
them. Pictures of one size form a batch. The modules keep their weights; only their class changes, on this model alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOOPING = ("Qwen3VLVisionAttention", "Qwen2_5_VLVisionAttention", "VisionAttention")
"""Classes of transformers whose forward splits the sequence at `cu_seqlens`."""


def batch_equal_pictures(model: nn.Module) -> int:
    """Let the vision tower attend to pictures (or windows) of one size at once; returns how many modules changed."""
    changed = 0
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in LOOPING and kind.__module__.startswith("transformers."):
            module.__class__ = type(f"Batched{kind.__name__}", (_EqualChunks, kind), {})
            changed += 1
    return changed


class _EqualChunks:
    """Before a stock attention in the order of classes: takes over where all chunks have one length."""

    num_heads: int
    scaling: float
    qkv: Any
    proj: Any

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        lengths = cu_seqlens.diff()
        chunks, length = len(lengths), int(lengths[0])
        if chunks == 1 or position_embeddings is None or bool((lengths != length).any()):
            return super().forward(  # type: ignore[misc]
                hidden_states, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **kwargs
            )
        q, k, v = self.qkv(hidden_states).view(chunks, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        cos, sin = (x.float().view(chunks, 1, length, -1) for x in position_embeddings)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(chunks * length, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves convention, computed in float32."""
    left, right = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)
