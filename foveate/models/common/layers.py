"""Layers that more than one model is made of. They know tensors alone: no layout, no pruning, no files.

Shapes: B batch, T query tokens, S key tokens, D width, H query heads, G key/value heads, K head dimension.
Projections that read the same input are fused (`qkv_proj`, `gate_up_proj`): fewer, larger matrix products.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Observer = Callable[[Tensor, Tensor, Tensor | None], None]
"""Called with q_BHTK and k_BGSK (after RoPE) and the mask, before the fused kernel runs."""
Run = Callable[..., Any]
"""`run(part, *arguments)`: how a part of a model is called: its tower, layers of its backbone, one denoising step.

A part is a method of a module. Its arguments are tensors, whose first axis is the batch, or one where all samples share
them, tuples of tensors, and constants. An engine hands in its own way, which gives what the part gives."""
Part = TypeVar("Part", bound=Callable[..., Any])


def as_written(part: Callable[..., Any], *arguments: Any) -> Any:
    """The `Run` that calls the part."""
    return part(*arguments)


def any_length(**axes: int) -> Callable[[Part], Part]:
    """Mark a part whose named arguments may have any size along an axis: one compilation serves them all."""

    def mark(part: Part) -> Part:
        order = list(inspect.signature(part).parameters)[1:]  # without self
        part.any_length = {order.index(name): axis for name, axis in axes.items()}  # type: ignore[attr-defined]
        return part

    return mark


def loop(part: Part) -> Part:
    """Mark a part that calls others through a `run` that it takes last: an engine may take it as a whole, or those."""
    part.loops = True  # type: ignore[attr-defined]
    return part


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


_GELU_CUBE, _GELU_LINE = 2 * 0.044715 * math.sqrt(2 / math.pi), torch.tensor(2 * math.sqrt(2 / math.pi))


def gelu(x: Tensor) -> Tensor:
    """GELU by the tanh formula, written as x * sigmoid(2y): on a CPU 0.7 of the time of PyTorch's own kernel."""
    if x.is_cuda or x.dtype != torch.float32 or torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.addcmul(_GELU_LINE, x, x, value=_GELU_CUBE).mul_(x).sigmoid_().mul_(x)


@torch.inference_mode(False)  # weights of inference mode can be neither exported nor trained
def transpose_storage(module: nn.Module) -> None:
    """Lay the weights of linear layers out by columns; shapes, values and names stay.

    On a CPU this takes the transposition out of every matrix product: measured with 50 rows 1.2 to 1.4 times the
    speed, with 500 rows 1.0 to 1.05.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data = part.weight.data.t().contiguous().t()


class RMSNorm(nn.Module):
    """RMSNorm with a weight. Gemma stores its distance from one (`base` 1), Llama the weight itself (`base` 0)."""

    def __init__(self, width: int, eps: float = 1e-6, base: float = 1.0) -> None:
        super().__init__()
        self.eps, self.base = eps, base
        self.weight = nn.Parameter(torch.full((width,), 1.0 - base))

    def forward(self, x: Tensor) -> Tensor:
        return (rms_norm(x, self.eps) * (self.base + self.weight.float())).to(x.dtype)


class AdaRMSNorm(nn.Module):
    """RMSNorm whose scale, shift and gate are read off a condition (adaLN-Zero, Peebles & Xie 2023)."""

    def __init__(self, width: int, cond_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(cond_width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def modulation(self, cond: Tensor) -> Tensor:
        """cond [B, C] -> [B, 1, 3D]; depends on the time alone, so a sampler asks once for all its steps."""
        modulation: Tensor = self.dense(cond)[:, None]
        return modulation

    def forward(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D] -> (normed [B, T, D], gate [B, 1, D])."""
        scale, shift, gate = modulation.chunk(3, dim=-1)
        normed = torch.addcmul(shift.float(), rms_norm(x), 1.0 + scale.float())
        return normed.to(x.dtype), gate.to(x.dtype)


