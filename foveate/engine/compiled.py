"""torch.compile, layer by layer: one callable for every shape that was prepared, and none that compiles by itself.

    run = CompiledLayers()
    with run.preparing():
        model.prefill(prefix, run=run)     # compiles what it meets
    model.prefill(prefix, run=run)         # runs what is prepared; any other shape runs as written, and is counted

The layers of a stack have the same code and shapes, so one of them is compiled and all of them run by it: seconds
where the unrolled stack takes minutes. Shapes are static, but for the length of a cache that a layer reads: denoising
is one callable for all buckets.

Each callable has a code object of its own: Dynamo counts recompilations by code object, and after eight of them it
silently runs what was written. `fullgraph` makes that an error.
"""

from __future__ import annotations

import os
import tempfile
import time
import types
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from foveate.errors import FoveateError
from foveate.models.base import PrefixCache
from foveate.models.common.layers import as_written
from foveate.util.files import user_cache

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: the folder that compiled code is kept in between runs."""


def missing_compiler() -> str | None:
    """Why nothing can be compiled for a CPU here; None: it can."""
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "there is no C++ compiler; install g++ (or name one by CXX)"
    return None


def keep_code() -> str | None:
    """Let compiled code be kept in the user's cache folder, or where `TORCHINDUCTOR_CACHE_DIR` says.

    Returns:
        What to tell the user, where the folder cannot be written: then code is kept for this run alone.
    """
    folder = Path(os.environ.get(CACHE) or user_cache() / "inductor")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="foveate-inductor-")
        return (
            f"{folder}: compiled code cannot be kept there ({error.strerror or error}), so every run compiles anew; "
            f"set {CACHE} to a writable folder"
        )
    os.environ[CACHE] = str(folder)
    return None


MASK, PAST = 2, 3
"""Where a layer that attends takes its mask and the cache that it reads: x, rope, mask, past."""


class Key(NamedTuple):
    """What a callable is made for."""

    kind: Hashable
    """The layer's class and the shapes of its weights."""
    shape: torch.Size
    """Of x."""
    dtype: torch.dtype
    mask_rows: int | None
    """1: a mask of the keys alone; None: no mask."""
    reads_cache: bool
    """Whose length may then be any."""
    modulated: bool


def _argument(tensors: tuple[Any, ...], place: int) -> Any:
    return tensors[place] if len(tensors) > place else None


