"""openpi's JAX trees for tests: random ones of any size, in memory or on disk in orbax's layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foveate.models.pi0.config import Pi0Config


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


def write_orbax(
    folder: Path,
    tree: Mapping[str, np.ndarray],
    *,
    value: bool = True,
    database: bool = True,
    zarr: int = 2,
    pieces: int = 1,
    dtype: str | None = None,
) -> Path:
    """Write a tree as orbax does; needs tensorstore.

    Args:
        folder: of the training step; the tree goes into its `params`.
        value: whether each array lies below a last level `value`.
        database: OCDBT; False: a folder for each array.
        zarr: version of the format.
        pieces: into how many pieces the last axis is cut, as several devices do.
        dtype: of all arrays; None: their own.
    """
    import tensorstore as ts

    params = folder / "params"
    params.mkdir(parents=True)
    files = {"driver": "file", "path": f"{params}/"}
    store: dict[str, Any] = {"driver": "ocdbt", "base": files} if database else files
    for name, values in tree.items():
        key = ".".join(["params", *name.split("/"), *(["value"] if value else [])])
        shape = list(values.shape)
        chunk = [*shape[:-1], -(-shape[-1] // pieces)]
        spec = {
            "driver": "zarr" if zarr == 2 else "zarr3",
            "kvstore": {**store, "path": f"{store.get('path', '')}{key}/"},
            "dtype": dtype or values.dtype.name,
            "schema": {"domain": {"shape": shape}, "chunk_layout": {"write_chunk": {"shape": chunk}}},
            "store_data_equal_to_fill_value": True,
            "create": True,
        }
        array = ts.open(spec).result()
        array.write(values.astype(array.dtype.numpy_dtype)).result()
    metadata = {"use_zarr3": zarr == 3, "store_array_data_equal_to_fill_value": True}
    (params / "_METADATA").write_text(json.dumps(metadata))
    return folder
