"""Train an image-text model on questions at several levels at once, on the loop that trains policies too.

    foveate train vlm --config foveate/training/presets/tiny_qwen3vl.yaml --out runs/tiny_vlm

A model that is to be asked at NO, COARSE and FULL must have been asked at all three: each step holds one sub-batch per
level, of pictures of one size. `levels: {blind: 0, coarse: 0, full: 1}` is the plain always-full tuning.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from foveate.data.vqa.jsonl import SUFFIXES
from foveate.data.vqa.load import load_vqa
from foveate.data.vqa.mixed import DATASET, KINDS, items
from foveate.errors import FoveateError, unknown
from foveate.models.vlm.budget import LEVELS
from foveate.models.vlm.load import DTYPES, Lora, load_vlm, save_vlm
from foveate.models.vlm.model import VLM, Answer
from foveate.training.config import RESUME_FREE, LoopConfig, OptimConfig
from foveate.training.loop import DRAWS, Share, fit, seed_of
from foveate.training.vlm.aux_heads import LAYERS, AuxHeads
from foveate.training.vlm.tiny import make_tiny
from foveate.types import VisionLevel, VQASample
from foveate.util.world import World, join_world

log = logging.getLogger(__name__)

NEW = "new"
MIXED_SEED = 1
"""Of the questions of the mixed set that a model is trained on; the set that users load has seed 0."""


@dataclass(frozen=True)
class LevelMix:
    """How the rows of a step divide into levels; any numbers, their proportions count."""

    blind: float = 0.0
    """Proportion of rows that read the question alone."""
    coarse: float = 0.0
    """Proportion of rows that see the COARSE picture."""
    full: float = 1.0
    """Proportion of rows that see the FULL picture."""
    focus: float = 0.0
    """Share of a level's rows drawn from questions that need just this level, where that is known; in [0, 1]."""

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or not sum(self.shares) > 0:
            raise FoveateError(f"levels: expected shares of blind, coarse and full, one above 0, got {self.shares}")
        if not 0 <= self.focus <= 1:
            raise FoveateError(f"levels.focus: expected a share in [0, 1], got {self.focus}")

    @property
    def shares(self) -> tuple[float, float, float]:
        return self.blind, self.coarse, self.full


@dataclass(frozen=True)
class QuestionsConfig:
    """Questions that are trained on."""

    sets: tuple[str, ...] = ()
    """Names of question sets, or JSONL files."""
    weights: tuple[float, ...] = ()
    """Relative frequency with which each set is drawn from; empty: all alike."""
    max_samples: int | None = None
    """Largest number of questions of each published set; null: all."""
    root: str | None = None
    """Folder with the files of the published sets."""
    kinds: tuple[str, ...] = ()
    """Categories of questions that are drawn, in sets that have any of them; empty: all."""
    negation_from: int = 0
    """First step that draws negated questions; before comparing is learned, they cancel out the others."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.sets):
            raise FoveateError(f"data: {len(self.sets)} sets and {len(self.weights)} weights; give one for each")


@dataclass(frozen=True)
class TrainVlmConfig:
    """Train an image-text model on questions, at one level or several."""

    out: str = "runs/train_vlm"
    """Folder of the run: checkpoints, metrics.jsonl, tensorboard, and the finished model in `model`."""
    init_from: str = NEW
    """Model to tune, a folder or a name; `new`: a small Qwen3-VL from nothing, with the vocabulary of the data."""
    seed: int = 0
    """Random seed of new weights and of the order of the data."""
    lora: Lora | None = None
    """Low-rank adapters, tuned in place of all weights."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights in `model`."""
    aux_weight: float = 0.0
    """Weight in the loss, at the first step, of auxiliary heads that name what is in the pictures of the mixed set."""
    aux_until: float = 0.6
    """Share of the run, in [0, 1], over which the weight of the auxiliary heads falls to 0."""
    levels: LevelMix = field(default_factory=LevelMix)
    """Proportions of the levels in a step."""
    data: QuestionsConfig = field(default_factory=QuestionsConfig)
    """Questions."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Length, batch, device, checkpoints."""

    def __post_init__(self) -> None:
        if not self.data.sets:
            raise FoveateError("data.sets: no questions to train on; name sets (as easy_vqa,mixed) or JSONL files")
        if self.init_from == NEW and self.lora is not None:
            raise FoveateError("lora adapts a model that is there; init_from: new makes one")


@dataclass(frozen=True)
class QuestionBatch:
    """One process's rows of a step, by level."""

    rows: tuple[tuple[VisionLevel, tuple[VQASample, ...]], ...]

    def to(self, device: torch.device | str) -> QuestionBatch:
        return self


