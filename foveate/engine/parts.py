"""What compiled and captured stages share: a callable for every shape that was prepared, and none made on the way.

run = CompiledParts()
with run.preparing():
    model.prefill(prefix, run=run)     # makes what it meets
model.prefill(prefix, run=run)         # runs what is prepared; any other shape runs as written, and is counted
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveate.models.base import PrefixCache

Prepared = Callable[..., Any]
"""Called with the arguments of its part; raises `NotPrepared` where they are others than it was made for."""


class NotPrepared(Exception):
    """Something that the key does not know is another than it was."""


class Key(NamedTuple):
    """What a callable is made for."""

    part: Callable[..., Any]
    """A method of one module, with its weights."""
    arguments: tuple[Hashable, ...]
    """Shapes and types of tensors, None for an axis that may have any size; constants as they are."""


class PartModule(nn.Module):
    """A part as a module of its own, for what takes modules alone."""

    def __init__(self, part: Callable[..., Any]) -> None:
        """
        Args:
            part: a method of a module, or a module.
        """
        super().__init__()
        is_module = isinstance(part, nn.Module)
        self.model: nn.Module = part if is_module else part.__self__  # type: ignore[assignment,attr-defined]
        self.name = "forward" if is_module else part.__name__

    def forward(self, *arguments: Any) -> Any:
        return getattr(self.model, self.name)(*arguments)


class PreparedParts(ABC):
    """A `Run` that calls what was prepared of a part."""

    whole_loops = False
    """Whether a part that calls others is taken as a whole."""

    def __init__(self) -> None:
        self._made: dict[Key, Prepared] = {}
        self._preparing = False
        self.seconds = 0.0
        """Spent on preparing."""
        self.unprepared = 0
        """Calls of parts that ran as written, because nothing was prepared for their shapes."""

    def __len__(self) -> int:
        return len(self._made)

    @abstractmethod
    def _make(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Prepared, Any]:
        """A callable for arguments like these, and its result."""

    @abstractmethod
    def cache(self, cache: PrefixCache, longest: int) -> PrefixCache:
        """The cache in the one form in which parts that read it are prepared.

        Args:
            longest: tokens of the longest bucket.
        """

    def facts(self) -> dict[str, Any]:
        """What results say about it; plain values."""
        return {}

    def notes(self) -> list[str]:
        """What a user should know of what was prepared."""
        return []

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Make what is met and not there yet."""
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False

    def forget(self, tokens: int) -> None:
        """Drop what was made for static inputs of so many tokens."""
        for key in [key for key in self._made if key.arguments[0][1][1:2] == (tokens,)]:  # type: ignore[index]
            del self._made[key]

    def __call__(self, part: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(part, "loops", False) and not self.whole_loops:
            return part(*arguments, self)
        arguments = _settled(arguments)
        key = _key(part, arguments)
        made = self._made.get(key)
        if made is None and self._preparing:
            start = time.perf_counter()
            self._made[key], result = self._make(part, arguments)
            self.seconds += time.perf_counter() - start
            return result
        if made is None:
            return self._in_chunks(part, arguments)
        try:
            return made(*arguments)
        except NotPrepared:
            # Slow is better than late.
            self.unprepared += 1
            return part(*arguments)

    def _in_chunks(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """A batch of another size than was prepared: in chunks of a size that was, the last one filled up."""
        batch = len(arguments[0])
        sizes = {key.arguments[0][1][0] for key in self._made if key.part == part}  # type: ignore[index]
        size = max((size for size in sizes if size < batch), default=0)
        chunks = [_rows(arguments, batch, start, size) for start in range(0, batch, size)] if size else []
        if not chunks or _key(part, chunks[0]) not in self._made:
            self.unprepared += 1
            return part(*arguments)
        return _joined([self(part, *chunk) for chunk in chunks], batch)


def _key(part: Callable[..., Any], arguments: tuple[Any, ...]) -> Key:
    axes = free_axes(part)
    return Key(part, tuple(_shape(value, axes.get(i)) for i, value in enumerate(arguments)))


def free_axes(part: Callable[..., Any]) -> dict[int, int]:
    """Argument -> the axis along which its tensors may have any size."""
    axes: dict[int, int] = getattr(part, "any_length", {})
    return axes


def _shape(value: Any, axis: int | None = None) -> Hashable:
    if isinstance(value, Tensor):
        return value.dtype, tuple(None if i == axis else size for i, size in enumerate(value.shape))
    return tuple(_shape(one, axis) for one in value) if isinstance(value, tuple) else value


def tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_of(one)


def _settled(value: Any) -> Any:
    """The same arguments in one form for one shape: lists as tuples, and tensors `plain`."""
    if isinstance(value, Tensor):
        return plain(value)
    return tuple(map(_settled, value)) if isinstance(value, (tuple, list)) else value


def plain(tensor: Tensor) -> Tensor:
    """The same numbers as a new tensor of this shape has them: Dynamo guards every stride, also of an axis of one, the
    offset in memory, and whether a tensor was made in inference mode."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            break
        expected *= size
    else:
        if tensor.storage_offset() == 0 and tensor.is_inference() == torch.is_inference_mode_enabled():
            return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def plain_cache(cache: PrefixCache) -> PrefixCache:
    """A cache in the one form that a compiled part reads: keys and values as `plain` says, and a mask in any case."""
    first = [cache.keys_values[cache.runs.index(run)][0] for run in range(len(cache.masks))]
    masks: list[Tensor | None] = [
        keys.new_ones((keys.shape[0], keys.shape[2]), dtype=torch.bool) if mask is None else mask
        for mask, keys in zip(cache.masks, first, strict=True)
    ]
    return replace(cache, keys_values=[(plain(k), plain(v)) for k, v in cache.keys_values], masks=masks)


def _rows(value: Any, batch: int, start: int, size: int) -> Any:
    """The arguments of so many samples; behind the last one it again. What all samples share has another first axis."""
    if isinstance(value, Tensor):
        if len(value) != batch:
            return value
        return value[torch.arange(start, start + size, device=value.device).clamp_max(batch - 1)]
    return tuple(_rows(one, batch, start, size) for one in value) if isinstance(value, tuple) else value


def _joined(results: list[Any], batch: int) -> Any:
    """The results of several chunks, nested alike, as those of a batch."""
    if isinstance(results[0], Tensor):
        return torch.cat(results)[:batch]
    return type(results[0])(_joined(list(parts), batch) for parts in zip(*results, strict=True))
