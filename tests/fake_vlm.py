"""A vision-language model of arithmetic for tests: `fake_vlm:FakeVLM`, with tests/ on the path.

A question's text or id says what it needs (`need=COARSE`, as in the mixed set), and the model is right at that level
and above. Its text-first hidden state shows the need with noise; `calls` records which passes ran.
"""

from __future__ import annotations

import io
import random
import re
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from foveate.models.vlm.images import decode
from foveate.types import VQASample

LEVELS = ("NO", "COARSE", "FULL")
TOKENS = {"NO": 0, "COARSE": 4, "FULL": 16}


@dataclass
class FakeAnswer:
    text: str
    choice_logprobs: tuple[float, ...] | None
    vision_tokens: int
    remaining_vision_tokens: int
    entropy: float
    margin: float
    loss_nats: float | None
    error: str = ""


@dataclass
class FakeText:
    hidden: torch.Tensor
    entropy: torch.Tensor
    margin: torch.Tensor


@dataclass
class FakeImage:
    tokens: int


class FakeVLM:
    reuse_obstacle = ""

    def __init__(self, name: str = "fake") -> None:
        self.fingerprint = name
        self.calls: list[tuple[str, int]] = []

    def image(self, sample, level):
        return FakeImage(TOKENS[level])

    def text_pass(self, samples):
        self.calls.append(("text", len(samples)))
        rows = []
        for sample in samples:
            rng = _rng(sample.id, "text")
            needed = np.eye(3)[LEVELS.index(_need(sample))]
            rows.append(np.concatenate([needed + rng.normal(0, 0.3, 3), rng.normal(0, 1, 5)]))
        entropy = [_doubt(s, "NO") for s in samples]
        return FakeText(torch.tensor(np.array(rows)).float(), torch.tensor(entropy), 1 - torch.tensor(entropy) / 2)

    def answer(self, samples, level, *, decoding=None, pruner=None, reuse=None):
        self.calls.append((level if pruner is None else "pruned", len(samples)))
        answers = []
        for sample in samples:
            if level != "NO":
                decode(sample)
            rng = _rng(sample.id, level, str(decoding.seed) if decoding and decoding.do_sample else "")
            enough = LEVELS.index(level) >= LEVELS.index(_need(sample))
            kept = TOKENS[level]
            if pruner is not None:
                kept = pruner.config.of(kept)
                enough = enough and rng.random() < kept / TOKENS[level]
            right = enough or rng.random() < 0.25
            doubt = _doubt(sample, level)
            loss = 0.05 + 0.1 * rng.random() if right else 1.0 + rng.random()
            answers.append(
                FakeAnswer(
                    (sample.answers or ("yes",))[0] if right else "wrong",
                    None,
                    TOKENS[level],
                    kept,
                    doubt,
                    1 - doubt / 2,
                    loss,
                )
            )
        return answers


def _need(sample: VQASample) -> str:
    return re.findall(r"need=(NO|COARSE|FULL)", f"{sample.id} {sample.question}")[0]


def _doubt(sample: VQASample, level: str) -> float:
    sure = LEVELS.index(level) >= LEVELS.index(_need(sample))
    return float(np.clip(_rng(sample.id, level, "doubt").normal(0.4 if sure else 0.9, 0.25), 0, 2))


def _rng(*words: str) -> np.random.Generator:
    return np.random.default_rng(random.Random("/".join(words)).getrandbits(32))


def fake_samples(count: int = 200, dataset: str = "fake", seed: int = 0) -> list[VQASample]:
    """Questions that need each level in turn, two per picture."""
    rng = random.Random(seed)
    samples = []
    for i in range(count):
        need = LEVELS[(rng.randrange(10) * 3) // 10]
        question = f"what is it? need={need}"
        category = ("colour", "shape")[i % 2]
        samples.append(
            VQASample(
                f"{dataset}/{seed}/{i}", dataset, question, ("yes",), _picture(i // 2 + 1000 * seed), category=category
            )
        )
    return samples


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.full((8, 8, 3), (number % 256, number // 256 % 256, 7), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