class Questions(Protocol):
    """A set to draw from."""

    def texts(self) -> set[str]:
        """What its words are learned from."""
        ...

    def draw(self, rng: np.random.Generator, level: VisionLevel | None, plain: bool = False) -> VQASample:
        """One question.

        Args:
            level: one that needs just this level, where that is known.
            plain: none that is negated.
        """
        ...


class ListedQuestions:
    """The questions of a published set, or of a JSONL file, that have a public answer."""

    def __init__(self, samples: Sequence[VQASample]) -> None:
        self.samples = [sample for sample in samples if sample.answers]

    def texts(self) -> set[str]:
        return {text for s in self.samples for text in (s.hint, s.question, *s.answers, *s.choices)}

    def draw(self, rng: np.random.Generator, level: VisionLevel | None, plain: bool = False) -> VQASample:
        while True:
            sample = self.samples[int(rng.integers(len(self.samples)))]
            if not (plain and negated(sample.question)):
                return sample


class MixedQuestions:
    """The mixed set without end: a stream of its own, so that the set on which policies are trained stays unseen."""

    def __init__(self, kinds: Sequence[str] = ()) -> None:
        self.kinds = frozenset(kinds or KINDS)

    def texts(self) -> set[str]:
        # The held-out wordings recombine words of the others, so the training split has every word.
        return {
            text for item in items("train", 2000, MIXED_SEED) for text in (*item.context, item.question, item.answer)
        }

    def draw(self, rng: np.random.Generator, level: VisionLevel | None, plain: bool = False) -> VQASample:
        while True:
            item = next(items("train", 1, MIXED_SEED, int(rng.integers(2**31))))
            fits = level in (None, item.facts.need) and item.kind in self.kinds
            if fits and not (plain and negated(item.question)):
                break
        pixels = item.pixels()
        picture = (
            f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes()
        )  # PNG takes four times longer
        return VQASample(
            item.id, DATASET, item.question, (item.answer,), picture, hint=" ".join(item.context), category=item.kind
        )


def negated(question: str) -> bool:
    return not {"not", "no"}.isdisjoint(question.split())


class QuestionSource:
    """Draws the rows of a step from `(seed, step)` alone."""

    def __init__(
        self,
        sets: Sequence[Questions],
        weights: Sequence[float],
        levels: LevelMix,
        seed: int,
        negation_from: int = 0,
    ) -> None:
        self.sets, self.levels, self.seed, self.negation_from = sets, levels, seed, negation_from
        self.edges = np.cumsum(weights) / sum(weights)

    def level_of(self, row: int) -> VisionLevel:
        """The level of a row: shares as in `levels`, spread evenly, so that every portion holds all levels."""
        edges = np.cumsum(self.levels.shares) / sum(self.levels.shares)
        # Multiples of the golden ratio: any run of rows is spread over [0, 1).
        return LEVELS[int(np.searchsorted(edges, (row + 0.5) * 0.6180339887 % 1.0, side="right").clip(0, 2))]

    def batch(self, share: Share) -> QuestionBatch:
        rows: dict[VisionLevel, list[VQASample]] = {level: [] for level in LEVELS}
        for row in range(share.start, share.stop):
            rng = np.random.default_rng(seed_of(self.seed, DRAWS, share.step, row))
            level = self.level_of(row)
            chosen = self.sets[int(np.searchsorted(self.edges, rng.random(), side="right").clip(0, len(self.sets) - 1))]
            need = level if rng.random() < self.levels.focus else None
            rows[level].append(chosen.draw(rng, need, share.step < self.negation_from))
        return QuestionBatch(tuple((level, tuple(found)) for level, found in rows.items() if found))