def rope_frequencies(
    head_dim: int, dtype: torch.dtype, device: torch.device | str | None = None, theta: float = 10_000.0
) -> Tensor:
    """Rotary frequencies, float32 [head_dim / 2].

    In bfloat16 the frequencies themselves are rounded, as the reference's converted buffers are.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return (1.0 / theta**exponent).to(dtype).float()


def rope_table(
    position_ids: Tensor, head_dim: int, dtype: torch.dtype, theta: float = 10_000.0
) -> tuple[Tensor, Tensor]:
    """Rotary tables (Su et al. 2021), cosine and sine, each [B, 1, T, head_dim]."""
    angle = position_ids[:, None, :, None].float() * rope_frequencies(head_dim, dtype, position_ids.device, theta)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, heads, T, K]; halves are rotated against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attention(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention with grouped key/value heads -> [B, H, T, K].

    Args:
        mask: bool, True where a query may look: [B, 1, 1, S] (keys alone) or [B, 1, T, S]; None: everywhere.
    """
    B, H, T, K = q_BHTK.shape
    G = k_BGSK.shape[1]
    if G == H:
        return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, attn_mask=mask)
    if mask is not None and mask.shape[-2] != 1:
        mask = mask.repeat(1, 1, H // G, 1)
    # Query heads that share keys are folded into one long query: same function, keys are never copied.
    folded = q_BHTK.reshape(B, G, H // G * T, K)
    return F.scaled_dot_product_attention(folded, k_BGSK, v_BGSK, attn_mask=mask).view(B, H, T, K)


class RotaryAttention(nn.Module):
    """Multi-query attention with rotary positions; keys and values may be joined with cached ones."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.qkv_proj = nn.Linear(width, (num_heads + 2 * num_kv_heads) * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, width, bias=False)
        self.observer: Observer | None = None

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads.transpose(1, 2)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys (after RoPE) and values alone, each [B, G, T, K]: all that a cache needs of the last layer."""
        kv = F.linear(x, self.qkv_proj.weight[self.num_heads * self.head_dim :])
        k, v = self._heads(kv).chunk(2, dim=1)
        return apply_rope(k, *rope), v

    def queries_keys(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, K] and keys [B, G, T, K] of some tokens, for who looks at attention beside the kernel.

        Args:
            rope: of these tokens; None: not rotated.
        """
        H, G = self.num_heads, self.num_kv_heads
        qk = self._heads(F.linear(x, self.qkv_proj.weight[: (H + G) * self.head_dim]))
        qk = qk if rope is None else apply_rope(qk, *rope)
        return qk[:, :H], qk[:, H:]

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, D] -> (output [B, T, D], own keys and values [B, G, T, K])."""
        H, G = self.num_heads, self.num_kv_heads
        heads = self._heads(self.qkv_proj(x))
        # Queries and keys are neighbours in the fused output, so one rotation serves both.
        qk = apply_rope(heads[:, : H + G], *rope)
        q, k, v = qk[:, :H], qk[:, H:], heads[:, H + G :]
        keys, values = (k, v) if past is None else (torch.cat((past[0], k), 2), torch.cat((past[1], v), 2))
        if self.observer is not None:
            self.observer(q, keys, mask)
        out = attention(q, keys, values, mask)
        return self.o_proj(out.transpose(1, 2).flatten(2)), (k, v)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): with `gelu` Gemma's, with SiLU Llama's."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor] = gelu) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(self.activation(gate) * up)
        return out


class ViTLayer(nn.Module):
    """A pre-norm transformer encoder layer.

    Args:
        activation: transformers' SigLIP has GELU by its tanh formula, timm's towers the exact one (`F.gelu`).
        layer_scale: whether what attention and MLP add is scaled per channel, as DINOv2 does.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        eps: float = 1e-6,
        activation: Callable[[Tensor], Tensor] = gelu,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.activation = num_heads, activation
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.attention_scale = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.mlp_scale = nn.Parameter(torch.ones(width)) if layer_scale else None

    def _heads(self, x: Tensor) -> Tensor:
        """x [B, P, D] -> q, k and v, [3, B, H, P, K]."""
        qkv: Tensor = self.qkv_proj(self.layer_norm1(x)).unflatten(-1, (3, self.num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4)

    def queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, each [B, H, P, K], for who looks at attention beside the kernel."""
        q, k, _ = self._heads(x)
        return q, k

    def forward(self, x: Tensor) -> Tensor:
        """x [B, P, D] -> [B, P, D]."""
        q, k, v = self._heads(x)
        out = F.scaled_dot_product_attention(q, k, v)
        x = x + _scaled(self.out_proj(out.transpose(1, 2).flatten(2)), self.attention_scale)
        x = x + _scaled(self.fc2(self.activation(self.fc1(self.layer_norm2(x)))), self.mlp_scale)
        return x


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class SiglipTower(nn.Module):
    """SigLIP's vision transformer (Zhai et al. 2023), without a pooling head.

    Args:
        image_size: side of the square input in pixels; `patch_size` divides it.
    """

    def __init__(self, width: int, depth: int, num_heads: int, hidden: int, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.patch_embedding = nn.Conv2d(3, width, patch_size, patch_size)
        self.position_embedding = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], width) * 0.02)
        self.layers = nn.ModuleList(ViTLayer(width, num_heads, hidden) for _ in range(depth))
        self.post_layernorm = nn.LayerNorm(width, eps=1e-6)

    def embeddings(self, images: Tensor) -> Tensor:
        """images float32 [B, 3, H, W] in [-1, 1] -> float32 [B, P, D], patches row by row."""
        patches: Tensor = self.patch_embedding(images)
        places = self.positions((patches.shape[2], patches.shape[3]))
        return patches.flatten(2).transpose(1, 2) + places

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings [P, D] of a grid; of one that the tower was not made for, interpolated."""
        if grid == self.grid:
            return self.position_embedding
        learnt = self.position_embedding.t().unflatten(1, self.grid)[None]
        return F.interpolate(learnt, grid, mode="bilinear")[0].flatten(1).t()

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings(images).to(self.post_layernorm.weight.dtype)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.post_layernorm(x)
        return out
