"""Arrays of an orbax checkpoint, read one slice at a time, without JAX.

    tree = OrbaxTree.open("pi05_base")                 # the step folder, or its params/
    tree.arrays["action_in_proj/kernel"].shape
    for tensor in tree.arrays["PaliGemma/llm/layers/mlp/linear"].slices(): ...

orbax stores a tree as zarr arrays (v2 or v3) named `params.PaliGemma.llm...`, in an OCDBT database or as a folder each.
TensorStore, with which orbax itself reads and writes them, is all that reading needs: orbax would restore the whole
tree at once, its interface differs between versions, and it brings JAX.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.util.files import read_json
from foveate.util.words import plural

FLOATS = ("float32", "bfloat16", "float16", "float64")
"""Number formats that are read, as TensorStore names them."""
_DATABASE = "manifest.ocdbt"
_HEADERS = {"/.zarray": "zarr", "/zarr.json": "zarr3"}
"""What the metadata of an array end in -> TensorStore's driver."""


@dataclass(frozen=True)
class OrbaxArray:
    """One array of the tree; nothing of it is read until it is asked for."""

    key: str
    """As the checkpoint has it: `params.action_in_proj.kernel.value`."""
    shape: tuple[int, ...]
    dtype: str
    """One of `FLOATS`."""
    chunk: tuple[int, ...]
    """Shape of the pieces in which it is stored."""
    spec: Mapping[str, Any]
    """For TensorStore."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def slices(self) -> Iterator[Tensor]:
        """The entries of its first axis, in order, each in its own format.

        Pieces that hold several entries are decoded once and kept until the iterator is done with them.

        Raises:
            FoveateError: its data are damaged or gone.
        """
        ts = _tensorstore()
        band = min(self.chunk[0], self.shape[0]) * math.prod(self.shape[1:])
        context = ts.Context({"cache_pool": {"total_bytes_limit": 8 * band + 2**20}})
        store = self._do(
            lambda: ts.open(dict(self.spec), context=context, recheck_cached_data=False, read=True).result()
        )
        for i in range(self.shape[0]):
            yield self._tensor(self._do(lambda i=i: store[i].read().result()))

    def read(self) -> Tensor:
        """The whole array, in its own format; errors as of `slices`."""
        return self._tensor(self._do(lambda: _tensorstore().open(dict(self.spec), read=True).result().read().result()))

    def _do(self, read: Any) -> Any:
        try:
            return read()
        except (ValueError, OSError) as error:
            raise FoveateError(
                f"{self.key}: its data cannot be read ({_first_line(error)}); copy or download the checkpoint again"
            ) from None

    def _tensor(self, values: np.ndarray) -> Tensor:
        values = np.ascontiguousarray(values).reshape(values.shape)  # an array without axes would get one
        if self.dtype == "bfloat16":  # NumPy has no such format of its own
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)


@dataclass(frozen=True)
class OrbaxTree:
    """A checkpoint's parameters."""

    folder: Path
    """That of the parameters."""
    arrays: Mapping[str, OrbaxArray]
    """Path below the tree's top `params`, without the level `value`: `PaliGemma/llm/final_norm/scale`."""
    others: tuple[str, ...] = ()
    """Keys of arrays outside `params`."""

    @property
    def step(self) -> Path:
        """The folder with the assets: that of the training step, or of the published checkpoint."""
        return self.folder.parent if self.folder.name == "params" else self.folder

    @classmethod
    def open(cls, path: str | Path) -> OrbaxTree:
        """List a checkpoint's arrays; no data are read.

        Args:
            path: folder of a step or of a published checkpoint, or the `params` in it.
        Raises:
            FoveateError: no orbax checkpoint is there, or not a whole one.
        """
        folder = _params_folder(Path(path))
        spec, keys = _list(folder)
        objects = Counter(key.partition("/")[0] for key in keys)
        found = {key.removesuffix(end): driver for key in keys for end, driver in _HEADERS.items() if key.endswith(end)}
        if not found:
            raise FoveateError(f"{folder}: an orbax folder without arrays; copy or download the checkpoint again")
        arrays = {name: _array(folder, spec, name, driver) for name, driver in found.items()}
        if _complete(folder):
            for name, array in arrays.items():
                _check_pieces(folder, array, objects[name] - 1)
        names = _below_params(arrays)
        others = tuple(sorted(set(arrays) - {array.key for array in names.values()}))
        return cls(folder, names, others)


