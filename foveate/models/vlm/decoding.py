"""From next-token distributions to an answer: greedy, sampled or beam search, on a batch of read prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.vlm.backbone import Session


@dataclass(frozen=True)
class Decoding:
    """How open questions are answered; multiple choice is scored, not generated."""

    max_new_tokens: int = 16
    """Longest answer, in tokens."""
    num_beams: int = 1
    """Beams of beam search; 1: no beam search."""
    do_sample: bool = False
    """Draw tokens instead of taking the most probable one."""
    temperature: float = 1.0
    """Temperature of sampling, above 0; needs `do_sample`."""
    seed: int = 0
    """Seed of sampling; every question has a random stream of its own, whatever the batches."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise FoveateError(
                f"decoding: max_new_tokens and num_beams start at 1, got {self.max_new_tokens} and {self.num_beams}"
            )
        if self.do_sample and not self.temperature > 0:
            raise FoveateError(
                f"decoding: sampling needs a temperature above 0, got {self.temperature}; do_sample: false is greedy"
            )
        if self.do_sample and self.num_beams > 1:
            raise FoveateError("decoding: do_sample and num_beams above 1 exclude each other")


def uncertainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy in nats and top-1 minus top-2 probability of next-token logits [B, V]; float32 [B] each."""
    logs = logits.float().log_softmax(-1)
    top = logs.topk(2, dim=-1).values.exp()
    return -(logs.exp() * logs).sum(-1), top[:, 0] - top[:, 1]


def generate(
    session: Session, logits: Tensor, decoding: Decoding, stops: frozenset[int], keys: Sequence[str]
) -> list[list[int]]:
    """Token ids of the answers, without the stop token.

    Greedy and sampled answers have a loop of their own: transformers draws a whole batch from one random stream, and
    then what a sample is answered would depend on its neighbours.

    Args:
        logits: [B, V] behind the prompts.
        keys: names of the samples, which seed their draws.
    """
    if decoding.num_beams > 1:
        # Half of the time it takes to import transformers is in the search's parents.
        from foveate.models.vlm.beam_search import beam_search

        return beam_search(session, logits, decoding.num_beams, decoding.max_new_tokens, stops)
    draws = [_stream(decoding.seed, key) for key in keys] if decoding.do_sample else None
    answers: list[list[int]] = [[] for _ in keys]
    running = [True] * len(keys)
    for left in range(decoding.max_new_tokens, 0, -1):
        if draws is None:
            tokens = logits.argmax(-1).tolist()
        else:
            odds = (logits / decoding.temperature).softmax(-1).cpu()
            tokens = [int(odds[i].multinomial(1, generator=draw)) for i, draw in enumerate(draws)]
        for i, token in enumerate(tokens):
            running[i] = running[i] and token not in stops
            if running[i]:
                answers[i].append(token)
        if left == 1 or not any(running):
            break
        logits = session.extend([[token] for token in tokens])[:, -1]
    return answers


def _stream(seed: int, key: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
