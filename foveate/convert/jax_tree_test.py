"""openpi's JAX layers against the PyTorch weights that their arrays become: the same products, computed both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.convert.jax_tree import parameters, read_pi0
from foveate.errors import FoveateError
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.weights import expected_shapes

# No two sizes are equal, and N H is not D.
LLM = GemmaConfig(width=20, depth=2, mlp_dim=28, num_heads=6, num_kv_heads=2, head_dim=8)
EXPERT = replace(LLM, width=12, mlp_dim=18)
TOWER = VisionConfig(10, 3, 5, 14, patch_size=56, image_size=224, projection_dim=20)
SIZES = Pi0Config(action_dim=7, vocab_size=30, llm=LLM, expert=EXPERT, vision=TOWER)
BACKBONE = "paligemma_with_expert.paligemma.model.language_model.layers.{}."
EXPERT_LAYER = "paligemma_with_expert.gemma_expert.model.layers.{}."


class Kept(NamedTuple):
    """An array in memory, with what `OrbaxArray` is asked for."""

    key: str
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> str:
        return self.values.dtype.name

    def slices(self) -> Iterator[Tensor]:
        yield from map(torch.from_numpy, self.values)

    def read(self) -> Tensor:
        return torch.from_numpy(self.values)


def kept(tree: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A tree as `read_pi0` takes it."""
    return {name: Kept(name, values) for name, values in sorted(tree.items())}


def random_tree(
    config: Pi0Config, *, lora: tuple[int, int] = (0, 0), fused: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """A π0 or π0.5 of this size as openpi's JAX model has it, float32.

    Args:
        lora: ranks of the adapters of backbone and expert; 0: none.
        fused: queries, keys and values in one array.
    """
    rng = np.random.default_rng(seed)
    tree: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int) -> None:
        tree[name] = rng.normal(0, 0.05, shape).astype(np.float32)

    def dense(name: str, *shape: int, depth: tuple[int, ...] = ()) -> None:
        put(f"{name}/kernel", *depth, *shape)
        put(f"{name}/bias", *depth, shape[-1])

    v, image = config.vision, "PaliGemma/img/"
    block, L, D = image + "Transformer/encoderblock/", v.num_hidden_layers, v.hidden_size
    N, H = v.num_attention_heads, v.hidden_size // v.num_attention_heads
    dense(image + "embedding", v.patch_size, v.patch_size, 3, D)
    put(image + "pos_embedding", 1, v.grid[0] * v.grid[1], D)
    for n, (size_in, size_out) in enumerate([(D, v.intermediate_size), (v.intermediate_size, D)]):
        put(f"{block}LayerNorm_{n}/scale", L, D)
        put(f"{block}LayerNorm_{n}/bias", L, D)
        dense(f"{block}MlpBlock_0/Dense_{n}", size_in, size_out, depth=(L,))
    for part in ("query", "key", "value"):
        put(f"{block}MultiHeadDotProductAttention_0/{part}/kernel", L, D, N, H)
        put(f"{block}MultiHeadDotProductAttention_0/{part}/bias", L, N, H)
    put(block + "MultiHeadDotProductAttention_0/out/kernel", L, N, H, D)
    put(block + "MultiHeadDotProductAttention_0/out/bias", L, D)
    put(image + "Transformer/encoder_norm/scale", D)
    put(image + "Transformer/encoder_norm/bias", D)
    dense(image + "head", D, v.projection_dim)

    text = "PaliGemma/llm/"
    put(text + "embedder/input_embedding", config.vocab_size, config.llm.width)
    for suffix, g, rank in (("", config.llm, lora[0]), ("_1", config.expert, lora[1])):
        attn, mlp = f"{text}layers/attn/", f"{text}layers/mlp{suffix}/"
        heads: dict[str, tuple[int, ...]] = {"attn_vec_einsum": (g.depth, g.num_heads, g.head_dim, g.width)}
        if fused:
            heads["qkv_einsum"] = (g.depth, 3, g.num_heads, g.width, g.head_dim)
        else:
            heads["q_einsum"] = (g.depth, g.num_heads, g.width, g.head_dim)
            heads["kv_einsum"] = (g.depth, 2, g.num_kv_heads, g.width, g.head_dim)
        stems: dict[str, tuple[int, ...]] = {f"{attn}{name}{suffix}/": shape for name, shape in heads.items()}
        stems |= {
            f"{mlp}gating_einsum": (g.depth, 2, g.width, g.mlp_dim),
            f"{mlp}linear": (g.depth, g.mlp_dim, g.width),
        }
        for stem, shape in stems.items():
            base, pair = (f"{stem}w", f"{stem}lora_") if stem.endswith("/") else (stem, f"{stem}_lora_")
            put(base, *shape)
            if rank:
                put(f"{pair}a", *shape[:-1], rank)
                put(f"{pair}b", *shape[:-2], rank, shape[-1])
        for norm, depth in (
            (f"{text}layers/pre_attention_norm{suffix}", (g.depth,)),
            (f"{text}layers/pre_ffw_norm{suffix}", (g.depth,)),
            (f"{text}final_norm{suffix}", ()),
        ):
            if suffix and config.pi05:
                dense(f"{norm}/Dense_0", g.width, 3 * g.width, depth=depth)
            else:
                put(f"{norm}/scale", *depth, g.width)

    A, D = config.action_dim, config.expert.width
    dense("action_in_proj", A, D)
    dense("action_out_proj", D, A)
    if config.pi05:
        dense("time_mlp_in", D, D)
        dense("time_mlp_out", D, D)
    else:
        dense("state_proj", A, D)
        dense("action_time_mlp_in", 2 * D, D)
        dense("action_time_mlp_out", D, D)
    return tree


