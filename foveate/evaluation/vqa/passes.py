"""The passes that all rows of a comparison are looked up in: each question once per action, batched, cached, sharded.

    names = pass_names(ratios=(0.5,), modes=("stride",))      # text, NO, COARSE, FULL, FULL@stride0500
    run_passes(vlm, samples, names, cache, options)

Batches are cut from the whole set, alike in picture size and length, and processes take every n-th of them: a question
shares its batch with the same others whatever the number of processes, so merged results are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.evaluation.vqa.cache import PassCache, pack_hidden, sample_key
from foveate.models.vlm.budget import VisionBudget, resize
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.images import ImageError, decode
from foveate.pruning import make_pruner
from foveate.types import VisionLevel, VQASample
from foveate.vision_value.config import LEVELS

if TYPE_CHECKING:
    from foveate.models.vlm.model import Answer
    from foveate.models.vlm.reuse import TextPass

IMAGE_PASS = "image"
"""Not of the model: is the picture readable, and how large is it."""
TEXT_PASS = "text"
TOKENS_PASS = "tokens"
"""How many vision tokens a FULL look would have, where none is made."""


POOL = {"pool": "downsample"}
"""Where a mode is not called as the pruning method is: `downsample` here is a smaller picture."""


class VLMLike(Protocol):
    """What evaluation asks of a vision-language model."""

    @property
    def fingerprint(self) -> str: ...

    def image(self, sample: VQASample, level: VisionLevel) -> Any:
        """The picture as the model takes it; its `tokens` are counted."""
        ...

    def text_pass(self, samples: Sequence[VQASample]) -> TextPass: ...

    def answer(
        self,
        samples: Sequence[VQASample],
        level: VisionLevel,
        *,
        decoding: Decoding,
        pruner: Any = None,
        reuse: Any = None,
    ) -> Sequence[Answer]: ...


@dataclass(frozen=True)
class PrunedPass:
    """A FULL look with a share of its vision tokens."""

    mode: str
    ratio: float

    @property
    def name(self) -> str:
        """Of the pass; all the tokens are the FULL pass itself."""
        return f"FULL@{self.mode}{round(self.ratio * 1000):04d}" if self.ratio < 1 else "FULL"


@dataclass(frozen=True)
class PassOptions:
    """How passes are made; only `decoding` changes answers, and it is in the cache's key."""

    decoding: Decoding
    batch_size: int = 32
    reuse: bool = True
    rank: int = 0
    """This process among `processes`."""
    processes: int = 1


def run_passes(
    vlm: VLMLike,
    samples: Sequence[VQASample],
    names: Iterable[str],
    cache: PassCache,
    options: PassOptions,
    *,
    pruned: Sequence[PrunedPass] = (),
    on_plan: Callable[[int], None] | None = None,
    on_answers: Callable[[int], None] | None = None,
) -> None:
    """Make what the cache lacks of this process's share.

    Args:
        names: of `text`, `NO`, `COARSE`, `FULL`.
        pruned: further looks, each a pass of its own.
        on_plan: called with the number of answers to be made.
        on_answers: called with the number of answers that have just been made.
    """
    share = plan(samples, cache, names, pruned, options.batch_size)[options.rank :: options.processes]
    if on_plan:
        on_plan(sum(work.answers for work in share))
    for work in share:
        for name, rows in make_rows(vlm, work, options):
            cache.add(name, rows)
            if on_answers:
                on_answers(len(rows))


@dataclass(frozen=True)
class Work:
    """One batch, and for each pass the questions of it that are still to be made."""

    samples: tuple[VQASample, ...]
    keys: tuple[str, ...]
    missing: Mapping[str, tuple[int, ...]]
    """Pass -> positions in the batch."""
    pruned: Mapping[str, PrunedPass]

    @property
    def answers(self) -> int:
        return sum(map(len, self.missing.values()))


def plan(
    samples: Sequence[VQASample],
    cache: PassCache,
    names: Iterable[str],
    pruned: Sequence[PrunedPass],
    batch_size: int,
) -> list[Work]:
    """Batches over all readable questions, alike in picture size and length; each with what the cache lacks of it.

    Batches of which nothing is missing stay in the list (empty), so that every process counts the same ones.
    """
    keys = [sample_key(sample) for sample in samples]
    known = cache.rows(IMAGE_PASS)
    images = {key: known.get(key) or inspect_image(sample, key) for key, sample in zip(keys, samples, strict=True)}
    order = sorted(
        (i for i, key in enumerate(keys) if not images[key]["error"]),
        key=lambda i: (images[keys[i]]["width"], images[keys[i]]["height"], _length(samples[i]), i),
    )
    by_name = {t.name: t for t in pruned}
    wanted = [*dict.fromkeys(names), *by_name]
    done = {name: cache.rows(name).keys() for name in wanted}
    work = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        missing = {name: tuple(j for j, i in enumerate(batch) if keys[i] not in done[name]) for name in wanted}
        work.append(
            Work(
                tuple(samples[i] for i in batch),
                tuple(keys[i] for i in batch),
                {name: m for name, m in missing.items() if m},
                by_name,
            )
        )
    return work