class CompiledLayers:
    """A `Run` that calls a layer's compiled form."""

    def __init__(self, backend: str = "inductor") -> None:
        """
        Args:
            backend: of torch.compile; `eager` traces and guards, and generates no code.
        """
        self._backend = backend
        self._made: dict[Key, Callable[..., Any]] = {}
        self._kinds: dict[nn.Module, Hashable] = {}
        self._preparing = False
        self.seconds = 0.0
        """Spent on compiling, or on reading what an earlier run compiled."""
        self.unprepared = 0
        """Calls of layers that ran as written, because nothing was prepared for their shapes."""

    def __len__(self) -> int:
        return len(self._made)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Compile what is met and not there yet."""
        self._preparing = True
        try:
            with torch._dynamo.config.patch(recompile_limit=1):
                yield
        finally:
            self._preparing = False

    def forget(self, tokens: int) -> None:
        """Drop what was compiled for static inputs of so many tokens."""
        gone = [key for key in self._made if not key.reads_cache and key.shape[1:2] == (tokens,)]
        for key in gone:
            del self._made[key]

    def __call__(self, layer: nn.Module, *tensors: Any) -> Any:
        tensors = _settled(tensors)
        key = self._key(layer, tensors)
        if self._preparing and key not in self._made:
            return self._prepare(layer, key, tensors)
        made = self._made.get(key)
        if made is None:
            return self._by_rows(layer, tensors)
        with torch.compiler.set_stance("default" if self._preparing else "fail_on_recompile"):
            try:
                return made(layer, *tensors)
            except Exception as error:  # torch has no class for it
                if "recompile" not in str(error):
                    raise
        # Something that the key does not know is another: slow is better than late.
        self.unprepared += 1
        return layer(*tensors)

    def _key(self, layer: nn.Module, tensors: tuple[Any, ...]) -> Key:
        kind = self._kinds.get(layer)
        if kind is None:
            weights = tuple((name, w.shape, w.dtype) for name, w in layer.named_parameters())
            kind = self._kinds[layer] = (type(layer), weights)
        x, mask, past = tensors[0], _argument(tensors, MASK), _argument(tensors, PAST)
        rows = None if mask is None else mask.shape[-2]
        return Key(kind, x.shape, x.dtype, rows, past is not None, _argument(tensors, PAST + 1) is not None)

    def _prepare(self, layer: nn.Module, key: Key, tensors: tuple[Any, ...]) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # a second of imports

        start = time.perf_counter()
        past = _argument(tensors, PAST)
        if past is not None:
            for tensor, axis in ((past[0], 2), (past[1], 2), (tensors[MASK], 3)):
                if tensor is not None:
                    torch._dynamo.mark_dynamic(tensor, axis)
        made = self._made[key] = torch.compile(
            _own_code(as_written, f"layer_{len(self._made)}"),
            dynamic=False if past is None else None,
            fullgraph=True,
            backend=self._backend,
        )
        try:
            result = made(layer, *tensors)
        except TorchDynamoException as error:
            del self._made[key]
            reason = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise FoveateError(
                f"{type(layer).__name__} of shape {tuple(key.shape)} cannot be compiled here ({reason[:200]}); choose "
                "--engine eager"
            ) from error
        self.seconds += time.perf_counter() - start
        if tensors[0].shape[0] > 1:
            self(layer, *_row(tensors, 0, tensors[0].shape[0]))
        return result

    def _by_rows(self, layer: nn.Module, tensors: tuple[Any, ...]) -> Any:
        """A batch of another size than was prepared: sample by sample, where one alone was."""
        batch = tensors[0].shape[0]
        if batch == 1 or self._key(layer, _row(tensors, 0, batch)) not in self._made:
            self.unprepared += 1
            return layer(*tensors)
        results = [self(layer, *_row(tensors, b, batch)) for b in range(batch)]
        return _joined(results)


def _own_code(function: Any, name: str) -> Callable[..., Any]:
    """The function with a code object of its own."""
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)


def _row(tensors: tuple[Any, ...], b: int, batch: int) -> tuple[Any, ...]:
    """The arguments of one sample; what is the same for all samples has no batch axis of that size."""
    row: tuple[Any, ...] = tree_map_only(Tensor, lambda t: t[b : b + 1].clone() if t.shape[0] == batch else t, tensors)
    return row


def _settled(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """x and modulation in one layout for one shape. Patches come transposed out of a convolution, and a step's
    modulation is a slice of that of all steps."""
    x, *others = tensors
    if len(others) > PAST and others[PAST] is not None:
        others[PAST] = tuple(map(plain, others[PAST]))
    return (plain(x), *others)


def plain(tensor: Tensor) -> Tensor:
    """The same numbers in the layout that a new tensor of this shape has: Dynamo guards every stride, also of an axis
    of one, and the offset in memory."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            break
        expected *= size
    else:
        if tensor.storage_offset() == 0:
            return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def plain_cache(cache: PrefixCache) -> PrefixCache:
    """A cache whose keys and values have one layout in all layers, so that one callable reads them all."""
    return replace(cache, keys_values=[(plain(k), plain(v)) for k, v in cache.keys_values])


def _joined(results: list[Any]) -> Any:
    """The results of several samples, nested alike, as those of a batch."""
    if isinstance(results[0], Tensor):
        return torch.cat(results)
    return tuple(_joined(list(parts)) for parts in zip(*results, strict=True))
