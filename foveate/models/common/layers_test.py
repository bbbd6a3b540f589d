"""Layers against formulas in float64 and hand-sized numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from foveate.models.common.layers import (
    AdaRMSNorm,
    GatedMLP,
    RMSNorm,
    RotaryAttention,
    SiglipTower,
    apply_rope,
    attention,
    rms_norm,
    rope_table,
)


def test_rms_norm_by_hand() -> None:
    torch.testing.assert_close(rms_norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))
    norm = RMSNorm(2)
    norm.weight.data = torch.tensor([1.0, -1.0])  # stored as the distance from one
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[6.0, 0.0]]) / math.sqrt(12.5))


def test_rms_norm_is_formed_in_float32() -> None:
    x = torch.randn(4, 64).bfloat16() * 100
    assert RMSNorm(64)(x).dtype == torch.bfloat16
    exact = x.double() * (x.double().pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(rms_norm(x).double(), exact, atol=1e-5, rtol=1e-5)


def test_adaptive_norm_splits_scale_shift_gate() -> None:
    norm = AdaRMSNorm(2, 1)
    norm.dense.bias.data = torch.tensor([1.0, 0.0, 10.0, 20.0, 0.5, 0.25])
    out, gate = norm(torch.tensor([[[3.0, 4.0]]]), norm.modulation(torch.zeros(1, 1)))
    unit = torch.tensor([3.0, 4.0]) / math.sqrt(12.5)
    torch.testing.assert_close(out, (unit * torch.tensor([2.0, 1.0]) + torch.tensor([10.0, 20.0]))[None, None])
    torch.testing.assert_close(gate, torch.tensor([[[0.5, 0.25]]]))


def test_rope_rotates_pairs_of_halves_and_sees_distance_alone() -> None:
    cos, sin = rope_table(torch.tensor([[0, 1, 7]]), 4, torch.float32)
    assert cos.shape == (1, 1, 3, 4)
    torch.testing.assert_close(cos[0, 0, 1], torch.tensor([math.cos(1), math.cos(0.01)] * 2))
    x = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 3, 4)
    torch.testing.assert_close(
        apply_rope(x, cos, sin)[0, 0],
        torch.tensor([[1.0, 0, 0, 0], [math.cos(1), 0, math.sin(1), 0], [math.cos(7), 0, math.sin(7), 0]]),
    )
    q, k = torch.randn(2, 1, 1, 1, 8)
    dots = []
    for shift in (0, 5, 100):
        tables = rope_table(torch.tensor([[3 + shift, 1 + shift]]), 8, torch.float32)
        turned = apply_rope(torch.cat((q, k), 2), *tables)
        dots.append((turned[0, 0, 0] @ turned[0, 0, 1]).item())
    assert dots == pytest.approx([dots[0]] * 3, abs=1e-4)


def reference_attention(q, k, v, mask):
    """Float64, one head at a time."""
    out = torch.empty_like(q, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h * k.shape[1] // q.shape[1]
            scores = q[b, h].double() @ k[b, g].double().T / math.sqrt(q.shape[-1])
            if mask is not None:
                scores = scores.masked_fill(~mask[b % mask.shape[0], 0].expand_as(scores), -torch.inf)
            out[b, h] = scores.softmax(-1) @ v[b, g].double()
    return out


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kind", ["none", "keys", "pairs"])
def test_grouped_attention_is_exact(groups: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, groups, 7, 8, generator=generator)
    mask = None
    if kind == "keys":
        mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0]]).bool()[:, None, None]
    elif kind == "pairs":
        mask = (torch.rand(2, 1, 5, 7, generator=generator) < 0.6) | (torch.arange(7) == 0)
    expected = reference_attention(q, k, v, mask)
    torch.testing.assert_close(attention(q, k, v, mask).double(), expected, atol=1e-5, rtol=1e-5)


def test_cached_keys_are_joined_before_ones_own() -> None:
    layer = RotaryAttention(16, 4, 1, 8)
    x = torch.randn(2, 9, 16)
    rope = rope_table(torch.arange(9).expand(2, -1), 8, torch.float32)
    whole, (k, v) = layer(x, rope, None)
    tail = tuple(table[:, :, 6:] for table in rope)
    late, (own_k, _) = layer(x[:, 6:], tail, None, (k[:, :, :6], v[:, :, :6]))
    torch.testing.assert_close(late, whole[:, 6:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own_k, k[:, :, 6:])
    keys, values = layer.keys_values(x, rope)
    torch.testing.assert_close(keys, k)
    torch.testing.assert_close(values, v)


def test_mlp_formula() -> None:
    mlp = GatedMLP(4, 6)
    x = torch.randn(3, 4)
    gate, up = mlp.gate_up_proj.weight.split(6)
    gated = F.gelu(x @ gate.T, approximate="tanh") * (x @ up.T)
    torch.testing.assert_close(mlp(x), gated @ mlp.down_proj.weight.T, atol=1e-6, rtol=1e-5)


def test_patches_are_embedded_row_by_row() -> None:
    tower = SiglipTower(4, 1, 2, 8, patch_size=2, image_size=6)
    image = torch.zeros(1, 3, 6, 6)
    image[..., 2:4, 4:6] = 1.0  # second row of patches, third column
    with torch.no_grad():
        changed = (tower.embeddings(image) - tower.embeddings(torch.zeros_like(image))).abs().amax(-1)[0]
    assert changed.nonzero().flatten().tolist() == [5]
    assert tower(image).shape == (1, 9, 4)
