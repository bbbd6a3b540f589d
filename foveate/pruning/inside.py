"""What a method may look at inside the model, beside the tokens: rows of one layer's attention, the tower's, the norm.

    watch = Watch(run, layer)
    model.prefill(prefix, run=watch)                    # the layer runs as it would, compiled or not
    attention = LayerAttention.of(layer, watch.calls[layer])
    attention.rows(slots)                               # float32 [B, H, R, S]

Only the rows that a method asks for are computed, from the layer's own q and k, beside the fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from foveate.models.base import TowerLayer
from foveate.models.common.layers import Run
from foveate.pruning.base import at
from foveate.types import Prefix
from foveate.util.attention import attention_rows, mask_rows


class Call(NamedTuple):
    """What went into a layer, and what came out."""

    tensors: tuple[Any, ...]
    result: Any


class Watch:
    """A `Run` that notes the last call of some layers; parts run as they would, and no hook outlasts them."""

    def __init__(self, run: Run, *layers: nn.Module) -> None:
        self._run, self._layers = run, layers
        self.calls: dict[nn.Module, Call] = {}

    def __call__(self, part: Callable[..., Any], *arguments: Any) -> Any:
        handles = [layer.register_forward_hook(self._note) for layer in self._layers]
        try:
            return self._run(part, *arguments)
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, layer: nn.Module, tensors: tuple[Any, ...], result: Any) -> None:
        self.calls[layer] = Call(tensors, result)


class Skip:
    """A `Run` that leaves some backbone layers out: their tokens pass unchanged, and nothing is cached for them.

    The part that it cuts is a model's `backbone(x, rope, mask, start, stop, ...)`.
    """

    def __init__(self, run: Run, layers: Sequence[nn.Module], skipped: Collection[int]) -> None:
        self._run, self._layers, self._skipped = run, layers, skipped

    def __call__(self, part: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(part, "__name__", "") != "backbone":
            return self._run(part, *arguments)
        x, rope, mask, start, stop, *rest = arguments
        made: list[tuple[Tensor, Tensor]] = []
        for number in range(start, stop):
            if number in self._skipped:
                attention: Any = self._layers[number].self_attn
                none = x.new_zeros(len(x), attention.num_kv_heads, 0, attention.head_dim)
                made.append((none, none))
            else:
                x, own = self._run(part, x, rope, mask, number, number + 1, *rest)
                made += own
        return x, made


class Attention(Protocol):
    """Of one backbone layer, over the slots of the prefix that it saw."""

    @property
    def keys(self) -> Tensor:
        """[B, G, S, K], after RoPE."""
        ...

    def rows(self, slots: Tensor | None = None) -> Tensor:
        """Probabilities of the queries at slots [B, R] (None: all), float32 [B, H, R, S]."""
        ...


@dataclass(frozen=True)
class LayerAttention:
    """An `Attention` out of what went through a layer."""

    layer: nn.Module
    x: Tensor
    """[B, T, D], as it entered the layer."""
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    keys: Tensor
    modulation: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, layer: nn.Module, call: Call) -> LayerAttention:
        x, rope, mask, past, modulation = (*call.tensors, None, None)[:5]
        keys = call.result[1][0]
        return cls(layer, x, rope, mask, keys if past is None else torch.cat((past[0], keys), 2), modulation)

    def rows(self, slots: Tensor | None = None) -> Tensor:
        x, rope, mask = self.x, self.rope, self.mask
        if slots is not None:
            x = at(x, slots)
            cos, sin = (at(part.expand(len(x), -1, -1, -1).squeeze(1), slots)[:, None] for part in rope)
            rope, mask = (cos, sin), mask_rows(mask, slots)
        more = () if self.modulation is None else (self.modulation,)
        queries, _ = self.layer.queries_keys(x, rope, *more)  # type: ignore[operator]  # a Module hides its methods
        return attention_rows(queries, self.keys, mask)


@dataclass(frozen=True)
class TowerAttention:
    """How the vision tower's last layer looked at each picture."""

    received: Tensor
    """float32 [B, P]: the attention that each patch receives from the class token, or where there is none from all
    patches on average; mean over heads. 0 for an absent camera's."""
    keys: Tensor
    """float32 [B, P, K]: mean over heads."""

    @classmethod
    def of(cls, tower: TowerLayer, x: Tensor, present: Tensor) -> TowerAttention:
        """
        Args:
            x: [n, tokens, D], as it entered the layer, of the pictures that are there.
            present: bool [B, V], on the host.
        """
        q, k = tower.layer.queries_keys(x)  # type: ignore[operator]
        asking = q[:, :, :1] if tower.class_token else q[:, :, tower.leading :]
        received = attention_rows(asking, k, None).mean((1, 2))[:, tower.leading :]
        keys = k[:, :, tower.leading :].float().mean(1)
        index = present.flatten().nonzero().squeeze(-1).to(x.device)

        def placed(part: Tensor) -> Tensor:
            whole = part.new_zeros(present.numel(), *part.shape[1:]).index_put((index,), part)
            return whole.reshape(len(present), -1, *part.shape[2:])

        return cls(placed(received), placed(keys))


@dataclass(frozen=True)
class Inside:
    """What a model shows of itself when a method chooses."""

    layers: Sequence[nn.Module] = ()
    """The backbone's."""
    norm: nn.Module | None = None
    """Behind the backbone's last layer."""
    whole: Prefix | None = None
    """The tokens as they were embedded, nothing dropped."""
    number: int | None = None
    """The layer that the tokens come out of; None: they have not entered the backbone."""
    attention: Attention | None = None
    """Of that layer."""
    tower: TowerAttention | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    """What earlier choices of this inference leave for later ones."""
