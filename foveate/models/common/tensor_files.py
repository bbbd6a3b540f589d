"""Tensors in safetensors files: one file, or shards with an index. Headers alone are read until a tensor is asked for.

A checkpoint comes from somewhere else: a name in it never leads out of its folder, nothing but whole files is opened,
and what is no number format of floats is refused rather than converted (int8 weights read as floats are noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import FoveateError
from foveate.util.checks import of_type, shown
from foveate.util.files import read_json
from foveate.util.words import plural

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
"""Number formats that are read, as safetensors names them."""


class Stored(NamedTuple):
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: F32, BF16."""
    file: Path
    key: str


def find_weights(folder: Path) -> Path | None:
    """`model.safetensors`, or the index of its shards; None: neither is there."""
    return next((folder / name for name in (WEIGHTS, INDEX) if (folder / name).exists()), None)


def read_header(path: Path) -> dict[str, Stored]:
    """Key -> where and how it is stored; no tensor is read.

    Args:
        path: a safetensors file, or the `.index.json` of its shards.
    Raises:
        FoveateError: a file is missing, cut short or no safetensors file, or the index and its shards differ.
    """
    if path.suffix != ".json":
        return _read_file(path)
    of_key = of_type(f"{path}: weight_map", read_json(path).get("weight_map"), dict)
    files = sorted({of_type(f"{path}: {shown(key)}", name, str) for key, name in of_key.items()})
    if away := [name for name in files if Path(name).name != name]:
        raise FoveateError(f"{path}: shards stand beside their index, got {shown(away[0])}; copy the whole folder")
    header: dict[str, Stored] = {}
    for name in files:
        shard = _read_file(path.parent / name)
        wrong = {key for key in shard if of_key.get(key) != name} ^ {
            key for key in of_key if of_key[key] == name
        } - set(shard)
        if wrong:
            raise FoveateError(
                f"{path}: it and {name} differ in {plural(len(wrong), 'key')}, such as {min(wrong)!r}; copy the whole "
                "folder"
            )
        header |= shard
    return header


def _read_file(path: Path) -> dict[str, Stored]:
    if not path.exists():
        raise FoveateError(f"{path}: no such file; copy the whole checkpoint folder")
    if not path.is_file():
        raise FoveateError(f"{path}: expected a safetensors file, and this is no regular file")
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: Stored(tuple(s.get_shape()), s.get_dtype(), path, key) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise FoveateError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None


def check_floats(path: Path, stored: Mapping[str, Stored]) -> None:
    """Raises FoveateError where a tensor is not stored in a format of `FLOATS`."""
    strange: dict[str, list[str]] = {}
    for entry in stored.values():
        if entry.dtype not in FLOATS:
            strange.setdefault(entry.dtype, []).append(entry.key)
    if strange:
        kinds = [
            f"{_called(dtype)} ({plural(len(keys), 'key')}, such as {keys[0]!r})" for dtype, keys in strange.items()
        ]
        raise FoveateError(
            f"{path}: weights stored as {', '.join(kinds)} are not supported; convert them to one of "
            f"{', '.join(FLOATS)}, with the scales that they were quantised by"
        )


def _called(dtype: str) -> str:
    return f"fp8, {dtype}" if dtype.startswith("F8") else dtype


def read_tensor(entry: Stored) -> Tensor:
    """The tensor, in its own format.

    The file is opened anew each time: pages of the map that were read are given back when it closes.
    """
    with safe_open(entry.file, "pt") as file:
        found: Tensor = file.get_tensor(entry.key)
        return found


def copy_finite(target: Tensor, entry: Stored) -> None:
    """Fill `target` [same shape] with a stored tensor.

    Raises:
        FoveateError: a number is NaN, infinite, or too large for the target's format.
    """
    with safe_open(entry.file, "pt") as file:
        target.copy_(file.get_tensor(entry.key))
    # The least and the largest number tell NaN and infinity in one pass; nothing is allocated.
    if target.numel() and not torch.stack(target.aminmax()).isfinite().all():
        bad, format_ = int((~target.isfinite()).sum()), str(target.dtype).removeprefix("torch.")
        raise FoveateError(
            f"{entry.file}: {entry.key!r} holds NaN, infinity or what {format_} cannot hold, in {bad} of "
            f"{target.numel()} numbers; copy the file again, or take an earlier checkpoint"
        )


def read_floats(entry: Stored) -> Tensor:
    """The tensor as float32, whatever float format it is stored in.

    Raises:
        FoveateError: another format, or a number that is not finite.
    """
    check_floats(entry.file, {entry.key: entry})
    values = torch.empty(entry.shape)
    copy_finite(values, entry)
    return values
