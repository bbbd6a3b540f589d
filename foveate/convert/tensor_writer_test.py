"""A file that is filled tensor by tensor, as safetensors reads it."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from foveate.convert.tensor_writer import Slot, TensorWriter
from foveate.errors import FoveateError


def test_any_order_and_every_format(tmp_path):
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "whole": torch.arange(6).reshape(2, 3),
        "double": torch.randn(2, dtype=torch.float64),
    }
    slots = {name: Slot(tuple(t.shape), t.dtype) for name, t in tensors.items()} | {"zeros": Slot((2,), torch.float32)}
    path = tmp_path / "x.safetensors"
    with TensorWriter(path, slots) as file:
        for name in reversed(tensors):
            file.write(name, tensors[name].float() if name == "half" else tensors[name])
        file.write_zeros("zeros")
    with safe_open(path, "pt") as read:
        assert set(read.keys()) == set(slots) and read.metadata() == {"format": "pt"}
        for name, tensor in (tensors | {"zeros": torch.zeros(2)}).items():
            found = read.get_tensor(name)
            assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


def test_what_does_not_belong(tmp_path):
    slots = {"a": Slot((2, 2), torch.float16), "b": Slot((1,), torch.float32)}
    with pytest.raises(FoveateError, match=r"not written: \['b'\]"), TensorWriter(tmp_path / "x", slots) as file:
        file.write("a", torch.ones(2, 2))
    with TensorWriter(tmp_path / "x", {"a": slots["a"]}) as file:
        with pytest.raises(FoveateError, match=r"a: expected shape \(2, 2\), got \(4,\)"):
            file.write("a", torch.ones(4))
        with pytest.raises(FoveateError, match="c: no tensor of the model"):
            file.write("c", torch.ones(4))
        with pytest.raises(FoveateError, match="NaN, infinity or what float16 cannot hold in 1 of 4"):
            file.write("a", torch.tensor([[1, 2], [3, 1e6]]))
        file.write("a", torch.ones(2, 2))
