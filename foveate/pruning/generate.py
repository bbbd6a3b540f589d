"""Pruning inside of any transformers image-text model, for as long as a context is open.

    with foveate.prune(model, DART(keep_ratio=0.25)):
        answers = model.generate(**inputs)

Image tokens are dropped behind the vision tower and the merger, before the language model: shorter prompts and shorter
caches. Position ids of the tokens that stay are the original ones (M-RoPE's three axes too), and the features that
Qwen3-VL adds to deeper layers are dropped alike. The model is as it was when the context is left.

Needs no more of a model than an image (or video) token in its config, and a decoder that takes `inputs_embeds`,
`position_ids` and a mask: of tokens, [B, N], or of who attends to whom, [B, 1, N, N], as a prefix brings that attends
to itself both ways (PaliGemma). Static caches are refused.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.pruning import PrunerConfig, make_pruner
from foveate.pruning.base import TokenPruner
from foveate.pruning.depth_drop import DepthDropPruner
from foveate.types import Prefix, Span, TokenLayout


@dataclass
class PrunedTokens:
    """What the prompts of a context lost."""

    before: list[int] = field(default_factory=list)
    """Image tokens of each row."""
    after: list[int] = field(default_factory=list)
    """Those that the language model saw."""
    prompts: int = 0
    """Rows of all prompts with a picture since the context was opened."""
    read: int = 0
    """Image tokens of them all."""
    kept: int = 0
    """Those of them that the language model saw."""
    _one_by_one: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def note(self, before: list[int], after: list[int]) -> None:
        """Image tokens of each row of one batch of prompts."""
        with self._one_by_one:
            self.before, self.after = before, after
            self.prompts += len(before)
            self.read += sum(before)
            self.kept += sum(after)


@contextmanager
def prune(model: nn.Module, pruner: PrunerConfig | str | Mapping[str, Any]) -> Iterator[PrunedTokens]:
    """Prune image tokens in every prompt that the model reads while the context is open.

    Args:
        model: a transformers model with a picture token (Qwen-VL, LLaVA, SmolVLM, Idefics ...).
        pruner: a config of `foveate.pruning`, its name, or a mapping; a method that chooses before the backbone.
    Yields:
        How many image tokens the rows of the last prompts had and have left, and those of all prompts together.
    Raises:
        FoveateError: no image-text model, or a method that works inside of it.
    """
    config = model.config
    ids = [getattr(config, name, None) for name in ("image_token_id", "image_token_index", "video_token_id")]
    tokens = tuple(dict.fromkeys(token for token in ids if token is not None))
    if not tokens or not hasattr(model, "get_decoder"):
        raise FoveateError(f"{type(model).__name__}: has no image token in its config, so there is nothing to prune")
    method = make_pruner(pruner)
    assert method is not None
    if method.late or method.looks_at or method.has_history or isinstance(method, DepthDropPruner):
        name = type(method).__name__.removesuffix("Pruner")
        raise FoveateError(
            f"{name} works inside of a policy; a transformers model takes methods that choose by patches and words "
            "alone: divprune, cdpruner, dart, lightvla, random, stride, topk_norm, downsample"
        )
    decoder: nn.Module = model.get_decoder()  # type: ignore[operator]  # a Module hides its methods
    if any(isinstance(getattr(hook, "__self__", None), _Hooks) for hook in decoder._forward_pre_hooks.values()):
        raise FoveateError(
            f"{type(model).__name__}: is being pruned already; leave the other context first (several threads may "
            "generate inside of one)"
        )
    told = PrunedTokens()
    hooks = _Hooks(method, tokens, config, told)
    handles = [
        model.register_forward_pre_hook(hooks.model_is_called, with_kwargs=True),
        decoder.register_forward_pre_hook(hooks.decoder_is_called, with_kwargs=True),
    ]
    try:
        yield told
    finally:
        for handle in handles:
            handle.remove()


class _Hooks(threading.local):
    """What happens before the model, and then its decoder, is called. Each thread has its own of what lies between."""

    def __init__(self, pruner: TokenPruner, tokens: tuple[int, ...], config: Any, told: PrunedTokens) -> None:
        self._pruner, self._tokens, self._config = pruner, tokens, config
        self._ids: Tensor | None = None
        self._mask: Tensor | None = None
        """[B, N]: as the model got it, whose decoder may get another one."""
        self._grids: list[tuple[int, int]] = []
        self._pictures: int | None = None
        """Pictures of all rows, where the model takes them one by one."""
        self._told = told
        self._columns: Tensor | None = None
        """bool [B, N']: real tokens of the cache that the last prompts left."""
        self._length = 0
        """N: columns of those prompts as they came."""
        self._ahead: Tensor | None = None
        """int64 [B]: by how much the position behind each of them is more than its number of tokens (M-RoPE: less)."""
        self._cache: weakref.ref[Any] | None = None
        """That cache, where the model was given one to fill, as `generate` does."""

    def model_is_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        has_picture = ids is not None and any(bool((ids == token).any()) for token in self._tokens)
        self._ids, self._mask = ids if has_picture else None, kwargs.get("attention_mask")
        self._grids = _grids(kwargs, self._config)
        self._pictures = _pictures(kwargs)

    def decoder_is_called(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids, self._ids = self._ids, None
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            mask = self._mask
            if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
                raise _no_such_mask()
        if ids is not None and embeds is not None and embeds.shape[:2] == ids.shape:
            cache = kwargs.get("past_key_values")
            if cache is not None and cache.get_seq_length():
                raise _no_such_cache(cache.get_seq_length())
            self._cache = None if cache is None else weakref.ref(cache)
            return args, self._compacted(ids, embeds, mask, kwargs)
        return args, self._continued(mask, kwargs)

    # ---- a prompt ---------------------------------------------------------------------------------------------------

    def _compacted(self, ids: Tensor, embeds: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments without the tokens that are dropped, left padded."""
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        picture = torch.stack([ids == token for token in self._tokens]).any(0) & real
        deep = kwargs.get("deepstack_visual_embeds")
        keep, embeds, deep = self._choose(picture, real, embeds, deep)
        order = keep.long().argsort(dim=1, stable=True)  # what goes first, so that what stays ends the row
        longest = int(keep.sum(1).max())
        order = order[:, -longest:]
        columns = keep.gather(1, order)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = (real.long().cumsum(-1) - 1).clamp_min(0)
        turning = positions[-3:].amax(0) if positions.ndim == 3 else positions
        self._ahead = turning.masked_fill(~real, 0).amax(1) + 1 - real.sum(1)
        positions = positions.gather(-1, order.expand(*positions.shape[:-2], *order.shape))
        if positions.ndim == 3 and len(positions) == 4:
            # Qwen's first axis turns nothing: kernels read in it where one sequence ends and the next begins.
            positions[0] = (columns.long().cumsum(-1) - 1).clamp_min(0)
        elif str(getattr(self._config, "_attn_implementation", "")).startswith("flash"):
            raise FoveateError(
                "foveate.prune: flash attention reads gaps in position ids as ends of sequences; load the model with "
                'attn_implementation="sdpa"'
            )
        changed = {
            **kwargs,
            "inputs_embeds": embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1])),
            "position_ids": positions,
            "attention_mask": _cut(kwargs.get("attention_mask"), order, columns),
        }
        visual = kwargs.get("visual_pos_masks")
        if visual is not None:
            changed["visual_pos_masks"] = visual.gather(1, order) & columns
            if deep is not None:
                changed["deepstack_visual_embeds"] = [layer[keep[visual]] for layer in deep]
        self._told.note(picture.sum(1).tolist(), (picture & keep).sum(1).tolist())
        self._columns, self._length = columns, ids.shape[1]
        return changed

    def _choose(
        self, picture: Tensor, real: Tensor, embeds: Tensor, deep: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor, list[Tensor] | None]:
        """bool [B, N], what stays; and the tokens and deeper features as the method leaves them."""
        keep, embeds = real & ~picture, embeds.clone()
        deep = None if deep is None else [layer.clone() for layer in deep]
        grids, first = list(self._grids), 0
        each = int(picture.sum()) // self._pictures if self._pictures else None
        for row in range(len(embeds)):
            places, runs = picture[row].nonzero().squeeze(-1), _runs(picture[row], each)
            if not len(places):
                continue
            words = (real[row] & ~picture[row]).nonzero().squeeze(-1)
            shapes = [_grid(length, grids) for length in runs]
            selected = self._select(embeds[row, places], embeds[row, words], runs, shapes)
            kept = selected.keep.keep_mask[0]
            keep[row, places] = kept
            here = slice(first, first + len(places))
            first += len(places)
            if selected.embeds is None:
                continue
            embeds[row, places] = selected.embeds[0, : len(places)].to(embeds.dtype)
            for layer in deep or ():
                # Methods that mix tokens choose by their places alone, so deeper features are mixed alike.
                again = self._select(layer[here], embeds[row, words], runs, shapes)
                assert again.embeds is not None
                layer[here] = again.embeds[0, : len(places)].to(layer.dtype)
        return keep, embeds, deep

    @torch.no_grad()
    def _select(
        self, patches: Tensor, words: Tensor, runs: Sequence[int], shapes: Sequence[tuple[int, int] | None]
    ) -> Any:
        """The method's choice among one row's pictures, which stand before all of its words."""
        spans, start = [], 0
        for number, (length, grid) in enumerate(zip(runs, shapes, strict=True)):
            spans.append(Span(f"image{number}", "image", start, start := start + length, grid))
        if len(words):
            spans.append(Span("text", "text", start, start + len(words)))
        tokens = torch.cat((patches, words))[None]
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return self._pruner.select(
            Prefix(tokens, mask, mask.long().cumsum(-1) - 1, TokenLayout(tuple(spans)), full=True)
        )

    # ---- an answer --------------------------------------------------------------------------------------------------

    def _continued(self, mask: Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments with a mask as long as the cache that pruned prompts left."""
        cache, columns, length = kwargs.get("past_key_values"), self._columns, self._length
        if cache is None or not cache.get_seq_length():  # another prompt, without a picture
            self._columns = None
            return kwargs
        if columns is None or mask is None or mask.shape[1] <= length:
            return kwargs
        new = kwargs["inputs_embeds"].shape[1]
        if cache.get_seq_length() + new != columns.shape[1] + mask.shape[1] - length:
            own = self._cache is not None and self._cache() is cache
            if own:
                raise _no_such_cache(cache.get_seq_length())
            return kwargs  # another prompt's
        assert self._ahead is not None
        beams = mask.shape[0] // len(columns)
        rows, ahead = (x.repeat_interleave(beams, 0) for x in (columns, self._ahead))
        # Where a turn begins, generate() would count positions from the cache's length.
        behind = (mask.long().cumsum(-1) - 1)[:, -new:] + ahead[:, None]
        positions = kwargs.get("position_ids")
        if positions is not None and positions.ndim == 3:
            behind = torch.cat((positions[:-3], behind.expand(3, -1, -1)))
        changed = {"attention_mask": torch.cat((rows.to(mask.dtype), mask[:, length:]), 1), "position_ids": behind}
        return {**kwargs, **changed}


def _cut(mask: Any, order: Tensor, columns: Tensor) -> Any:
    """A prompt's mask for the tokens that stay: of tokens, or of who attends to whom where the decoder got such a one.

    Args:
        mask: as the decoder got it: [B, N] or None; [B, 1, N, N], or one for each kind of layer.
        order: int64 [B, N'], the tokens that stay, behind padding.
        columns: bool [B, N'], which of them are no padding.
    """
    if isinstance(mask, Mapping) and any(part is not None for part in mask.values()):
        later = columns.new_ones(columns.shape[1], columns.shape[1]).tril()
        causal = columns[:, None, None] & later  # what a kernel had been left to do by itself
        return {kind: causal if part is None else _cut(part, order, columns) for kind, part in mask.items()}
    if mask is None or isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.ndim == 2):
        return columns.long()
    if not isinstance(mask, Tensor) or mask.shape[-1] != mask.shape[-2]:
        raise _no_such_mask()
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    rows = order[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
    left = mask.expand(len(order), -1, -1, -1).gather(2, rows)
    left = left.gather(3, order[:, None, None].expand(-1, mask.shape[1], order.shape[1], -1))
    return left.masked_fill(~columns[:, None, None], hidden)


def _no_such_mask() -> FoveateError:
    return FoveateError(
        "foveate.prune: the decoder got a mask of its own making (a static cache, or flex attention of a prefix that "
        "attends to itself both ways), and its pruned prompt would not fit; use a dynamic cache and "
        'attn_implementation="sdpa"'
    )


def _no_such_cache(tokens: int) -> FoveateError:
    return FoveateError(
        f"foveate.prune: expected to go on behind a pruned prompt, and its cache of {tokens} tokens is not as long as "
        "that; pass a new turn's words alone with the attention mask of the whole conversation, and a new picture "
        "with the whole conversation and no past_key_values; pictures in a chunked prefill are not possible"
    )


def _runs(picture: Tensor, each: int | None) -> list[int]:
    """Lengths of the pictures, tiles or video frames of a row: runs of picture tokens.

    Args:
        each: tokens of one picture, where several may stand in one run; None: nobody knows.
    """
    edges = torch.diff(torch.nn.functional.pad(picture.long(), (1, 1)))
    starts, stops = (edges == 1).nonzero().squeeze(-1), (edges == -1).nonzero().squeeze(-1)
    lengths: list[int] = (stops - starts).tolist()
    if not each or any(length % each for length in lengths):
        return lengths
    return [each for length in lengths for _ in range(length // each)]


def _pictures(kwargs: Mapping[str, Any]) -> int | None:
    """How many pictures of one size a call holds, as pixels or as `generate` has encoded them; None: nobody knows."""
    pixels, encoded = kwargs.get("pixel_values"), (kwargs.get("mm_encoder_outputs") or {}).get("image")
    if encoded is not None:
        found = encoded.pooler_output
        return len(found) if len({len(picture) for picture in found}) == 1 else None
    return len(pixels) if isinstance(pixels, Tensor) and pixels.ndim == 4 else None


def _grids(kwargs: Mapping[str, Any], config: Any) -> list[tuple[int, int]]:
    """Rows and columns of tokens of each picture and frame, as Qwen's processors say them."""
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1)
    found = []
    for name in ("image_grid_thw", "video_grid_thw"):
        if kwargs.get(name) is not None:
            found += [(h // merge, w // merge) for t, h, w in kwargs[name].tolist() for _ in range(t)]
    return found


def _grid(length: int, known: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Of a run of so many tokens: the first known one that holds as many, taken out; else a square, where it is one."""
    for i, (rows, columns) in enumerate(known):
        if rows * columns == length:
            return known.pop(i)
    side = round(length**0.5)
    return (side, side) if side * side == length else None
