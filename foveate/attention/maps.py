"""What attention maps say: which heads are active, where a word looks, how far two maps lie apart. NumPy alone.

    heads = most_active_heads(maps)                   # layer -> head
    red = of_words(maps, ["red"])["red"]              # maps taken with AttentionRequest(tokens=True)
    gap = compare(maps, others)                       # .l2, .relative_l2, .correlation: [layer, head]

Known here: `AttentionMaps`, one phase of one inference. Sums run in float64 over the patches that were there
(`AttentionMaps.valid`), all views of a head together. Not known: models, pictures, episodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from foveate.errors import FoveateError, unknown
from foveate.types import AttentionMaps
from foveate.util.files import draft

Activity = Literal["variance", "entropy"]
ACTIVITIES: tuple[Activity, ...] = ("variance", "entropy")
WORD_START = "▁"
"""What sentencepiece writes for the blank before a word."""


def averaged(maps: AttentionMaps) -> AttentionMaps:
    """The mean over the leading axis (tokens, or denoising steps): [layer, head, view, rows, columns]."""
    if maps.maps.ndim == 5:
        return maps
    return replace(maps, maps=maps.maps.mean(0, dtype=np.float64).astype(np.float16), tokens=())


def on_patches(maps: AttentionMaps) -> np.ndarray:
    """float64 [..., layer, head, n]: the values of the n patches that were there."""
    return maps.maps[..., maps.valid].astype(np.float64)


def activity(maps: AttentionMaps, by: Activity = "variance") -> np.ndarray:
    """How much a head chooses among the patches, float64 [..., layer, head]; 0: it looks at all of them alike.

    `variance` is that of its map over the patches: a head that gives the picture little attention has little.
    `entropy` is log(n) - H(p) in nats, H the entropy of the map scaled to sum 1: it weighs the shape alone.
    """
    values = on_patches(maps)
    if by == "variance":
        return values.var(-1) if values.shape[-1] else values.sum(-1)
    if by == "entropy":
        total = values.sum(-1, keepdims=True)
        share = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
        surprise = np.log(share, out=np.zeros_like(share), where=share > 0)
        gain = np.log(max(values.shape[-1], 1)) + (share * surprise).sum(-1)
        return np.where(total[..., 0] > 0, gain.clip(0), 0.0)
    raise unknown("measure of activity", by, ACTIVITIES)


def mass_per_view(maps: AttentionMaps) -> np.ndarray:
    """The share of its attention that each head gives to each view, float64 [..., layer, head, view]."""
    return maps.maps.astype(np.float64).sum((-2, -1))


def most_active_heads(maps: AttentionMaps, by: Activity = "variance") -> dict[int, int]:
    """Layer -> the number of its most active head; the first one, where several are."""
    best = activity(averaged(maps), by).argmax(-1)
    return {layer: maps.heads[i] for layer, i in zip(maps.layers, best.tolist(), strict=True)}


@dataclass(frozen=True)
class HeadRank:
    """One head over the frames of an episode."""

    layer: int
    head: int
    activity: float
    """Mean over the frames."""
    first: float
    """Share of the frames in which it is the most active head of its layer."""


def rank_heads(frames: Iterable[AttentionMaps], by: Activity = "variance") -> list[HeadRank]:
    """The heads of an episode, the most active one first.

    Args:
        frames: maps of the same layers and heads.
    """
    first: AttentionMaps | None = None
    scores = []
    for maps in frames:
        first = first or maps
        if (maps.layers, maps.heads) != (first.layers, first.heads):
            raise FoveateError(
                f"frames to rank must hold the same layers and heads: layers {first.layers}, heads {first.heads}, "
                f"then layers {maps.layers}, heads {maps.heads}"
            )
        scores.append(activity(averaged(maps), by))
    if first is None:
        return []
    values = np.stack(scores)  # [frame, layer, head]
    wins = np.arange(len(first.heads)) == values.argmax(-1)[..., None]
    mean, share = values.mean(0), wins.mean(0)
    ranks = [
        HeadRank(layer, head, float(mean[i, j]), float(share[i, j]))
        for i, layer in enumerate(first.layers)
        for j, head in enumerate(first.heads)
    ]
    return sorted(ranks, key=lambda rank: -rank.activity)


def words_of(tokens: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The words that sentencepiece pieces spell, in order and in small letters, each with the positions of its pieces.

    Blanks and punctuation end a word and belong to none; a piece that spans two words counts for both.
    """
    text, owner = "", []
    for position, piece in enumerate(tokens):
        # Control pieces (`<s>`) and single bytes (`<0x0A>`) stand for no letter.
        shown = " " if piece.startswith("<") and piece.endswith(">") else piece.replace(WORD_START, " ")
        text += shown
        owner += [position] * len(shown)
    return [
        (word[0].lower(), tuple(dict.fromkeys(owner[word.start() : word.end()])))
        for word in re.finditer(r"\w+(?:[-']\w+)*", text)
    ]