def inspect_image(sample: VQASample, key: str) -> dict[str, Any]:
    """Size of the picture, or why it cannot be read; 0 x 0 where the question has none."""
    if sample.image is None:
        return {"key": key, "width": 0, "height": 0, "error": ""}
    try:
        width, height = decode(sample).size
    except ImageError as error:
        return {"key": key, "width": 0, "height": 0, "error": str(error)}
    return {"key": key, "width": width, "height": height, "error": ""}


def inspect_images(samples: Sequence[VQASample], cache: PassCache) -> dict[str, str]:
    """Question key -> why its picture cannot be read; what was found is kept in the cache."""
    known = cache.rows(IMAGE_PASS)
    keys = [sample_key(sample) for sample in samples]
    new = [inspect_image(s, k) for s, k in zip(samples, keys, strict=True) if k not in known]
    if new:
        cache.add(IMAGE_PASS, new)
    known |= {row["key"]: row for row in new}
    return {key: known[key]["error"] for key in keys if known[key]["error"]}


def make_rows(vlm: VLMLike, work: Work, options: PassOptions) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Run one batch's missing passes, the text-first pass first, since the others may go on from its cache."""
    reuse: TextPass | None = None
    reused: tuple[int, ...] = ()
    if TEXT_PASS in work.missing:
        chosen = work.missing[TEXT_PASS]
        text = vlm.text_pass([work.samples[j] for j in chosen])
        if options.reuse:
            reuse, reused = text, chosen
        yield TEXT_PASS, _text_rows(text, [work.keys[j] for j in chosen])
    for name, chosen in work.missing.items():
        if name == TEXT_PASS:
            continue
        if name == TOKENS_PASS:
            yield name, [{"key": work.keys[j], "tokens": count_tokens(vlm, work.samples[j])} for j in chosen]
            continue
        # The cache of a text-first pass serves the very same questions only.
        shared = reuse if chosen == reused else None
        answers = answer_pass(vlm, [work.samples[j] for j in chosen], name, work.pruned, options, shared)
        yield name, [answer_row(work.keys[j], a) for j, a in zip(chosen, answers, strict=True)]


def answer_pass(
    vlm: VLMLike,
    samples: list[VQASample],
    name: str,
    pruned: Mapping[str, PrunedPass],
    options: PassOptions,
    reuse: Any,
) -> list[Answer]:
    """Answers in order. A question without a picture is answered without looking, whatever the pass."""
    level: VisionLevel = name if name in LEVELS else "FULL"  # type: ignore[assignment]
    pruner, look = None, None if name in LEVELS else pruned.get(name)
    if look is not None and look.mode == "downsample":
        samples = [shrink(sample, look.ratio, getattr(vlm, "budget", None)) for sample in samples]
    elif look is not None:
        pruner = make_pruner({"name": POOL.get(look.mode, look.mode), "keep_ratio": look.ratio})
    blind = [i for i, s in enumerate(samples) if s.image is None and level != "NO"]
    if not blind:
        return list(vlm.answer(samples, level, decoding=options.decoding, pruner=pruner, reuse=reuse))
    seeing = [i for i, s in enumerate(samples) if s.image is not None]
    answers: dict[int, Answer] = {}
    answers |= zip(blind, vlm.answer([samples[i] for i in blind], "NO", decoding=options.decoding), strict=True)
    if seeing:
        given = vlm.answer([samples[i] for i in seeing], level, decoding=options.decoding, pruner=pruner)
        answers |= zip(seeing, given, strict=True)
    return [answers[i] for i in range(len(samples))]


def shrink(sample: VQASample, ratio: float, budget: VisionBudget | None) -> VQASample:
    """The question with its FULL picture shrunk to this share of its area; the plainest way to fewer tokens."""
    if sample.image is None:
        return sample
    image = decode(sample)
    if budget is not None:
        image = resize(image, "FULL", budget)
    width, height = (max(1, round(side * math.sqrt(ratio))) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return dataclasses.replace(sample, image=file.getvalue())


def count_tokens(vlm: VLMLike, sample: VQASample) -> int:
    """Vision tokens of a FULL look; 0 without a picture."""
    return 0 if sample.image is None else int(vlm.image(sample, "FULL").tokens)


def answer_row(key: str, answer: Answer) -> dict[str, Any]:
    """One line of the cache."""
    logprobs = answer.choice_logprobs
    return {
        "key": key,
        "text": answer.text,
        "choice_logprobs": None if logprobs is None else [float(x) for x in logprobs],
        "tokens": int(answer.vision_tokens),
        "remaining": int(answer.remaining_vision_tokens),
        "entropy": float(answer.entropy),
        "margin": float(answer.margin),
        "loss": None if answer.loss_nats is None else float(answer.loss_nats),
    }


def _text_rows(text: TextPass, keys: Sequence[str]) -> list[dict[str, Any]]:
    hidden = text.hidden.detach().float().cpu().numpy()
    entropy, margin = text.entropy.detach().double().tolist(), text.margin.detach().double().tolist()
    if not np.isfinite(hidden).all():
        raise FoveateError("the text-first pass gave hidden states that are not finite; use model.dtype: float32")
    return [
        {"key": key, "entropy": e, "margin": m, "hidden": pack_hidden(h)}
        for key, e, m, h in zip(keys, entropy, margin, hidden, strict=True)
    ]


def _length(sample: VQASample) -> int:
    """Characters of the prompt that differ by question."""
    return len(sample.question) + len(sample.hint) + sum(map(len, sample.choices))