def converted(tree, **options) -> dict[str, np.ndarray]:
    """openpi's PyTorch names and values of a tree."""
    arrays = kept(tree)
    found = read_pi0(arrays, **options)
    return {
        name: value.double().numpy()
        for rule in found.rules
        for name, value in parameters(rule, arrays[rule.source], found.adapters.get(rule.source))
    }


@pytest.mark.parametrize("pi05", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_sizes_and_names(pi05, fused):
    stack = replace(LLM, num_kv_heads=LLM.num_heads) if fused else LLM
    length = 200 if pi05 else 48
    sizes = replace(
        SIZES, pi05=pi05, max_token_len=length, llm=stack, expert=replace(EXPERT, num_kv_heads=stack.num_kv_heads)
    )
    tree = random_tree(sizes, fused=fused)
    found = read_pi0(kept(tree))
    assert found.sizes == sizes
    assert (found.unused, dict(found.adapters)) == ((), {})
    assert {name: value.shape for name, value in converted(tree).items()} == expected_shapes(sizes)


@pytest.mark.parametrize("lora", [(0, 0), (3, 2), (3, 0), (0, 2)])
@pytest.mark.parametrize("suffix", ["", "_1"])
def test_gemma_layers_compute_what_openpis_einsums_compute(lora, suffix):
    """The adapters' einsums are openpi's: without the head axis between the two factors of the output projection."""
    tree = {name: value.astype(np.float64) for name, value in random_tree(SIZES, lora=lora).items()}
    state = converted(tree, lora_scale=0.5)
    stack, layer = (EXPERT, EXPERT_LAYER) if suffix else (LLM, BACKBONE)
    rng, i = np.random.default_rng(1), 1
    x, heads, hidden = (rng.normal(size=(2, 3, *shape)) for shape in ((stack.width,), (6, 8), (stack.mlp_dim,)))
    attn, mlp = f"PaliGemma/llm/layers/attn/{{}}{suffix}/", f"PaliGemma/llm/layers/mlp{suffix}/"

    def einsum(name, x, whole, first, second):
        stem = attn.format(name)
        y = np.einsum(whole, x, tree[stem + "w"][i])
        if stem + "lora_a" in tree:
            y = y + 0.5 * np.einsum(second, np.einsum(first, x, tree[stem + "lora_a"][i]), tree[stem + "lora_b"][i])
        return y

    def dot(name, x, *part):
        y = x @ tree[mlp + name][i][part]
        if f"{mlp}{name}_lora_a" in tree:
            y = y + x @ tree[f"{mlp}{name}_lora_a"][i][part] @ tree[f"{mlp}{name}_lora_b"][i][part]
        return y

    q = einsum("q_einsum", x, "BTD,NDH->BTNH", "BTD,NDL->BTNL", "BTNL,NLH->BTNH")
    k, v = einsum("kv_einsum", x, "BSD,cKDH->cBSKH", "BSD,cKDL->cBSKL", "cBSKL,cKLH->cBSKH")
    out = einsum("attn_vec_einsum", heads, "BTNH,NHD->BTD", "BTNH,NHL->BTL", "BTL,NLD->BTD")
    theirs = {
        "self_attn.q_proj": (x, q.reshape(2, 3, -1)),
        "self_attn.k_proj": (x, k.reshape(2, 3, -1)),
        "self_attn.v_proj": (x, v.reshape(2, 3, -1)),
        "self_attn.o_proj": (heads.reshape(2, 3, -1), out),
        "mlp.gate_proj": (x, dot("gating_einsum", x, 0)),
        "mlp.up_proj": (x, dot("gating_einsum", x, 1)),
        "mlp.down_proj": (hidden, dot("linear", hidden)),
    }
    for name, (given, wanted) in theirs.items():
        np.testing.assert_allclose(given @ state[layer.format(i) + name + ".weight"].T, wanted, atol=1e-12)


def test_the_tower_computes_what_flax_computes():
    tree = {name: value.astype(np.float64) for name, value in random_tree(SIZES).items()}
    state, rng, i = converted(tree), np.random.default_rng(2), 2
    block = "PaliGemma/img/Transformer/encoderblock/"
    tower = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
    x = rng.normal(size=(4, TOWER.hidden_size))
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        w, b = (tree[f"{block}MultiHeadDotProductAttention_0/{theirs}/{leaf}"][i] for leaf in ("kernel", "bias"))
        wanted = np.einsum("TD,DNH->TNH", x, w) + b
        name = f"{tower}encoder.layers.{i}.self_attn.{ours}."
        np.testing.assert_allclose(
            x @ state[name + "weight"].T + state[name + "bias"], wanted.reshape(4, -1), atol=1e-12
        )
    heads = rng.normal(size=(4, 5, 2))
    w, b = (tree[f"{block}MultiHeadDotProductAttention_0/out/{leaf}"][i] for leaf in ("kernel", "bias"))
    name = f"{tower}encoder.layers.{i}.self_attn.out_proj."
    got = heads.reshape(4, -1) @ state[name + "weight"].T + state[name + "bias"]
    np.testing.assert_allclose(got, np.einsum("TNH,NHD->TD", heads, w) + b, atol=1e-12)
    image = rng.normal(size=(1, 224, 224, 3))
    patches = image.reshape(4, 56, 4, 56, 3).transpose(0, 2, 1, 3, 4)
    wanted = np.einsum("ijhwc,hwcd->ijd", patches, tree["PaliGemma/img/embedding/kernel"])
    weight = torch.from_numpy(state[tower + "embeddings.patch_embedding.weight"])
    got = torch.nn.functional.conv2d(torch.from_numpy(image).permute(0, 3, 1, 2), weight, stride=56)
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), wanted, atol=1e-10)