def of_words(maps: AttentionMaps, wanted: Sequence[str]) -> dict[str, AttentionMaps]:
    """Word -> where it looks: the mean over its pieces, and over its places where it stands in the prompt twice.

    Args:
        maps: per token (`AttentionRequest.tokens`).
        wanted: words of the prompt, or runs of them ("purple bowl"); capitals do not matter.
    Raises:
        FoveateError: maps that are not per token, or a word that the prompt does not hold.
    """
    if not maps.tokens:
        raise FoveateError("these maps are means over the prompt: ask for `AttentionRequest(tokens=True)`")
    words = words_of(maps.tokens)
    spelled = [word for word, _ in words]
    found = {}
    for name in wanted:
        run = name.lower().split()
        starts = [i for i in range(len(words)) if run and spelled[i : i + len(run)] == run]
        rows = [p for i in starts for _, positions in words[i : i + len(run)] for p in positions]
        if not rows:
            there = ", ".join(dict.fromkeys(word for word in spelled if any(c.isalpha() for c in word)))
            raise FoveateError(f"the prompt has no word {name!r}; its words: {there}")
        found[name] = averaged(replace(maps, maps=maps.maps[rows]))
    return found


@dataclass(frozen=True)
class Comparison:
    """How far two maps lie apart, head by head; float64 [layer, head]."""

    l2: np.ndarray
    """Euclidean distance over the patches."""
    relative_l2: np.ndarray
    """The same over the mean of the two maps' norms: 0 the same map, 1.41 maps of equal norm without overlap."""
    correlation: np.ndarray
    """Pearson's, over the patches; NaN where a map is constant."""


def difference(a: AttentionMaps, b: AttentionMaps) -> np.ndarray:
    """a - b, float32 [layer, head, view, rows, columns]; NaN where neither had a patch. A dropped patch counts as 0."""
    a, b, either = _matched(a, b)
    return np.where(either, a.maps.astype(np.float32) - b.maps.astype(np.float32), np.float32("nan"))


def compare(a: AttentionMaps, b: AttentionMaps) -> Comparison:
    """Over the patches that either has; one that a pruner dropped got no attention, which is 0."""
    a, b, either = _matched(a, b)
    x, y = (maps.maps[..., either].astype(np.float64) for maps in (a, b))
    l2 = np.linalg.norm(x - y, axis=-1)
    norm = (np.linalg.norm(x, axis=-1) + np.linalg.norm(y, axis=-1)) / 2
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    spread = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(spread > 0, (x * y).sum(-1) / spread, np.nan)
        return Comparison(l2, np.where(norm > 0, l2 / norm, 0.0), correlation)


def _matched(a: AttentionMaps, b: AttentionMaps) -> tuple[AttentionMaps, AttentionMaps, np.ndarray]:
    """Two maps of one kind without a leading axis, and bool [view, rows, columns]: patches that either has."""
    a, b = averaged(a), averaged(b)
    kinds = [(m.phase, m.layers, m.heads, m.views, m.valid.shape) for m in (a, b)]
    if kinds[0] != kinds[1]:
        raise FoveateError(
            f"maps to compare must be of the same phase, layers, heads and views: {kinds[0]}, {kinds[1]}"
        )
    return a, b, a.valid | b.valid


def save_maps(path: Path, named: Mapping[str, AttentionMaps]) -> None:
    """Write maps to one compressed NPZ file, whole or not at all: `NAME/maps` (float16), `NAME/valid`, and so on."""
    arrays: dict[str, np.ndarray] = {}
    for name, maps in named.items():
        arrays |= {
            f"{name}/maps": maps.maps.astype(np.float16),
            f"{name}/valid": maps.valid,
            f"{name}/layers": np.array(maps.layers, np.int64),
            f"{name}/heads": np.array(maps.heads, np.int64),
            f"{name}/views": np.array(maps.views, np.str_),
            f"{name}/tokens": np.array(maps.tokens, np.str_),
            f"{name}/phase": np.array(maps.phase),
        }
    with draft(path, "the maps") as begun, begun.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its flags


def load_maps(path: Path) -> dict[str, AttentionMaps]:
    """What `save_maps` wrote."""
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        return {
            name: AttentionMaps(
                phase=str(arrays[f"{name}/phase"]),  # type: ignore[arg-type]
                layers=tuple(arrays[f"{name}/layers"].tolist()),
                heads=tuple(arrays[f"{name}/heads"].tolist()),
                views=tuple(arrays[f"{name}/views"].tolist()),
                maps=arrays[f"{name}/maps"],
                valid=arrays[f"{name}/valid"],
                tokens=tuple(arrays[f"{name}/tokens"].tolist()),
            )
            for name in dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        }
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FoveateError(f"{path}: not a file of attention maps that foveate wrote ({error})") from error
