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
    """Beams of the search; 1: none."""
    do_sample: bool = False
    """Draw tokens instead of taking the most probable one."""
    temperature: float = 1.0
    """Of the draws."""
    seed: int = 0
    """Of the draws; every sample has a stream of its own, whatever the batches."""

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

    Args:
        logits: [B, V] behind the prompts.
        keys: names of the samples, which seed their draws.
    """
    if decoding.num_beams > 1:
        return _beams(session, logits, decoding, stops)
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


def _beams(session: Session, logits: Tensor, decoding: Decoding, stops: frozenset[int]) -> list[list[int]]:
    """Beam search; a finished answer scores its log-probability per token (stop token included), as in transformers."""
    rows, beams = logits.shape[0], decoding.num_beams
    scores = logits.log_softmax(-1)
    texts: list[list[list[int]]] = [[[]] for _ in range(rows)]
    totals = torch.zeros(rows, 1, device=logits.device)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(rows)]
    for step in range(1, decoding.max_new_tokens + 1):
        width = totals.shape[1]
        joint = (totals[..., None] + scores.view(rows, width, -1)).flatten(1)
        best = joint.topk(2 * beams, dim=-1)
        parents, chosen, kept, sums = [], [], [], []
        for i in range(rows):
            live: list[tuple[int, int, float]] = []
            for place, (total, index) in enumerate(zip(best.values[i].tolist(), best.indices[i].tolist(), strict=True)):
                beam, token = divmod(index, scores.shape[-1])
                if token in stops:
                    if place < beams:
                        finished[i].append((total / step, texts[i][beam]))
                elif len(live) < beams:
                    live.append((beam, token, total))
            kept.append([[*texts[i][beam], token] for beam, token, _ in live])
            parents += [i * width + beam for beam, _, _ in live]
            chosen += [[token] for _, token, _ in live]
            sums.append([total for _, _, total in live])
            finished[i] = sorted(finished[i], key=lambda pair: -pair[0])[:beams]
        texts, totals = kept, torch.tensor(sums, device=logits.device)
        settled = all(
            len(finished[i]) == beams and finished[i][-1][0] >= float(totals[i].max()) / step for i in range(rows)
        )
        if settled or step == decoding.max_new_tokens:
            break
        session.select(torch.tensor(parents, device=logits.device))
        scores = session.extend(chosen)[:, -1].log_softmax(-1)
    last = len(texts[0][0])
    for i in range(rows):
        if len(finished[i]) < beams:
            finished[i] += [(total / last, text) for total, text in zip(totals[i].tolist(), texts[i], strict=True)]
    return [max(found, key=lambda pair: pair[0])[1] for found in finished]
