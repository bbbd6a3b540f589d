import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import (
    INDEX,
    WEIGHTS,
    check_floats,
    copy_finite,
    find_weights,
    read_floats,
    read_header,
)


def shards(folder: Path) -> Path:
    """a and b in one shard, c in another."""
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.full((1,), 7.0)}, folder / "model-00002-of-00002.safetensors")
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": one, "b": one, "c": two}}))
    return folder / INDEX


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    index = shards(tmp_path)
    assert find_weights(tmp_path) == index
    header = read_header(index)
    assert {key: entry.shape for key, entry in header.items()} == {"a": (2,), "b": (3,), "c": (1,)}
    assert read_floats(header["c"]).tolist() == [7.0]
    save_file({"a": torch.zeros(2)}, tmp_path / WEIGHTS)
    assert find_weights(tmp_path) == tmp_path / WEIGHTS  # one whole file counts before shards


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../../etc/passwd"}, "shards stand beside their index"),
        ({"a": "/etc/passwd"}, "shards stand beside their index"),
        ({"a": 3}, "expected a text, got 3"),
        (["a"], "weight_map: expected an object"),
        (None, "weight_map: expected an object"),
        ({"a": "model-00003-of-00003.safetensors"}, r"model-00003-of-00003\.safetensors: no such file"),
        ({"a": "model-00001-of-00002.safetensors"}, r"differ in 1 key, such as 'b'"),
        (dict.fromkeys("abd", "model-00001-of-00002.safetensors"), r"differ in 1 key, such as 'd'"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, weight_map: object, message: str) -> None:
    shards(tmp_path).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(FoveateError, match=message):
        read_header(tmp_path / INDEX)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / WEIGHTS)
    with pytest.raises(FoveateError, match="no regular file"):
        read_header(tmp_path / WEIGHTS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FoveateError, match="no regular file"):
        read_header(tmp_path / "folder")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_is_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a": torch.tensor([0.5, -2.0], dtype=dtype)}, tmp_path / WEIGHTS)
    values = read_floats(read_header(tmp_path / WEIGHTS)["a"])
    assert values.dtype == torch.float32 and values.tolist() == [0.5, -2.0]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.bool, "BOOL"),
        (torch.int64, "I64"),
        (torch.float8_e4m3fn, "fp8, F8_E4M3"),
        (torch.float8_e5m2, "fp8, F8_E5M2"),
    ],
)
def test_what_is_no_float_is_refused_by_name(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    save_file({"good": torch.ones(1), "wrong": torch.ones(2).to(dtype)}, tmp_path / WEIGHTS)
    with pytest.raises(FoveateError, match=rf"stored as {name} \(1 key, such as 'wrong'\) are not supported"):
        check_floats(tmp_path / WEIGHTS, read_header(tmp_path / WEIGHTS))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e300])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_refused_with_its_key(tmp_path: Path, bad: float, target: torch.dtype) -> None:
    save_file({"x.weight": torch.tensor([[1.0, bad], [0.0, 2.0]], dtype=torch.float64)}, tmp_path / WEIGHTS)
    entry = read_header(tmp_path / WEIGHTS)["x.weight"]
    with pytest.raises(FoveateError, match=r"'x\.weight' holds NaN, infinity or what .* in 1 of 4 numbers"):
        copy_finite(torch.empty(2, 2, dtype=target), entry)


def test_an_empty_tensor_is_finite(tmp_path: Path) -> None:
    save_file({"x": torch.empty(0, 3)}, tmp_path / WEIGHTS)
    copy_finite(torch.empty(0, 3), read_header(tmp_path / WEIGHTS)["x"])