def _params_folder(path: Path) -> Path:
    if not path.is_dir():
        remote = "; copy it to this machine first" if "://" in str(path) or str(path).startswith("gs:/") else ""
        raise FoveateError(f"{path}: no such checkpoint folder{remote}")
    for folder in (path / "params", path):
        if _is_orbax(folder):
            return folder
    begun = [p for p in path.glob("params*") if p.is_dir()]
    steps = sorted(
        (p for p in path.iterdir() if p.name.isdigit() and _is_orbax(p / "params")), key=lambda p: int(p.name)
    )
    if steps:
        hint = f"it holds {plural(len(steps), 'training step')}: name one of them, as {steps[-1]}"
    elif (path / "model.safetensors").exists():
        hint = "it holds model.safetensors, so it is a PyTorch folder already: see `foveate inspect`"
    elif any((folder / "checkpoint").is_file() for folder in (*begun, path)):
        hint = "its arrays are in one msgpack file, as orbax wrote them before 2023: save it anew with a later orbax"
    elif any("tmp" in p.name for p in begun) or any(p.glob("ocdbt.process_*") for p in begun if p.name == "params"):
        hint = "its saving did not come to an end: take an earlier step"
    else:
        hint = f"it holds {sorted(p.name for p in path.iterdir())[:8]}"
    raise FoveateError(
        f"{path}: no orbax checkpoint (params/ with {_DATABASE}, or with an array in each folder); {hint}"
    )


def _is_orbax(folder: Path) -> bool:
    return (folder / _DATABASE).is_file() or any(
        next(folder.glob(f"*{header}"), None) is not None for header in _HEADERS
    )


def _list(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """TensorStore's spec of the key-value store, and its keys."""
    files = {"driver": "file", "path": f"{folder.resolve()}/"}
    spec: dict[str, Any] = {"driver": "ocdbt", "base": files} if (folder / _DATABASE).is_file() else files
    try:
        keys = _tensorstore().KvStore.open(spec).result().list().result()
    except (ValueError, OSError) as error:
        raise FoveateError(
            f"{folder}: the checkpoint's database is damaged or not whole ({_first_line(error)}); copy or download it "
            "again"
        ) from None
    return spec, [key.decode() for key in keys]


def _array(folder: Path, spec: Mapping[str, Any], name: str, driver: str) -> OrbaxArray:
    kvstore = {**spec, "path": f"{spec.get('path', '')}{name}/"}
    try:
        store = _tensorstore().open({"driver": driver, "kvstore": kvstore}, read=True).result()
    except (ValueError, OSError) as error:
        raise FoveateError(f"{folder}: {name}: {_first_line(error)}; copy or download the checkpoint again") from None
    chunk = tuple(store.chunk_layout.write_chunk.shape or store.shape)
    return OrbaxArray(name, tuple(store.shape), store.dtype.name, chunk, {"driver": driver, "kvstore": kvstore})


def _complete(folder: Path) -> bool:
    """Whether every piece was written, those of zeros too; else a missing piece may stand for zeros."""
    file = folder / "_METADATA"
    return file.exists() and bool(read_json(file).get("store_array_data_equal_to_fill_value"))


def _check_pieces(folder: Path, array: OrbaxArray, there: int) -> None:
    """TensorStore reads a piece that is missing as zeros."""
    pieces = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunk, strict=True))
    if there < pieces:
        raise FoveateError(
            f"{folder}: {array.key}: {there} of {pieces} pieces are there; copy or download the checkpoint again"
        )


def _below_params(arrays: Mapping[str, OrbaxArray]) -> dict[str, OrbaxArray]:
    """Arrays by their paths in the tree `params`, without the last level `value`, which all have or none."""
    paths = {tuple(key.split(".")): array for key, array in arrays.items()}
    if any(path[0] == "params" for path in paths):
        paths = {path[1:]: array for path, array in paths.items() if path[0] == "params"}
    if all(path[-1] == "value" for path in paths):
        paths = {path[:-1]: array for path, array in paths.items()}
    return {"/".join(path): array for path, array in sorted(paths.items())}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].partition(" [")[0] if str(error) else type(error).__name__


def _tensorstore() -> ModuleType:
    try:
        import tensorstore
    except ImportError as error:
        raise FoveateError(
            f"orbax checkpoints are read with TensorStore, which is not installed ({error}); run: pip install "
            '"foveate[convert]"'
        ) from None
    module: ModuleType = tensorstore
    return module
