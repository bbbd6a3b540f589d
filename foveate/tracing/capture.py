"""Attention evidence: which image patches the text and the actions looked at, per layer and head.

    with capture_attention(request, prefix, model.attention_stacks(), horizon) as attention:
        actions = model.decode(model.prefill(prefix), inputs, noise, steps)
    maps = attention.sample(0)["prefix"]

Only the rows asked for are computed, from a layer's queries and keys after RoPE, beside the fused kernel,
which runs on as if nobody watched. The model is as it was when the context is left, also by an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError, unknown
from foveate.types import AttentionMaps, AttentionRequest, Phase
from foveate.util.attention import attention_rows, mask_rows
from foveate.util.words import plural

if TYPE_CHECKING:
    from foveate.types import Prefix

STACKS: dict[Phase, str] = {"prefix": "backbone", "suffix": "action expert"}
"""Phase -> what the layers that run in it are called."""

Observer = Callable[[Tensor, Tensor, Tensor | None], None]


class Places:
    """Where the slots of a prefix, packed and pruned or not, lie in its layout; and which slots hold its words.

    Attributes:
        rows: int64 [B, T], the slot of each text (or task) token; any slot where it is padding.
        text: bool [B, T], False where such a token is padding. T is the longest prompt of the batch.
        actions: int64 [B, H], the slot of each action token of a model that has them in its prefix; H may be 0.
        patches: bool [B, P], patches that are there and kept, in layout order.
    """

    def __init__(self, prefix: Prefix, asking: Literal["text", "task"] = "text") -> None:
        batch, slots = prefix.mask.shape
        device = prefix.mask.device
        slot = torch.arange(slots, device=device).expand(batch, -1)
        # One cell beyond the layout takes what padding slots write.
        self.slots, self.cells = slots, len(prefix.layout) + 1
        self._token = torch.where(prefix.mask, slot if prefix.source is None else prefix.source, self.cells - 1)
        slot_of = torch.full((batch, self.cells), slots, device=device).scatter_(1, self._token, slot)
        askers = prefix.layout.task_index if asking == "task" else prefix.layout.tokens_of("text")
        rows = slot_of[:, torch.as_tensor(askers, device=device)]
        # Prompts are padded at their end: rows beyond the longest one are nobody's.
        longest = int((rows < slots).any(0).nonzero().amax()) + 1
        rows = rows[:, :longest]
        self.text, self.rows = rows < slots, rows.clamp(max=slots - 1)
        self.actions = slot_of[:, torch.as_tensor(prefix.layout.tokens_of("action"), device=device)]
        self._patch_index = torch.as_tensor(prefix.layout.patch_index, device=device)
        self.patches = slot_of[:, self._patch_index] < slots

    def to_patches(self, received: Tensor) -> Tensor:
        """What slots received, [B, ..., slots or more] -> what patches did, [B, ..., P]; 0 where there is none."""
        flat = received[..., : self.slots].flatten(1, -2)
        cells = flat.new_zeros(*flat.shape[:2], self.cells)
        cells.scatter_(2, self._token[:, None].expand(-1, flat.shape[1], -1), flat)
        return cells[..., self._patch_index].unflatten(1, received.shape[1:-1])


def rows_at(q: Tensor, slots: Tensor) -> Tensor:
    """Queries q [B, H, N, K] at slots [B, R] -> [B, H, R, K]."""
    return q.gather(2, slots[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))


class AttentionResult:
    """What one inference looked at, on the device; filled while the context is open.

    Values are written into memory that is there from the start: compiled graphs can do that too.

    Attributes:
        layers: as asked, counted from 0, each once.
        prefix: layer -> float32 [B, heads, P], the mean over the valid text (or task) rows; per token [B, heads, T, P].
        suffix: layer -> float32 [steps, B, heads, P], the mean over the action rows; averaged over steps, their sum
            [1, B, heads, P].
    """

    def __init__(
        self, request: AttentionRequest, prefix: Prefix, layers: tuple[int, ...], heads: tuple[int, ...], steps: int
    ) -> None:
        self.request, self.layout, self.layers, self.heads = request, prefix.layout, layers, heads
        self.places = Places(prefix, request.rows)
        self._places_from = {0: self.places}
        weight = self.places.text
        self._weight = weight / weight.sum(1, keepdim=True).clamp(min=1)

        def memory(*shape: int) -> dict[int, Tensor]:
            return {layer: torch.zeros(shape, device=weight.device) for layer in sorted(layers)}

        (batch, text), patches = weight.shape, self.places.patches.shape[1]
        rows = (batch, len(heads), text, patches) if request.tokens else (batch, len(heads), patches)
        self.prefix = memory(*rows) if "prefix" in request.phases else {}
        each = steps if request.steps == "each" else 1
        self.suffix = memory(each, batch, len(heads), patches) if "suffix" in request.phases else {}
        self._step = {layer: torch.zeros(1, dtype=torch.int64, device=weight.device) for layer in self.suffix}

    def dropped_after(self, layer: int, prefix: Prefix) -> None:
        """Tell that from behind a backbone layer on only these tokens are left."""
        self._places_from[layer + 1] = Places(prefix, self.request.rows)

    def _places_at(self, layer: int) -> Places:
        return self._places_from[max(start for start in self._places_from if start <= layer)]

    def observer(self, phase: Phase, layer: int, actions: int) -> Observer:
        """What a layer's attention calls with its q, k and mask."""

        def asked_heads(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            if self.heads == tuple(range(q.shape[1])):
                return q, k
            share = q.shape[1] // k.shape[1]
            return q[:, list(self.heads)], k[:, [head // share for head in self.heads]]

        def text_rows(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
            q, k = asked_heads(q, k)
            places = self._places_at(layer)
            rows = attention_rows(rows_at(q, places.rows), k, mask_rows(mask, places.rows))
            received = rows if self.request.tokens else torch.einsum("bhrs,br->bhs", rows, self._weight)
            self.prefix[layer].copy_(places.to_patches(received).detach())

        def action_rows(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
            places = self._places_at(layer)
            q, k = asked_heads(q, k)
            if places.actions.shape[1]:
                rows = attention_rows(rows_at(q, places.actions), k, mask_rows(mask, places.actions))
            elif q.shape[2] < actions:
                return  # π0's state, prefilled alone before the first step
            else:
                rows = attention_rows(q[:, :, -actions:], k, None if mask is None else mask[:, :, -actions:])
            received = places.to_patches(rows.mean(2)).detach()
            step = self._step[layer]
            if self.request.steps == "each":
                self.suffix[layer].index_copy_(0, step, received[None])
            else:
                self.suffix[layer].add_(received)
            step.add_(1)

        return text_rows if phase == "prefix" else action_rows

    def sample(self, b: int, pieces: Sequence[str] = ()) -> dict[Phase, AttentionMaps]:
        """The maps of one sample of the batch, on the host.

        Args:
            pieces: the text of each of the layout's text tokens, where maps are per token.
        """
        spans = self.layout.images
        grids = {span.grid for span in spans}
        if len(grids) != 1 or None in grids:
            raise FoveateError(f"attention maps need views of one patch grid, the layout has {sorted(map(str, grids))}")
        shape = (len(spans), *next(iter(grids)))  # type: ignore[misc]  # None is ruled out above
        text = self.places.text[b].cpu().numpy()
        found: dict[Phase, AttentionMaps] = {}
        for phase in self.request.phases:
            tokens: tuple[str, ...] = ()
            if phase == "prefix":
                maps = torch.stack([self.prefix[layer][b] for layer in self.layers])
                if self.request.tokens:
                    maps = maps.movedim(2, 0)[torch.from_numpy(text).to(maps.device)]
                    tokens = tuple(piece for piece, there in zip(pieces, text, strict=False) if there)
            else:
                maps = torch.stack([self.suffix[layer][:, b] for layer in self.layers], 1)
                if self.request.steps == "mean":
                    maps = maps[0] / torch.stack([self._step[layer] for layer in self.layers]).clamp(min=1)[..., None]
            host = maps.cpu().numpy().astype(np.float16)
            found[phase] = AttentionMaps(
                phase=phase,
                layers=self.layers,
                heads=self.heads,
                views=tuple(span.name for span in spans),
                maps=host.reshape(*host.shape[:-1], *shape),
                valid=self.places.patches[b].cpu().numpy().reshape(shape),
                tokens=tokens,
            )
        return found


@contextmanager
def capture_attention(
    request: AttentionRequest,
    prefix: Prefix,
    stacks: Mapping[Phase, Sequence[Any]],
    actions: int = 0,
    steps: int = 1,
) -> Iterator[AttentionResult]:
    """While the context is open, a prefill of `prefix` and the decoding after it fill an `AttentionResult`.

    Contexts may be nested: each sees every call.

    Args:
        prefix: the very prefix that is about to be prefilled.
        stacks: layers of each phase, each with a `self_attn` that has an `observer` and `num_heads`; a model whose
            action tokens stand in the prefix gives its backbone for both.
        actions: action tokens at the end of the suffix, of a model that has one.
        steps: denoising steps that will follow, where each is asked for.
    Raises:
        FoveateError: an unknown phase, or a layer or head that is not there.
    """
    for phase in request.phases:
        if phase not in stacks:
            raise unknown("attention phase", phase, stacks)
    if request.steps not in ("mean", "each"):
        raise unknown("attention steps", request.steps, ("mean", "each"))
    watched = {phase: stacks[phase] for phase in request.phases}
    layers = _resolve_layers(request.layers, watched)
    heads = _resolve_heads(request.heads, watched, layers)
    result = AttentionResult(request, prefix, layers, heads, steps)
    before: list[tuple[Any, Observer | None]] = []
    try:
        for phase, stack in watched.items():
            for layer in layers:
                module = stack[layer].self_attn
                before.append((module, module.observer))
                module.observer = _both(module.observer, result.observer(phase, layer, actions))
        yield result
    finally:
        for module, observer in reversed(before):
            module.observer = observer


def _resolve_layers(wanted: Sequence[int], watched: dict[Phase, Sequence[Any]]) -> tuple[int, ...]:
    """Numbers counted from 0, each once, in the order asked."""
    if not wanted or not watched:
        raise FoveateError("no attention is asked for: name at least one layer and one phase")
    for phase, stack in watched.items():
        for number in wanted:
            if not -len(stack) <= number < len(stack):
                there = f"0 to {len(stack) - 1} ({plural(len(stack), 'layer')})"
                raise FoveateError(f"attention layer {number}: the {STACKS[phase]} has layers {there}")
    depth = len(next(iter(watched.values())))
    return tuple(dict.fromkeys(number % depth for number in wanted))


def _resolve_heads(
    wanted: Sequence[int] | None, watched: dict[Phase, Sequence[Any]], layers: Sequence[int]
) -> tuple[int, ...]:
    """The heads asked for; all, where none is named."""
    counts = {stack[layer].self_attn.num_heads for stack in watched.values() for layer in layers}
    count = min(counts)
    for head in wanted or ():
        if not 0 <= head < count:
            raise FoveateError(
                f"attention head {head}: the layers have heads 0 to {count - 1} ({plural(count, 'head')})"
            )
    return tuple(range(count)) if wanted is None else tuple(dict.fromkeys(wanted))


def _both(first: Observer | None, second: Observer) -> Observer:
    if first is None:
        return second

    def observe(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        first(q, k, mask)
        second(q, k, mask)

    return observe
