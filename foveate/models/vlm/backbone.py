"""One forward pass of an image-text model over a batch of prompts, and what may follow it on the same cache.

Everything goes through embeddings: text tokens are embedded, picture features put between them, dropped ones left out
before anything is padded. Position ids and masks are always given, so nothing depends on what the model remembers
of an earlier call (Qwen's `rope_deltas`) or guesses from a cache.

Shapes: B rows, N tokens (left padded), P image tokens of one picture, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.models.base import Pruner
from foveate.models.vlm.families import Family, ModelImage, VisionFeatures
from foveate.models.vlm.prompt import Prompt
from foveate.types import Prefix, Span, TokenLayout

KeyValues = list[tuple[Tensor, Tensor]]


@dataclass
class Row:
    """One prompt, after pruning, before padding."""

    ids: Tensor
    """int64 [n]."""
    positions: Tensor
    """int64 [n] or [3, n]."""
    slot: Tensor
    """int64 [n]: which image token stands there, -1: text."""
    next_position: int
    """Of the first answer token; pruning does not change it."""
    patches: int = 0
    """Image tokens that are left."""
    skip: int = 0
    """Leading tokens whose keys and values a cache holds already."""


@dataclass
class Past:
    """Keys and values of the beginnings of some prompts."""

    keys_values: KeyValues
    mask: Tensor
    """bool [B, M]."""


class Session:
    """A batch whose prompts have been read; answers are appended to it."""

    def __init__(self, backbone: Backbone, cache: DynamicCache | None, mask: Tensor, hidden: Tensor, ends: Tensor):
        self.backbone, self.cache = backbone, cache
        self.mask = mask
        """bool [B, K]: which keys are real."""
        self.hidden = hidden
        """float [B, N, D]: last hidden states of the tokens read now."""
        self.ends = ends
        """int64 [B]: next position id."""

    def logits(self, last: int = 1) -> Tensor:
        """float32 [B, last, V], of the last tokens read."""
        return self.backbone.head(self.hidden[:, -last:])

    @torch.no_grad()
    def extend(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Append token ids (rows may differ in length); float32 [B, T, V], left padded as the rows are."""
        device, width = self.mask.device, max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        valid = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
        for i, row in enumerate(rows):
            if row:
                ids[i, width - len(row) :] = torch.tensor(row, device=device)
                valid[i, width - len(row) :] = True
        positions = (self.ends[:, None] + valid.long().cumsum(-1) - 1).clamp_min(0)
        self.ends = self.ends + valid.sum(-1)
        self.mask = torch.cat([self.mask, valid], dim=1)
        self.hidden = self.backbone.decode(
            self.backbone.embed(ids), self.mask, self.backbone.axes(positions), self.cache
        )
        return self.logits(width)

    def rewind(self, columns: int, rows: Sequence[Sequence[int]]) -> None:
        """Forget the last `columns` keys, which `extend(rows)` appended."""
        self.ends = self.ends - torch.tensor([len(row) for row in rows], device=self.ends.device)
        self.mask = self.mask[:, :-columns]
        self.cache = make_cache([(k[:, :, :-columns], v[:, :, :-columns]) for k, v in keys_values(self.cache)])

    def select(self, index: Tensor) -> None:
        """Keep, reorder or repeat rows."""
        self.cache = make_cache([(k[index], v[index]) for k, v in keys_values(self.cache)])
        self.mask, self.ends = self.mask[index], self.ends[index]