class QuestionLoss(nn.Module):
    """A model with its task loss and the auxiliary heads, as one module."""

    def __init__(self, vlm: VLM, aux_weight: float, aux_until: float) -> None:
        super().__init__()
        self.vlm, self.model = vlm, vlm.model
        width = vlm.backbone.base.config.get_text_config().hidden_size
        self.aux = AuxHeads(width) if aux_weight else None
        self.aux_weight, self.aux_until = aux_weight, aux_until
        self._scale = 0.0
        self._states: dict[int, Tensor] = {}
        for layer in LAYERS if aux_weight else ():
            vlm.backbone.decoder.layers[layer].register_forward_hook(functools.partial(self._keep, layer))
        self._last: dict[str, float] = {}
        self._named: set[str] = set()

    def _keep(self, layer: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self._states[layer] = output[0] if isinstance(output, tuple) else output

    def forward(self, batch: QuestionBatch) -> Tensor:
        """Mean nats per answer token over all rows, stop token included, plus the auxiliary losses while they last."""
        total, rows = torch.zeros((), device=self.vlm.device), 0
        extra = torch.zeros((), device=self.vlm.device)
        for level, samples in batch.rows:
            broken: list[Answer | None] = [None] * len(samples)
            for part in self.vlm.batches(samples, level, broken):
                features = self.vlm.encode(part)
                chosen = [samples[i] for i in part.index]
                loss = self.vlm.batch_loss(chosen, part, features, stop=True)
                total, rows = total + loss.sum(), rows + len(chosen)
                self._last[f"loss/{level}"] = float(loss.detach().mean())
                if self.aux is not None and self._scale > 0:
                    # The prompt's last token stands before the answer, which is one token, then the stop token.
                    tokens = None if features is None else features.tokens
                    extra = extra + self.aux(chosen, level, tokens, [self._states[n][:, -2] for n in LAYERS])
            self._leave_out(samples, broken)
        if not rows:  # nothing could be looked at: a step without a gradient
            total = total + 0 * next(p for p in self.model.parameters() if p.requires_grad).sum()
        self._last["aux"] = float(extra.detach())
        return total / max(1, rows) + self._scale * extra

    def _leave_out(self, samples: Sequence[VQASample], broken: Sequence[Answer | None]) -> None:
        """Name each question that the model cannot look at, once."""
        for sample, answer in zip(samples, broken, strict=True):
            if answer is not None and sample.id not in self._named:
                self._named.add(sample.id)
                log.warning("left out: %s", answer.error)

    def begin_step(self, step: int, total: int) -> dict[str, float]:
        self._scale = self.aux_weight * max(0.0, 1 - step / (self.aux_until * total))
        return {"aux_weight": self._scale} if self.aux is not None else {}

    def metrics(self) -> dict[str, float]:
        return dict(self._last)


def train_vlm(config: TrainVlmConfig) -> Path:
    """Train, or go on with training; returns the model folder `out/model`."""
    with join_world(config.loop.device) as world:
        return _train(config, world)


def _train(config: TrainVlmConfig, world: World) -> Path:
    sets = load_questions(config.data)
    vlm = begin(config, sets, str(world.device))
    objective = QuestionLoss(vlm, config.aux_weight, config.aux_until).to(world.device)
    source = QuestionSource(
        sets, config.data.weights or [1.0] * len(sets), config.levels, config.seed, config.data.negation_from
    )
    out = Path(config.out)
    ema = fit(
        objective, source, config.loop, config.optim, out, world=world, seed=config.seed, identity=_identity(config)
    )
    if world.is_main:
        with ema.applied():
            save_vlm(vlm, out / "model", DTYPES[config.save_dtype])
        settings = json.loads(json.dumps(dataclasses.asdict(config)))
        (out / "model" / "train_config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    world.barrier()
    return out / "model"


def load_questions(config: QuestionsConfig) -> list[Questions]:
    """The sets that are trained on.

    Raises:
        FoveateError: no set has a category that is asked for.
    """
    sets: list[Questions] = []
    known: set[str] = set()
    for name in config.sets:
        if name == DATASET:
            known |= KINDS.keys()
            sets.append(MixedQuestions([kind for kind in config.kinds if kind in KINDS]))
            continue
        split = None if name.endswith(SUFFIXES) else "train"
        samples = load_vqa(name, split, config.root, config.max_samples)
        known |= {s.category for s in samples if s.category}
        sets.append(ListedQuestions([s for s in samples if s.category in config.kinds] or samples))
    for kind in config.kinds:
        if kind not in known:
            raise unknown("data.kinds: category", kind, known)
    return sets


def begin(config: TrainVlmConfig, sets: Sequence[Questions], device: str) -> VLM:
    """The model that training starts with, in float32."""
    if config.init_from != NEW:
        return load_vlm(config.init_from, device=device, lora=config.lora, batch_size=config.loop.batch_size)
    texts = set().union(*(questions.texts() for questions in sets))
    vlm = make_tiny(texts, seed_of(config.seed) % 2**31, config.loop.batch_size)
    vlm.model.to(device)
    return vlm


def _identity(config: TrainVlmConfig) -> dict[str, Any]:
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    del values["out"]
    values["loop"] = {k: v for k, v in values["loop"].items() if k not in RESUME_FREE}
    return values
