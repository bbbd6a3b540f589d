"""Trees of orbax in every layout, read array by array. Needs tensorstore, which writes them here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorstore", reason='needs tensorstore: pip install "foveate[convert]"')

from foveate.convert.jax_tree_test import random_tree
from foveate.convert.orbax import OrbaxTree
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig

pytestmark = pytest.mark.peer

STACK = GemmaConfig(width=20, depth=2, mlp_dim=28, num_heads=6, num_kv_heads=2, head_dim=8)
SMALL = Pi0Config(
    pi05=False,
    action_dim=8,
    action_horizon=5,
    max_token_len=48,
    vocab_size=1024,
    llm=STACK,
    expert=dataclasses.replace(STACK, width=12),
    vision=VisionConfig(16, 1, 2, 32, patch_size=56, image_size=224, projection_dim=20),
)


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


@pytest.mark.parametrize("database", [True, False])
@pytest.mark.parametrize("zarr", [2, 3])
@pytest.mark.parametrize("value", [True, False])
def test_layouts_of_orbax(tmp_path, database, zarr, value):
    tree = random_tree(SMALL, lora=(2, 0))
    write_orbax(tmp_path / "step", tree, value=value, database=database, zarr=zarr, pieces=3)
    found = OrbaxTree.open(tmp_path / "step").arrays
    assert found.keys() == tree.keys()
    for name, values in tree.items():
        np.testing.assert_array_equal(found[name].read().numpy(), values)
        np.testing.assert_array_equal(np.stack([part.numpy() for part in found[name].slices()]), values)


def test_a_step_and_its_params_are_one_checkpoint(tmp_path):
    step = write_orbax(tmp_path / "100", {"a": np.ones(2, np.float32)})
    assert OrbaxTree.open(step).step == OrbaxTree.open(step / "params").step == step
