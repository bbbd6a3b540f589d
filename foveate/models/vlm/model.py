"""An image-text model that answers at a budget: text-only pass, NO / COARSE / FULL passes, task loss.

    vlm = load_vlm("Qwen/Qwen3-VL-2B-Instruct", budget=VisionBudget(coarse_long_side=224))
    text = vlm.text_pass(samples)                      # the question alone
    answers = vlm.answer(samples, "COARSE", reuse=text)  # the text's keys and values serve again

It knows neither policies nor metrics. Samples are batched by picture size and length, and come back in their order.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.base import Pruner
from foveate.models.vlm.backbone import Backbone, Session
from foveate.models.vlm.budget import VisionBudget, resize
from foveate.models.vlm.decoding import Decoding, generate, uncertainty
from foveate.models.vlm.families import Family, ModelImage, VisionFeatures
from foveate.models.vlm.images import decode
from foveate.models.vlm.prompt import LETTERS, Prompt, PromptMaker, gold
from foveate.models.vlm.reuse import ReadBatch, TextPass, gather_past
from foveate.types import VisionLevel, VQASample
from foveate.util.pictures import MAX_PIXELS, ImageError


@dataclass(frozen=True)
class Answer:
    """One question, answered at one level."""

    text: str
    """What was generated; of a multiple choice the letter."""
    choice_logprobs: tuple[float, ...] | None = None
    """Log-probabilities of the choices among each other; None: an open question."""
    vision_tokens: int = 0
    """Image tokens that the model's own processor made."""
    remaining_vision_tokens: int = 0
    """Those that the language model read, after pruning."""
    entropy: float = float("nan")
    """Nats, of the first answer token's distribution."""
    margin: float = float("nan")
    """Top-1 minus top-2 probability of it."""
    loss_nats: float | None = None
    """Negative log-probability of the accepted answer, per token; None: the answer is not public."""
    error: str = ""
    """Why there is no answer: the picture is missing or broken."""


@dataclass(frozen=True)
class Batch:
    """Samples that go through the model together."""

    index: list[int]
    """Into the samples of the call."""
    prompts: list[Prompt]
    images: list[ModelImage] | None


