"""CUDA graphs, part by part: captured once for each shape, replayed with one launch in place of one per kernel.

    run = CapturedParts()
    with run.preparing():
        model.prefill(prefix, run=run)     # captures what it meets
    model.prefill(prefix, run=run)         # copies its inputs into the graph's own, and replays

A graph reads and writes memory of its own: inputs are copied in, and results are copied out, because the next replay
overwrites them. All denoising steps are one graph; it reads a cache as long as the longest bucket, behind whose real
tokens the mask is False.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from foveate.engine.parts import Prepared, PreparedParts, plain_cache, tensors_of
from foveate.models.base import PrefixCache

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Any]], tuple[Replay, Any]]
"""From a function of no arguments to what computes it again in place, and its result, which that overwrites."""
WARM_UP = 3
"""Calls before a capture: libraries choose their kernels and allocate their workspaces in them."""


def cuda_graph(function: Callable[[], Any]) -> tuple[Replay, Any]:
    """A `Capture` on the current CUDA device."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


class CapturedParts(PreparedParts):
    """A `Run` that replays a part's graph."""

    whole_loops = True

    def __init__(self, capture: Capture = cuda_graph) -> None:
        super().__init__()
        self._capture = capture

    def cache(self, cache: PrefixCache, longest: int) -> PrefixCache:
        """Filled up to the longest bucket; a longer one stays as it is, and its decoding is not prepared."""
        cache = plain_cache(cache)
        keys_values: list[tuple[torch.Tensor, torch.Tensor]] = []
        masks: list[torch.Tensor | None] = []
        for keys, values in cache.keys_values:
            room = (0, 0, 0, max(0, longest - keys.shape[2]))
            keys_values.append((F.pad(keys, room), F.pad(values, room)))
        for mask in cache.masks:
            assert mask is not None
            masks.append(F.pad(mask, (0, max(0, longest - mask.shape[1])), value=False))
        return dataclasses.replace(cache, keys_values=keys_values, masks=masks)

    def _make(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Prepared, Any]:
        own = _copied(arguments)
        inputs = list(tensors_of(own))
        replay, result = self._capture(lambda: part(*own))

        def prepared(*arguments: Any) -> Any:
            torch._foreach_copy_(inputs, list(tensors_of(arguments)), non_blocking=True)
            replay()
            return _copied(result)

        return prepared, prepared(*arguments)


def _copied(value: Any) -> Any:
    """The same, with tensors of its own."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(map(_copied, value)) if isinstance(value, (tuple, list)) else value
