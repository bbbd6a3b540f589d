"""What the text-first pass leaves behind: features for a policy, and keys and values for the passes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.vlm.backbone import KeyValues, Past, Session, keys_values, make_cache
from foveate.models.vlm.prompt import Prompt


@dataclass
class ReadBatch:
    """The session of one batch of text-only prompts, as it stood when they had been read."""

    session: Session
    logits: Tensor
    """float32 [B, V]: next-token logits."""
    prompts: tuple[Prompt, ...]

    def resumed(self, index: Sequence[int]) -> tuple[Session, Tensor]:
        """A session of its own over some rows, and their logits: the prompts need not be read again."""
        rows = torch.tensor(index, device=self.logits.device)
        pairs = [(k[rows], v[rows]) for k, v in keys_values(self.session.cache)]
        full = self.session
        cut = Session(full.backbone, make_cache(pairs), full.mask[rows], full.hidden[rows], full.ends[rows])
        return cut, self.logits[rows]


@dataclass
class TextPass:
    """The question alone, read; the picture was not looked at."""

    hidden: Tensor
    """float32 [B, D]: mean of the last hidden states over the prompt's tokens."""
    entropy: Tensor
    """float32 [B], nats: of the next-token distribution."""
    margin: Tensor
    """float32 [B]: top-1 minus top-2 probability."""
    batches: list[ReadBatch]
    """Cache handle; empty it to free the memory."""
    places: dict[str, tuple[int, int]]
    """Sample id -> (batch, row)."""

    def place(self, sample_id: str, prompt: Prompt) -> tuple[int, int]:
        """Where a sample's keys and values are.

        Raises:
            FoveateError: the text pass did not read this sample, or read another question under its id.
        """
        batch, row = self.places.get(sample_id, (-1, -1))
        if batch < 0 or self.batches[batch].prompts[row] != prompt:
            raise FoveateError(
                f"sample {sample_id}: the text pass handed over for reuse did not read this question; hand over the "
                "pass of the same samples, or none"
            )
        return batch, row


def gather_past(text: TextPass, places: Sequence[tuple[int, int]], prompts: Sequence[Prompt]) -> Past:
    """Keys and values of the prompts' prefixes, left padded to the longest, in the order of `places`.

    All text-only prompts end with the same suffix, so in every batch the prefixes end in one column.
    """
    width = max(len(prompt.prefix) for prompt in prompts)
    device = text.batches[0].logits.device
    mask = torch.zeros(len(places), width, dtype=torch.bool, device=device)
    out: KeyValues = []
    for source in sorted({batch for batch, _ in places}):
        session = text.batches[source].session
        here = torch.tensor([i for i, (batch, _) in enumerate(places) if batch == source], device=device)
        rows = torch.tensor([row for batch, row in places if batch == source], device=device)
        stop = session.mask.shape[1] - len(prompts[0].suffix)
        span = min(width, stop)
        mask[here, width - span :] = session.mask[rows, stop - span : stop]
        for layer, pair in enumerate(keys_values(session.cache)):
            cut = [x[rows, :, stop - span : stop] for x in pair]
            if len(here) == len(places) and span == width:
                out.append((cut[0], cut[1]))
                continue
            if len(out) == layer:
                shape = (len(places), pair[0].shape[1], width)
                out.append((cut[0].new_zeros(*shape, cut[0].shape[-1]), cut[1].new_zeros(*shape, cut[1].shape[-1])))
            for whole, part in zip(out[layer], cut, strict=True):
                whole[here, :, width - span :] = part
    return Past(out, mask)