def test_what_is_no_part_of_the_model_is_named():
    tree = random_tree(SIZES) | {"PaliGemma/llm/spare": np.zeros(3, np.float32)}
    assert read_pi0(kept(tree)).unused == ("PaliGemma/llm/spare",)


def without(name):
    tree = random_tree(SIZES, lora=(2, 2))
    del tree[name]
    return tree


def test_trees_that_cannot_be_converted():
    attn = "PaliGemma/llm/layers/attn/"
    cases = {
        r"no tree of π0 or π0.5: it lacks .*; its top level holds 'dense', 'opt'": {
            "dense/kernel": np.zeros((2, 2), np.float32),
            "opt": np.zeros(2, np.float32),
        },
        "it is a π0-FAST or a PaliGemma": {
            name: value for name, value in random_tree(SIZES).items() if "_1" not in name and "action_" not in name
        },
        "2 arrays of the tree missing: .*final_norm/scale, action_out_proj/bias": {
            name: value
            for name, value in random_tree(SIZES).items()
            if name not in ("PaliGemma/llm/final_norm/scale", "action_out_proj/bias")
        },
        r"LoRA adapter .*q_einsum/lora_a, _b .*only \[": without(attn + "q_einsum/lora_b"),
        r"factors .* do not fit it": random_tree(SIZES, lora=(2, 2))
        | {attn + "q_einsum_1/lora_b": np.zeros((2, 6, 3, 8), np.float32)},
        r"expected arrays of float32.*, got action_in_proj/bias \(int8\)": random_tree(SIZES)
        | {"action_in_proj/bias": np.zeros(12, np.int8)},
        "expert.depth": random_tree(SIZES)
        | {
            f"{attn}{name}_1/w": np.zeros((3, *shape), np.float32)
            for name, shape in (("q_einsum", (6, 12, 8)), ("kv_einsum", (2, 2, 12, 8)))
        },
    }
    for message, tree in cases.items():
        with pytest.raises(FoveateError, match=message):
            read_pi0(kept(tree))
