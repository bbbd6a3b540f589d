"""All passes over one data set, scored: what the rows of a comparison are looked up in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.evaluation.vqa.cache import PassCache, data_hash, image_bytes, sample_key, unpack_hidden
from foveate.evaluation.vqa.metrics import circular_index
from foveate.evaluation.vqa.passes import FAULT_PASS, TEXT_PASS, TOKENS_PASS, PrunedPass
from foveate.types import LEVELS, VQASample
from foveate.util.words import plural
from foveate.vision_value.outcomes import Outcomes

Scorer = Callable[[VQASample, Mapping[str, Any]], tuple[float, bool]]
"""A question and its answer's row -> score in [0, 1], and whether an answer could be read off."""


@dataclass(frozen=True)
class PrunedOutcomes:
    """A FULL look with fewer tokens, at all questions."""

    spec: PrunedPass
    correct: np.ndarray
    """float64 [n]."""
    loss: np.ndarray
    """float64 [n], nats per answer token."""
    remaining: np.ndarray
    """float64 [n], vision tokens that are left."""
    parsed: np.ndarray
    """bool [n]."""


@dataclass(frozen=True)
class ScoredPasses:
    """n readable questions of one data set."""

    dataset: str
    samples: tuple[VQASample, ...]
    outcomes: Outcomes
    parsed: np.ndarray
    """bool [n, 3]: an answer could be read off; True where the pass was not made."""
    answers: Mapping[str, tuple[dict[str, Any], ...]]
    """Pass -> the answers' rows."""
    pruned: tuple[PrunedOutcomes, ...] = ()
    broken: Mapping[str, str] | None = None
    """Id of a question whose picture cannot be read -> why."""
    data_hash: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def clusters(self) -> np.ndarray:
        """int64 [n]: questions that are no independent draws of the set have one number."""
        return clusters_of(self.samples)


def clusters_of(samples: Sequence[VQASample]) -> np.ndarray:
    """int64 [n]: questions about one picture, and the orders of one circular question, belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    places: dict[object, int] = {}
    edges = []
    for i, sample in enumerate(samples):
        picture = hashlib.sha256(image_bytes(sample)).digest() if sample.image is not None else None
        for key in (picture, circular_index(sample)):
            if key is not None:
                edges.append((i, len(samples) + places.setdefault(key, len(places))))
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    size = len(samples) + len(places)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(samples)].astype(np.int64)


def score_passes(
    dataset: str,
    samples: Sequence[VQASample],
    cache: PassCache,
    names: Iterable[str],
    score: Scorer,
    pruned: Sequence[PrunedPass] = (),
    broken: Mapping[str, str] | None = None,
) -> ScoredPasses:
    """Gather the passes of a data set from the cache.

    Args:
        broken: question key -> why its picture cannot be read, see `inspect_images`.
    Raises:
        FoveateError: the set is empty, no picture of it is readable, or a pass is incomplete.
    """
    if not samples:
        raise FoveateError(f"data set {dataset!r} is empty; check its file, its split and --max_samples")
    keys = [sample_key(sample) for sample in samples]
    names = set(names)
    wanted = {name: cache.rows(name) for name in (*names, *(t.name for t in pruned))}
    faults = {k: row["error"] for k, row in cache.rows(FAULT_PASS).items() if any(k not in w for w in wanted.values())}
    found = {s.id: why for s, k in zip(samples, keys, strict=True) if (why := (faults | dict(broken or {})).get(k))}
    pairs = [(s, k) for s, k in zip(samples, keys, strict=True) if s.id not in found]
    if not pairs:
        raise FoveateError(
            f"data set {dataset!r}: no picture of {len(samples)} can be read: {next(iter(found.values()))}"
        )
    for name, rows in wanted.items():
        lacking = [s.id for s, k in pairs if k not in rows]
        if lacking:
            raise FoveateError(
                f"pass {name} over {dataset!r} lacks {len(lacking)} of {plural(len(pairs), 'question')} ({lacking[0]} "
                "...); run the same command again"
            )
    chosen = {name: tuple(rows[k] for _, k in pairs) for name, rows in wanted.items()}
    healthy = tuple(s for s, _ in pairs)
    n = len(healthy)
    columns = {name: np.full((n, 3), np.nan) for name in ("correct", "loss", "tokens", "entropy", "margin")}
    parsed = np.ones((n, 3), dtype=bool)
    for column, level in enumerate(LEVELS):
        if level not in chosen:
            continue
        scored = _score(healthy, chosen[level], score)
        columns["correct"][:, column], parsed[:, column] = scored
        for name in ("loss", "tokens", "entropy", "margin"):
            columns[name][:, column] = _numbers(chosen[level], name)
    columns["tokens"][:, 0] = 0
    if TOKENS_PASS in chosen:
        columns["tokens"][:, 2] = _numbers(chosen[TOKENS_PASS], "tokens")
    text = chosen.get(TEXT_PASS)
    outcomes = Outcomes(
        questions=tuple(s.question for s in healthy),
        correct=columns["correct"],
        loss=columns["loss"],
        tokens=columns["tokens"],
        answer_entropy=columns["entropy"],
        answer_margin=columns["margin"],
        entropy=_numbers(text, "entropy") if text else np.full(n, np.nan),
        margin=_numbers(text, "margin") if text else np.full(n, np.nan),
        hidden=np.stack([unpack_hidden(row["hidden"]) for row in text]) if text else np.zeros((n, 0), np.float32),
    )
    looks = []
    for spec in pruned:
        correct, read = _score(healthy, chosen[spec.name], score)
        rows_ = chosen[spec.name]
        looks.append(PrunedOutcomes(spec, correct, _numbers(rows_, "loss"), _numbers(rows_, "remaining"), read))
    return ScoredPasses(dataset, healthy, outcomes, parsed, chosen, tuple(looks), found, data_hash(samples))


def _score(samples: Sequence[VQASample], rows: Sequence[Mapping[str, Any]], score: Scorer) -> tuple[Any, Any]:
    scored = [score(sample, row) for sample, row in zip(samples, rows, strict=True)]
    return np.array([s for s, _ in scored], dtype=np.float64), np.array([p for _, p in scored], dtype=bool)


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)
