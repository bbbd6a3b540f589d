"""What one inference computes and reads, stage by stage, as PyTorch is asked for it: products by shape, FLOP, bytes.

    work = count_work(policy, observation)
    work["prefill"].flop, work["prefill"].bytes, work["prefill"].products

No model is known: every operation of an eager inference passes by. Norms, activations and copies are not counted; at
the published sizes they are below one percent of the FLOP.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foveate.engine.registry import make_engine
from foveate.policy import Policy
from foveate.types import Observation

Shape = tuple[int, int, int]
"""m, k, n of a product [m, k] x [k, n]."""
COUNTED = ("vision", "prefill", "denoise")
ATTENTION = "scaled_dot_product"
aten = torch.ops.aten


@dataclass
class Work:
    """Of one stage."""

    products: Counter[Shape] = field(default_factory=Counter)
    """Products with weights, and how often each is computed."""
    flop: float = 0.0
    """Floating point operations of all products, those of attention included; 2 m k n each."""
    bytes: float = 0.0
    """Weights that products read, and keys and values that attention reads, each as often as it is read."""
    weights: dict[int, int] = field(default_factory=dict, repr=False)
    """Address -> bytes of each weight, however often it is read."""

    @property
    def working_set(self) -> int:
        """Bytes of all its weights: whether they fit into a cache decides how fast they are read again."""
        return sum(self.weights.values())


class _Counting(TorchDispatchMode):
    """Sees every operation while it is on."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.stage = weights, ""
        self.work = {stage: Work() for stage in COUNTED}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.stage:
            name = func.overloadpacket.__name__
            if name in ("mm", "addmm"):
                self._product(args[-2], args[-1], batch=1)
            elif name in ("bmm", "baddbmm"):
                self._product(args[-2], args[-1], batch=args[-1].shape[0])
            elif name == "convolution":
                self._convolution(args[0], args[1], args[3])
            elif ATTENTION in name:
                self._attention(*args[:3])
            elif name not in ("linear", "matmul", "conv2d"):  # made of those above
                return func(*args, **kwargs)
            else:
                with self:
                    made: Any = func.decompose(*args, **kwargs)
                if made is not NotImplemented:
                    return made
        return func(*args, **kwargs)

    def _product(self, a: Tensor, b: Tensor, batch: int) -> None:
        work, (m, k), n = self.work[self.stage], a.shape[-2:], b.shape[-1]
        work.flop += 2.0 * batch * m * k * n
        read = [t for t in (a, b) if t.untyped_storage().data_ptr() in self.weights]
        for weight in read:
            self._read(weight)
        if read:
            work.products[m, k, n] += batch
        elif batch > 1:  # attention written out
            work.bytes += b.numel() * b.element_size()

    def _convolution(self, x: Tensor, weight: Tensor, stride: Sequence[int]) -> None:
        work = self.work[self.stage]
        places = x.shape[0] * math.prod(size // s for size, s in zip(x.shape[2:], stride, strict=True))
        m, k, n = places, math.prod(weight.shape[1:]), weight.shape[0]
        work.flop += 2.0 * m * k * n
        work.products[m, k, n] += 1
        self._read(weight)

    def _read(self, weight: Tensor) -> None:
        work, size = self.work[self.stage], weight.numel() * weight.element_size()
        work.bytes += size
        work.weights[weight.data_ptr()] = size

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        work = self.work[self.stage]
        heads, rows, width = math.prod(q.shape[:-2]), q.shape[-2], q.shape[-1]
        work.flop += 2.0 * heads * rows * k.shape[-2] * (width + v.shape[-1])
        work.bytes += sum(t.numel() * t.element_size() for t in (k, v))


class _Watched:
    """A model whose stages are told to the counter."""

    def __init__(self, model: Any, counting: _Counting) -> None:
        self._model, self._counting = model, counting
        self.embed_prefix = self._within("vision", model.embed_prefix)
        self.prefill = self._within("prefill", model.prefill)
        self.decode = self._within("denoise", model.decode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _within(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before, self._counting.stage = self._counting.stage, stage
            try:
                return method(*args, **kwargs)
            finally:
                self._counting.stage = before

        return run


@contextmanager
def _counted(policy: Policy) -> Iterator[_Counting]:
    model: Any = policy.engine.model
    counting = _Counting({p.untyped_storage().data_ptr() for p in model.parameters()})
    engine = policy.engine
    policy.engine = make_engine(_Watched(model, counting))  # type: ignore[arg-type]
    try:
        with counting:
            yield counting
    finally:
        policy.engine = engine


def count_work(policy: Policy, observation: Observation) -> dict[str, Work]:
    """Stage -> what an eager inference of the policy on this observation computes, pruned as the policy is."""
    with _counted(policy) as counting:
        policy.infer(observation, session="work")
    policy.reset("work")
    return counting.work
