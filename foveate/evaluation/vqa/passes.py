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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.evaluation.vqa.cache import PassCache, pack_hidden, sample_key
from foveate.models.vlm.budget import VisionBudget, resize
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.images import decode
from foveate.pruning import make_pruner
from foveate.types import LEVELS, VisionLevel, VQASample
from foveate.util.pictures import MAX_PIXELS, ImageError

if TYPE_CHECKING:
    from foveate.models.vlm.model import Answer
    from foveate.models.vlm.reuse import TextPass

IMAGE_PASS = "image"
"""Not of the model: is the picture readable, and how large is it."""
TEXT_PASS = "text"
TOKENS_PASS = "tokens"
"""How many vision tokens a FULL look would have, where none is made."""
FAULT_PASS = "fault"
"""Questions that the model, or a processor of it, could not take, and why; they are tried again by the next command."""
T = TypeVar("T")
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
    max_pixels: int = MAX_PIXELS
    """A picture with more is marked as broken."""


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
    work_of_all = plan(samples, cache, names, pruned, options.batch_size, options.max_pixels)
    share = work_of_all[options.rank :: options.processes]
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
    max_pixels: int = MAX_PIXELS,
) -> list[Work]:
    """Batches over all readable questions, alike in picture size and length; each with what the cache lacks of it.

    Batches of which nothing is missing stay in the list (empty), so that every process counts the same ones.
    """
    keys = [sample_key(sample) for sample in samples]
    images = _image_rows(samples, keys, cache.rows(IMAGE_PASS), max_pixels)
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


def inspect_image(sample: VQASample, key: str, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Size of the picture, or why it cannot be read; 0 x 0 where the question has none."""
    if sample.image is None:
        return {"key": key, "width": 0, "height": 0, "error": ""}
    try:
        width, height = decode(sample, max_pixels).size
    except ImageError as error:
        return {"key": key, "width": 0, "height": 0, "error": str(error)}
    return {"key": key, "width": width, "height": height, "error": ""}


def inspect_images(samples: Sequence[VQASample], cache: PassCache, max_pixels: int = MAX_PIXELS) -> dict[str, str]:
    """Question key -> why its picture cannot be read; what was found is kept in the cache."""
    known = cache.rows(IMAGE_PASS)
    rows = _image_rows(samples, [sample_key(sample) for sample in samples], known, max_pixels)
    if new := [row for key, row in rows.items() if row != known.get(key)]:
        cache.add(IMAGE_PASS, new)
    return {key: row["error"] for key, row in rows.items() if row["error"]}


def _image_rows(
    samples: Sequence[VQASample], keys: Sequence[str], known: Mapping[str, dict[str, Any]], max_pixels: int
) -> dict[str, dict[str, Any]]:
    """Question key -> what is known of its picture. A broken one is looked at again: the limit may be another now."""
    rows = {}
    for sample, key in zip(samples, keys, strict=True):
        row = known.get(key)
        fits = row and not row["error"] and row["width"] * row["height"] <= max_pixels
        rows[key] = row if row and fits else inspect_image(sample, key, max_pixels)
    return rows


def make_rows(vlm: VLMLike, work: Work, options: PassOptions) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Run one batch's missing passes, the text-first pass first, since the others may go on from its cache."""
    reuse: TextPass | None = None
    reused: tuple[int, ...] = ()
    if TEXT_PASS in work.missing:
        chosen = work.missing[TEXT_PASS]
        text, faults = _guarded(vlm.text_pass, work, chosen)
        chosen = tuple(j for j in chosen if j not in faults)
        yield from _fault_rows(work, faults)
        if text is not None:
            if options.reuse:
                reuse, reused = text, chosen
            yield TEXT_PASS, _text_rows(text, [work.keys[j] for j in chosen])
    for name, chosen in work.missing.items():
        if name == TEXT_PASS:
            continue
        if name == TOKENS_PASS:
            counts, faults = _guarded(lambda samples: [count_tokens(vlm, s) for s in samples], work, chosen)
            rows = zip((j for j in chosen if j not in faults), counts or (), strict=True)
            yield name, [{"key": work.keys[j], "tokens": tokens} for j, tokens in rows]
            yield from _fault_rows(work, faults)
            continue

        def answer(samples: list[VQASample], name: str = name) -> list[Answer]:
            # The cache of a text-first pass serves the very same questions only.
            shared = reuse if samples == [work.samples[j] for j in reused] else None
            return answer_pass(vlm, samples, name, work.pruned, options, shared)

        answers, faults = _guarded(answer, work, chosen)
        given = dict(zip((j for j in chosen if j not in faults), answers or (), strict=True))
        faults |= {j: answer.error for j, answer in given.items() if answer.error}
        yield name, [answer_row(work.keys[j], answer) for j, answer in given.items() if not answer.error]
        yield from _fault_rows(work, faults)


def _guarded(run: Callable[[list[VQASample]], T], work: Work, chosen: Sequence[int]) -> tuple[T | None, dict[int, str]]:
    """The result over the questions that the model can take, and position -> why it cannot take another.

    What stops a batch is looked for one question at a time: most often it is a processor of the model that refuses one
    picture. Where not one of several questions can be taken, it is no matter of the questions, and is raised.
    """
    try:
        return run([work.samples[j] for j in chosen]), {}
    except Exception as error:
        if (isinstance(error, FoveateError) and not isinstance(error, ImageError)) or _is_memory(error):
            raise
        faults: dict[int, str] = {}
        for j in chosen:
            try:
                run([work.samples[j]])
            except Exception as own:  # whatever a foreign model raises
                if _is_memory(own):
                    raise
                faults[j] = f"sample {work.samples[j].id}: the model cannot take it: {type(own).__name__}: {own}"
        if len(faults) == len(chosen) > 1:
            raise
    rest = [work.samples[j] for j in chosen if j not in faults]
    return (run(rest) if rest else None), faults


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _fault_rows(work: Work, faults: Mapping[int, str]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    if faults:
        yield FAULT_PASS, [{"key": work.keys[j], "error": why} for j, why in faults.items()]


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
        samples = [shrink(sample, look.ratio, getattr(vlm, "budget", None), options.max_pixels) for sample in samples]
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


def shrink(sample: VQASample, ratio: float, budget: VisionBudget | None, max_pixels: int = MAX_PIXELS) -> VQASample:
    """The question with its FULL picture shrunk to this share of its area; the plainest way to fewer tokens."""
    if sample.image is None:
        return sample
    image = decode(sample, max_pixels)
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
