"""Rows of softmax attention, for who looks at it beside a fused kernel."""

from __future__ import annotations

from torch import Tensor


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
    rows: Tensor = scores.softmax(-1)
    return rows


def mask_rows(mask: Tensor | None, slots: Tensor) -> Tensor | None:
    """The rows of a mask for the queries at slots [B, R]; a mask of the keys alone is every row's."""
    if mask is None or mask.shape[2] == 1:
        return mask
    return mask.gather(2, slots[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1]))