class Backbone:
    """A transformers model taken apart: embed, encode, decode, head."""

    def __init__(self, model: Any, family: Family) -> None:
        self.model, self.family = model, family
        # A peft wrapper is seen through; its adapters sit in the modules themselves.
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder = self.base.get_decoder()
        self._cap = getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    def embed(self, ids: Tensor) -> Tensor:
        """[..., D]. An id outside the table (an image token that some models have there) becomes 0."""
        table = self.base.get_input_embeddings()
        embeds: Tensor = table(ids.masked_fill(ids >= table.num_embeddings, 0))
        return embeds

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.base.get_output_embeddings()(hidden).float()
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def axes(self, positions: Tensor) -> Tensor:
        """Position ids [B, N] of text, as this model takes them."""
        return positions if self.family.axes is None else positions.expand(self.family.axes, -1, -1)

    def encode(self, images: Sequence[ModelImage]) -> VisionFeatures:
        """Pictures of one shape through the vision tower."""
        pixels = {name: torch.cat([i.pixels[name] for i in images]).to(self.device) for name in images[0].pixels}
        return self.family.features(self.base, pixels)

    def decode(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None, **extra: Any
    ) -> Tensor:
        """Last hidden states [B, N, D]; `mask` covers the cached keys too."""
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=mask.long() if mask.ndim == 2 else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **extra,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def rows(self, prompts: Sequence[Prompt], images: Sequence[ModelImage] | None, keep: Tensor | None) -> list[Row]:
        """Prompts as rows of tokens; `keep` bool [B, P] says which image tokens stay."""
        return [
            self._row(prompt, None if images is None else images[i], None if keep is None else keep[i].cpu())
            for i, prompt in enumerate(prompts)
        ]

    def _row(self, prompt: Prompt, image: ModelImage | None, keep: Tensor | None) -> Row:
        image_id = self.family.config.image_token_id
        span = [] if image is None else [token == image_id for token in image.ids]
        ids = torch.tensor((*prompt.prefix, *(image.ids if image else ()), *prompt.suffix), dtype=torch.long)
        grid = image.grid if image else None
        positions = self.family.positions(len(prompt.prefix), span, grid, len(prompt.suffix))
        is_image = torch.tensor([False] * len(prompt.prefix) + span + [False] * len(prompt.suffix), dtype=torch.bool)
        slot = torch.where(is_image, is_image.long().cumsum(0) - 1, -1)
        end = int(positions.max()) + 1 if positions.numel() else self.family.first_position
        if keep is not None:
            stays = ~is_image
            stays[is_image] = keep
            ids, positions, slot = ids[stays], positions[..., stays], slot[stays]
        return Row(ids, positions, slot, end, int((slot >= 0).sum()))

    def read(
        self,
        rows: Sequence[Row],
        features: VisionFeatures | None,
        *,
        past: Past | None = None,
        cached: bool = True,
        answers: Sequence[int] | None = None,
    ) -> Session:
        """Run a batch through the language model, left padded.

        Args:
            past: keys and values of each row's first `skip` tokens.
            cached: keep keys and values, so that answers can be appended; not for training.
            answers: how many tokens at each row's end are an answer (they attend causally in every model).
        """
        device, width = self.device, max(len(row.ids) - row.skip for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        slot = torch.full((len(rows), width), -1)
        valid = torch.zeros(len(rows), width, dtype=torch.bool)
        positions = torch.zeros(*rows[0].positions.shape[:-1], len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            n = len(row.ids) - row.skip
            ids[i, width - n :], slot[i, width - n :] = row.ids[row.skip :], row.slot[row.skip :]
            positions[..., i, width - n :] = row.positions[..., row.skip :]
            valid[i, width - n :] = True
        ids, slot, valid, positions = (x.to(device) for x in (ids, slot, valid, positions))
        embeds = self.embed(ids)
        extra: dict[str, Any] = {}
        if features is not None:
            here = slot >= 0
            index = slot.clamp_min(0)
            embeds = torch.where(here[..., None], _take(features.tokens.to(embeds.dtype), index), embeds)
            if features.deep:
                extra["visual_pos_masks"] = here
                extra["deepstack_visual_embeds"] = [_take(deep, index)[here] for deep in features.deep]
        mask = valid if past is None else torch.cat([past.mask, valid], dim=1)
        attention = mask
        if self.family.bidirectional:
            attention = self._prompt_mask(valid, answers, embeds.dtype)
        cache = make_cache(past.keys_values if past else []) if cached else None
        hidden = self.decode(embeds, attention, positions, cache, **extra)
        ends = torch.tensor([row.next_position for row in rows], device=device)
        return Session(self, cache, mask, hidden, ends)

    def _prompt_mask(self, valid: Tensor, answers: Sequence[int] | None, dtype: torch.dtype) -> Tensor:
        """float [B, 1, N, N], 0 or the least number: prompts attend to themselves, answers to what is before them."""
        size = valid.shape[1]
        index = torch.arange(size, device=valid.device)
        tail = torch.tensor(answers or [0] * len(valid), device=valid.device)
        in_prompt = index[None] < (size - tail)[:, None]
        allowed = (index[None, :] <= index[:, None])[None] | (in_prompt[:, None, :] & in_prompt[:, :, None])
        allowed = allowed & valid[:, None, :]
        allowed |= torch.eye(size, dtype=torch.bool, device=valid.device)[None]  # no row without a key: no NaN
        return torch.zeros(allowed.shape, dtype=dtype, device=valid.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )[:, None]

    @torch.no_grad()
    def prune(
        self, pruner: Pruner, prompts: Sequence[Prompt], image: ModelImage, features: VisionFeatures, seeds: Tensor
    ) -> tuple[Tensor, VisionFeatures]:
        """bool [B, P], the image tokens that a pruning method keeps, and the features as it leaves them.

        The method sees the picture's tokens and the question's, padded, as one prefix. One that mixes tokens (pooling)
        chooses by their places alone, so the features of deeper layers are mixed in the same way.
        """
        count, length = features.tokens.shape[1], max(len(p.text) for p in prompts)
        device = features.tokens.device
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        valid = torch.zeros(len(prompts), length, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt.text)] = torch.tensor(prompt.text)
            valid[i, : len(prompt.text)] = True
        layout = TokenLayout(
            (Span("image", "image", 0, count, image.grid), Span("text", "text", count, count + length))
        )
        words = self.embed(ids.to(device)).to(features.tokens.dtype)
        mask = torch.cat([torch.ones(len(prompts), count, dtype=torch.bool), valid], dim=1).to(device)
        positions = torch.arange(count + length, device=device).expand(len(prompts), -1)

        def run(tokens: Tensor) -> tuple[Tensor, Tensor]:
            prefix = Prefix(torch.cat([tokens, words], dim=1), mask, positions, layout, row_seeds=seeds)
            selection = pruner.select(prefix)
            kept = selection.keep.keep_mask
            if selection.embeds is None:
                return tokens, kept
            return torch.where(kept[..., None], selection.embeds[:, :count], tokens), kept

        tokens, kept = run(features.tokens)
        mixed = not torch.equal(tokens, features.tokens)
        deep = tuple(run(layer)[0] for layer in features.deep) if mixed else features.deep
        return kept, VisionFeatures(tokens, deep)


def _take(features: Tensor, index: Tensor) -> Tensor:
    """features [B, P, D] at index [B, N] -> [B, N, D]."""
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))


def keys_values(cache: DynamicCache) -> KeyValues:
    return [(layer.keys, layer.values) for layer in cache.layers]


def make_cache(pairs: KeyValues) -> DynamicCache:
    """A cache that holds these keys and values; it never drops any, whatever the model's window."""
    cache = DynamicCache()
    for i, (keys, values) in enumerate(pairs):
        cache.update(keys, values, i)
    return cache
