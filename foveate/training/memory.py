"""What a training step keeps in memory, counted before it is run: on tensors that have a shape and no numbers.

    with shapes_alone():
        module, batch = ..., ...                 # of any size; nothing is allocated
        memory = step_memory(module, batch, autocast=True)

The forward pass itself is run, so that what autograd saves for the backward pass is counted and not guessed. Attention
is taken to save what fused kernels do: queries, keys, values, the output and a float32 number per query.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one process."""

    parameters: int
    gradients: int
    """float32, of what trains and has one: of a backbone's last layer a part is not used."""
    optimizer: int
    """AdamW's two moments."""
    average: int
    """The moving average of the weights."""
    activations: int
    """Saved for the backward pass, of one portion of the batch."""
    gathered: int = 0
    """In parts (FSDP2): weights that are whole for a while, and their gradients before they are parts."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.average + self.activations + self.gathered


def in_parts(memory: StepMemory, module: nn.Module, units: Sequence[Sequence[nn.Module]], processes: int) -> StepMemory:
    """The same step, its module spread over processes.

    The rest beside the units stays gathered; of the units two are at a time, since the next is fetched early, and one
    has its whole gradient.
    """
    weights = {parameter: parameter.nbytes for parameter in module.parameters()}
    sizes = []
    for unit in units:
        mine = {p for part in unit for p in part.parameters() if p in weights}
        sizes.append((sum(weights.pop(p) for p in mine), sum(p.nbytes for p in mine if p.requires_grad)))
    rest = sum(weights.values()), sum(size for p, size in weights.items() if p.requires_grad)
    largest = max((size for size, _ in sizes), default=0)
    gathered = rest[0] + 2 * largest + max(grown for _, grown in (*sizes, rest))

    def share(size: int) -> int:
        return -(-size // processes)

    return StepMemory(
        share(memory.parameters),
        share(memory.gradients),
        share(memory.optimizer),
        share(memory.average),
        memory.activations,
        gathered,
    )


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Inside, new tensors have no storage, and attention is a stand-in that saves what a fused kernel saves.

    Tensors from outside keep their numbers where NumPy reads them: the masks on the host decide what is computed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _StandIns():
        yield


class _Attention(torch.autograd.Function):
    """The shapes of fused attention, forward and backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class _StandIns(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                return func(*args)
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            if torch.is_autocast_enabled(q.device.type):
                q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
            return _Attention.apply(q, k, v)
        return func(*args, **(kwargs or {}))


def step_memory(module: nn.Module, batch: Any, *, autocast: bool, recomputed: Sequence[nn.Module] = ()) -> StepMemory:
    """Count one portion of a step.

    Args:
        module: what turns the batch into a loss.
        autocast: whether the arithmetic is bfloat16.
        recomputed: layers of which the input alone is kept; in the backward pass one layer's tensors come back.
    """
    activations, reached = _forward(module, batch, autocast, recomputed)
    with_gradient = sum(p.numel() for p in reached)
    return StepMemory(
        parameters=sum(p.nbytes for p in module.parameters()),
        gradients=4 * with_gradient,
        optimizer=8 * with_gradient,
        average=4 * sum(p.numel() for p in module.parameters() if p.requires_grad),
        activations=activations,
    )


class _Saved:
    """Tensors that live until the backward pass, each storage once; weights are no such tensors."""

    def __init__(self, known: set[int]) -> None:
        self.known, self.tensors = known, dict[int, Tensor]()

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self.known:
            self.tensors.setdefault(storage, tensor)
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())


def _forward(module: nn.Module, batch: Any, autocast: bool, recomputed: Sequence[nn.Module]) -> tuple[int, set[Tensor]]:
    """Bytes that are kept for the backward pass, and the parameters that it reaches."""
    known = {p.untyped_storage()._cdata for p in module.parameters()}
    kept, largest = _Saved(known), 0

    def once(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        nonlocal largest
        inside = _Saved(known | set(kept.tensors))
        with torch.autograd.graph.saved_tensors_hooks(inside, _same):
            out = forward(*inputs, **named)
        for tensor in _tensors((*inputs, *named.values())):
            kept(tensor)
        largest = max(largest, inside.bytes)
        return out

    before = [layer.forward for layer in recomputed]
    for layer in recomputed:
        layer.forward = functools.partial(once, layer.forward)
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(kept, _same),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False),
        ):
            loss = module(batch)
    finally:
        for layer, forward in zip(recomputed, before, strict=True):
            layer.forward = forward
    return kept.bytes + largest, _reached(loss)


def _reached(loss: Tensor) -> set[Tensor]:
    """The leaves that the loss depends on; a parameter that is none of them has no gradient and no moments."""
    seen: set[Any] = set()
    waiting, leaves = [loss.grad_fn], set[Tensor]()
    while waiting:
        node: Any = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                leaves.add(node.variable)
            waiting += [before for before, _ in node.next_functions]
    return leaves


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _same(tensor: Tensor) -> Tensor:
    return tensor