class VLM:
    """A transformers image-text model with its tokenizer, template and budget.

    Args:
        batch_size: most samples of one forward pass.
        max_pixels: a picture with more is marked as broken before it is decoded.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        prompts: PromptMaker,
        budget: VisionBudget,
        *,
        batch_size: int = 32,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.model, self.family, self.prompts, self.batch_size = model, family, prompts, batch_size
        if budget.patch_size is None and family.token_side is not None:
            budget = VisionBudget(**(asdict(budget) | {"patch_size": family.token_side}))
        self.budget = budget
        family.token_cap = budget.token_cap
        self.backbone = Backbone(model, family)
        named = getattr(model.generation_config, "eos_token_id", None)
        stops = [*(named if isinstance(named, list) else [named]), prompts.tokenizer.eos_token_id]
        self._stops = frozenset(stop for stop in stops if stop is not None)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def reuse_obstacle(self) -> str:
        """Why the text pass cannot serve the passes with a picture; empty: it can."""
        if self.family.image_first:
            return f"{self.family.config.model_type} takes the image before the question"
        if self.family.bidirectional:
            return f"the prompt of {self.family.config.model_type} attends to itself in both directions"
        if fields := self.prompts.template.fields_behind_image:
            return f"{{{fields[0]}}} stands behind {{image}} in the prompt template"
        if self.prompts.image_is_moved:
            return "the model's chat template puts the image before the question"
        return ""

    @property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, processor, template and budget: what a cache of answers is keyed by.

        Computed anew at each call, since training changes the weights.
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        tokenizer = self.prompts.tokenizer
        parts = {
            "vocabulary": sorted(tokenizer.get_vocab().items()),
            "chat_template": tokenizer.chat_template,
            "processor": json.loads(self.family.processor.to_json_string()),
            "template": self.prompts.template.text,
            "budget": asdict(self.budget),
        }
        digest.update(json.dumps(parts, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def image(self, sample: VQASample, level: VisionLevel) -> ModelImage:
        """The sample's picture as the model takes it at COARSE or FULL.

        Raises:
            ImageError: it is missing or cannot be decoded.
        """
        (image,) = self._images([sample], level)
        if isinstance(image, ImageError):
            raise image
        return image

    def _images(self, samples: Sequence[VQASample], level: VisionLevel) -> list[ModelImage | ImageError]:
        """Each sample's picture, or why it is missing, broken, or refused by the model's processor."""
        found: dict[int, ModelImage | ImageError] = {}
        decoded: dict[int, Image.Image] = {}
        for i, sample in enumerate(samples):
            try:
                decoded[i] = resize(decode(sample, self.max_pixels), level, self.budget)
            except ImageError as error:
                found[i] = error
        try:
            found |= zip(decoded, self.family.images(list(decoded.values())), strict=True)
        except Exception:  # foreign code, and one picture stops it for all: an aspect ratio above 200
            for i, picture in decoded.items():
                try:
                    (found[i],) = self.family.images([picture])
                except Exception as error:
                    found[i] = ImageError(
                        f"sample {samples[i].id}: the model's processor refuses the image ({picture.width} x "
                        f"{picture.height} pixels): {error}"
                    )
        return [found[i] for i in range(len(samples))]

    @torch.inference_mode()
    def text_pass(self, samples: Sequence[VQASample]) -> TextPass:
        """Read the questions without their pictures.

        Keys and values of all samples stay in memory until the result is dropped, so hand over a few batches at a time.
        """
        if not samples:
            raise FoveateError("text pass: expected at least one sample, got none")
        prompts = [self.prompts.prompt(sample) for sample in samples]
        size = self.backbone.base.config.get_text_config().hidden_size
        hidden, entropy, margin = torch.empty(len(samples), size), torch.empty(len(samples)), torch.empty(len(samples))
        batches: list[ReadBatch] = []
        places: dict[str, tuple[int, int]] = {}
        for index in _batches(range(len(samples)), prompts, self.batch_size):
            session = self.backbone.read(self.backbone.rows([prompts[i] for i in index], None, None), None)
            logits = session.logits()[:, 0]
            weight = session.mask[..., None].float()
            hidden[index] = ((session.hidden.float() * weight).sum(1) / weight.sum(1)).cpu()
            entropy[index], margin[index] = (x.cpu() for x in uncertainty(logits))
            places |= {samples[i].id: (len(batches), row) for row, i in enumerate(index)}
            batches.append(ReadBatch(session, logits, tuple(prompts[i] for i in index)))
        if len(places) < len(samples):
            raise FoveateError("text pass: two samples have one id; ids must differ within a call")
        return TextPass(hidden, entropy, margin, batches, places)

    @torch.inference_mode()
    def answer(
        self,
        samples: Sequence[VQASample],
        level: VisionLevel,
        *,
        decoding: Decoding | None = None,
        pruner: Pruner | None = None,
        reuse: TextPass | None = None,
    ) -> list[Answer]:
        """Answer at a level: choices are scored by their letters, open questions generated.

        Args:
            decoding: of open questions; default greedy.
            pruner: drops image tokens before the language model; position ids stay those of the full picture.
            reuse: the text pass of these samples. At NO it is the answer's own prompt; with a picture its keys
                and values serve where `reuse_obstacle` is empty, and are ignored where it is not.
        """
        decoding = decoding or Decoding()
        answers: list[Answer | None] = [None] * len(samples)
        if level == "NO" and reuse is not None:
            self._answer_from_text(samples, reuse, decoding, answers)
        else:
            for batch in self.batches(samples, level, answers):
                session, counts = self._read(samples, batch, pruner, None if self.reuse_obstacle else reuse)
                self._finish([samples[i] for i in batch.index], batch, session, counts, decoding, answers)
        return [answer for answer in answers if answer is not None]

    def loss(self, samples: Sequence[VQASample], level: VisionLevel, *, stop: bool = False) -> Tensor:
        """Task loss, float32 [B]: nats per token of the accepted answer; differentiable.

        Args:
            stop: count the stop token behind the answer too, so that training teaches where an answer ends.
        Raises:
            FoveateError: a sample has no public answer; ImageError: a picture is missing or broken.
        """
        losses: list[Tensor | None] = [None] * len(samples)
        for batch in self.batches(samples, level):
            value = self.batch_loss([samples[i] for i in batch.index], batch, self.encode(batch), stop=stop)
            for row, i in enumerate(batch.index):
                losses[i] = value[row]
        return torch.stack([loss for loss in losses if loss is not None])

    def encode(self, batch: Batch) -> VisionFeatures | None:
        """The pictures of a batch through the vision tower; None: it has none."""
        return self.backbone.encode(batch.images) if batch.images else None

    def batch_loss(
        self, samples: Sequence[VQASample], batch: Batch, features: VisionFeatures | None, *, stop: bool = False
    ) -> Tensor:
        """`loss` of one batch, given its encoded pictures; float32 [B], in the order of the batch."""
        tails = [self._gold(sample) for sample in samples]
        if any(tail is None for tail in tails):
            lacking = next(s.id for s, tail in zip(samples, tails, strict=True) if tail is None)
            raise FoveateError(f"sample {lacking} has no public answer: it cannot be trained on")
        end = (self.prompts.tokenizer.eos_token_id,) if stop and self.prompts.tokenizer.eos_token_id is not None else ()
        targets = [(*tail, *end) for tail in tails if tail is not None]
        fed = [Prompt(p.prefix, p.suffix + target[:-1]) for p, target in zip(batch.prompts, targets, strict=True)]
        rows = self.backbone.rows(fed, batch.images, None)
        session = self.backbone.read(rows, features, cached=False, answers=[len(t) - 1 for t in targets])
        width = max(map(len, targets))
        logs = session.logits(width).log_softmax(-1)
        wanted = torch.zeros(len(targets), width, dtype=torch.long)
        counts = torch.zeros(len(targets), width)
        for i, target in enumerate(targets):
            wanted[i, width - len(target) :] = torch.tensor(target)
            counts[i, width - len(target) :] = 1 / len(target)
        return -(logs.gather(-1, wanted.to(logs.device)[..., None])[..., 0] * counts.to(logs.device)).sum(-1)

    def _gold(self, sample: VQASample) -> tuple[int, ...] | None:
        text = gold(sample)
        return None if text is None else self.prompts.answer(text)

    def batches(
        self, samples: Sequence[VQASample], level: VisionLevel, answers: list[Answer | None] | None = None
    ) -> Iterator[Batch]:
        """Samples by picture size and length, at most `batch_size` together.

        Broken pictures are answered at once, or, without `answers`, raised.
        """
        prompts = [self.prompts.prompt(sample) for sample in samples]
        groups: dict[Any, list[int]] = defaultdict(list)
        images: dict[int, ModelImage] = {}
        if level == "NO":
            groups[None] = list(range(len(samples)))
        else:
            for i, image in enumerate(self._images(samples, level)):
                if isinstance(image, ImageError):
                    if answers is None:
                        raise image
                    answers[i] = Answer("", error=str(image))
                    continue
                images[i] = image
                groups[image.shape].append(i)
        for members in groups.values():
            for index in _batches(members, prompts, self.batch_size):
                pictures = [images[i] for i in index] if level != "NO" else None
                yield Batch(index, [prompts[i] for i in index], pictures)

    def _read(
        self, samples: Sequence[VQASample], batch: Batch, pruner: Pruner | None, reuse: TextPass | None
    ) -> tuple[Session, list[tuple[int, int]]]:
        """Read a batch; per row the image tokens there were and those that remain."""
        features: VisionFeatures | None = None
        keep = None
        if batch.images:
            features = self.backbone.encode(batch.images)
            if pruner is not None:
                seeds = torch.tensor([_seed(samples[i].id) for i in batch.index])
                keep, features = self.backbone.prune(pruner, batch.prompts, batch.images[0], features, seeds)
        rows = self.backbone.rows(batch.prompts, batch.images, keep)
        past = None
        if reuse is not None and batch.images and all(prompt.prefix for prompt in batch.prompts):
            places = [reuse.place(samples[i].id, p) for i, p in zip(batch.index, batch.prompts, strict=True)]
            past = gather_past(reuse, places, batch.prompts)
            for row, prompt in zip(rows, batch.prompts, strict=True):
                row.skip = len(prompt.prefix)
        made = batch.images[0].tokens if batch.images else 0
        return self.backbone.read(rows, features, past=past), [(made, row.patches) for row in rows]

    def _answer_from_text(
        self, samples: Sequence[VQASample], reuse: TextPass, decoding: Decoding, answers: list[Answer | None]
    ) -> None:
        groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for i, sample in enumerate(samples):
            batch, row = reuse.place(sample.id, self.prompts.prompt(sample))
            groups[batch].append((i, row))
        for source, members in groups.items():
            index, rows = [i for i, _ in members], [row for _, row in members]
            session, _ = reuse.batches[source].resumed(rows)
            read = [samples[i] for i in index]
            batch_of = Batch(index, [reuse.batches[source].prompts[row] for row in rows], None)
            self._finish(read, batch_of, session, [(0, 0)] * len(rows), decoding, answers)

    def _finish(
        self,
        samples: list[VQASample],
        batch: Batch,
        session: Session,
        counts: list[tuple[int, int]],
        decoding: Decoding,
        answers: list[Answer | None],
    ) -> None:
        """Answer a batch that has been read."""
        logits = session.logits()[:, 0]
        logs = logits.log_softmax(-1)
        entropy, margin = (x.tolist() for x in uncertainty(logits))
        golds = [self._gold(sample) for sample in samples]
        losses = self._score(session, logs, [ids or () for ids in golds])
        choices = self._choices(session, logs, samples)
        texts: dict[int, str] = {}
        if free := [row for row, sample in enumerate(samples) if not sample.choices]:
            if len(free) < len(samples):
                session.select(torch.tensor(free, device=self.device))
            ids = generate(session, logits[free], decoding, self._stops, [samples[row].id for row in free])
            decoded = self.prompts.tokenizer.batch_decode(ids, skip_special_tokens=True)
            texts = {row: text.strip() for row, text in zip(free, decoded, strict=True)}
        for row, i in enumerate(batch.index):
            ranked = choices.get(row)
            text = texts[row] if ranked is None else LETTERS[max(range(len(ranked)), key=ranked.__getitem__)]
            loss = None if golds[row] is None else losses[row]
            answers[i] = Answer(text, ranked, *counts[row], entropy[row], margin[row], loss)

    def _score(self, session: Session, logs: Tensor, targets: list[tuple[int, ...]]) -> list[float]:
        """Negative log-probability per token of one continuation of each row; empty ones count 0."""
        first = torch.tensor([target[0] if target else 0 for target in targets], device=logs.device)
        total = -logs.gather(1, first[:, None])[:, 0]
        if any(len(target) > 1 for target in targets):
            fed = [target[:-1] for target in targets]
            width = max(map(len, fed))
            more = session.extend(fed).log_softmax(-1)
            session.rewind(width, fed)
            for i, target in enumerate(targets):
                for place, token in enumerate(target[1:], start=width - len(target) + 1):
                    total[i] -= more[i, place, token]
        return [float(value) / max(1, len(target)) for value, target in zip(total, targets, strict=True)]

    def _choices(self, session: Session, logs: Tensor, samples: list[VQASample]) -> dict[int, tuple[float, ...]]:
        """Row -> log-probabilities of its letters, normalised among them."""
        most = max(len(sample.choices) for sample in samples)
        letters = [self.prompts.answer(letter) for letter in LETTERS[:most]]
        scores = torch.full((len(samples), most), -torch.inf)
        for k, ids in enumerate(letters):
            targets = [ids if k < len(sample.choices) else () for sample in samples]
            value = self._score(session, logs, targets)
            for row, target in enumerate(targets):
                if target:
                    scores[row, k] = -value[row] * len(ids)
        return {
            row: tuple(scores[row, : len(sample.choices)].log_softmax(-1).tolist())
            for row, sample in enumerate(samples)
            if sample.choices
        }


def _batches(members: Sequence[int], prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Indices by prompt length, in batches."""
    order = sorted(members, key=lambda i: len(prompts[i].text))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _seed(name: str) -> int:
    """A seed of a sample's own, from its id."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
