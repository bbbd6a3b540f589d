"""Beam search by transformers' `generate`, on prompts that have been read.

`generate` would read the prompts itself: without pruning, without what the text pass left, and with positions that it
guesses. So it gets the session in place of a model, and does the search alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from foveate.models.vlm.backbone import Session


def beam_search(
    session: Session, logits: Tensor, num_beams: int, max_new_tokens: int, stops: frozenset[int]
) -> list[list[int]]:
    """Token ids of the most probable answers per token (stop token counted), without the stop token.

    Args:
        logits: float32 [B, V] behind the prompts.
    """
    rows, device = len(logits), logits.device
    session.select(torch.arange(rows, device=device).repeat_interleave(num_beams))
    config = GenerationConfig(
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops) or None,
        pad_token_id=min(stops, default=0),
    )
    model = _ReadPrompts(session, logits.repeat_interleave(num_beams, dim=0))
    prompts = torch.zeros(rows, 1, dtype=torch.long, device=device)
    mask = torch.ones_like(prompts)
    found = model.generate(prompts, generation_config=config, attention_mask=mask, past_key_values=session.cache)
    return [list(itertools.takewhile(lambda token: token not in stops, row)) for row in found[:, 1:].tolist()]


class _ReadPrompts(GenerationMixin, PreTrainedModel):  # type: ignore[misc]
    """A session as `generate` takes a model: its prompts, read already, pass for one token without a meaning.

    All beams of a prompt have its mask and positions, so `generate` may reorder the cache alone.
    """

    def __init__(self, session: Session, logits: Tensor) -> None:
        super().__init__(PreTrainedConfig(vocab_size=logits.shape[-1]))
        self.session = session
        self.first_logits: Tensor | None = logits[:, None]
        """Behind the prompts; None once the search has them."""

    @property
    def device(self) -> torch.device:
        return self.session.mask.device

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        return {"tokens": input_ids[:, -1:]}

    def forward(
        self, tokens: Tensor, attention_mask: Any = None, past_key_values: Any = None, **kwargs: Any
    ) -> CausalLMOutput:
        logits, self.first_logits = self.first_logits, None
        return CausalLMOutput(logits=self.session.extend(tokens.tolist()) if logits is None else logits)
