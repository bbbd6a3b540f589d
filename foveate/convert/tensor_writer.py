"""A safetensors file whose tensors come one at a time and in any order, so that no more than one is in memory.

    with TensorWriter(path, {"a": Slot((2, 3), torch.float32)}) as file:
        file.write("a", tensor)

safetensors itself writes a whole dict at once. The format (https://huggingface.co/docs/safetensors): a length, a header
in JSON, the data without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from foveate.errors import FoveateError

FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Number format -> what safetensors calls it."""


class Slot(NamedTuple):
    """What is to come."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorWriter:
    """A file of known size that is filled; it is whole when the block ends without an error."""

    def __init__(self, path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str] | None = None) -> None:
        """
        Args:
            slots: every tensor of the file.
            metadata: of the header; `{"format": "pt"}` where None.
        Raises:
            OSError: the disk has not room enough (where the system can tell at once), or the file cannot be made.
        """
        self.slots = dict(slots)
        self._places: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
        end = 0
        # The widest formats first, so that every tensor begins at a multiple of its numbers' size.
        for name, slot in sorted(self.slots.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
            begin, end = end, end + math.prod(slot.shape) * slot.dtype.itemsize
            self._places[name] = begin
            header[name] = {"dtype": FORMATS[slot.dtype], "shape": list(slot.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._left = set(self.slots)
        self._file = path.open("wb")
        try:
            self._file.write(len(text).to_bytes(8, "little") + text)
            self._file.flush()
            size = self._start + end
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, size)
            self._file.truncate(size)
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a tensor in its place, converted to the slot's format.

        Raises:
            FoveateError: another shape than announced, NaN or infinity, or the format cannot hold a number.
        """
        if name not in self.slots:
            raise FoveateError(f"{name}: no tensor of the model")
        slot = self.slots[name]
        if tuple(tensor.shape) != slot.shape:
            raise FoveateError(f"{name}: expected shape {slot.shape}, got {tuple(tensor.shape)}")
        values = tensor.detach().to(slot.dtype).contiguous()
        if values.is_floating_point() and values.numel() and not torch.stack(values.aminmax()).isfinite().all():
            bad, kind = int((~values.isfinite()).sum()), str(slot.dtype).removeprefix("torch.")
            raise FoveateError(f"{name}: NaN, infinity or what {kind} cannot hold in {bad} of {values.numel()} numbers")
        self._file.seek(self._start + self._places[name])
        self._file.write(values.reshape(-1).view(torch.uint8).numpy().data)
        self._left.discard(name)

    def write_zeros(self, name: str) -> None:
        """Leave a tensor as the file was made: zeros."""
        self._left.discard(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise FoveateError(f"tensors that were announced and not written: {sorted(self._left)[:8]}")
