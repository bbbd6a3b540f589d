"""The occlusion test of one frame: cover parts of its pictures, and ask the policy again with the same noise.

    effects = occlude(policy, Frame("episode", 8, observation), OcclusionConfig(layers=(1, 4)))

Works on any object that has `spec`, `attend` and `infer_batch` as `foveate.Policy` has them. Patches are chosen and
covered in the source pictures, at their own resolution, before any resize; per view the same share of its area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np

from foveate.attention.fidelity import Row, distances, measure
from foveate.attention.maps import most_active_heads
from foveate.attention.occlude import FILLS, Cover, Fill, areas_of, choose
from foveate.errors import FoveateError, unknown
from foveate.geometry import patch_axes
from foveate.policy import PolicySpec
from foveate.types import ActionChunk, AttentionMaps, AttentionRequest, Observation, Phase
from foveate.util.noise import action_noise, stack_noise

WRIST_WORDS = ("wrist", "hand", "gripper")
"""A view whose name holds one of these is a wrist view; all others are side views."""
HeadChoice = Literal["mean", "active"]
CURVE_DRAWS = 3
"""Random orders that the curves are compared with."""


class AnsweringPolicy(Protocol):
    """What covering and asking again needs of a policy."""

    @property
    def spec(self) -> PolicySpec: ...

    def infer_batch(
        self, observations: Sequence[Observation], noise: np.ndarray | None = None
    ) -> list[ActionChunk]: ...


class AttendingPolicy(AnsweringPolicy, Protocol):
    """What the test of a map needs of a policy."""

    def attend(
        self, observations: Sequence[Observation], request: AttentionRequest, noise: np.ndarray | None = None
    ) -> list[tuple[ActionChunk, dict[Phase, AttentionMaps]]]: ...


@dataclass(frozen=True)
class Frame:
    """One moment of one episode."""

    episode: str
    index: int
    observation: Observation


@dataclass(frozen=True, kw_only=True)
class OcclusionConfig:
    """What is covered, and how often."""

    layers: tuple[int, ...] = ()
    """Backbone layers, negative ones count from the end; none: 1,4,5,7,10, or all of a shallow model."""
    views: tuple[str, ...] = ("both", "side", "wrist")
    """Choices of views to cover: both (all), side, wrist, or the model's name of one."""
    phase: Phase = "prefix"
    """prefix: attention of the text; suffix: of the actions, mean over the denoising steps."""
    heads: HeadChoice = "mean"
    """A layer's map: the mean of its heads, or its most active head in each frame."""
    percentile: float = 90.0
    """What lies above this percentile of the map is covered, of each view the same share of its area."""
    fill: Fill = "mean"
    """What stands in place of what is covered: the picture's mean colour, the blurred picture, or noise."""
    draws: int = 10
    """Random covers of as much area elsewhere."""
    curve_points: int = 6
    """Points of the insertion and deletion curves of the first choice of views; 0: none."""
    batch: int = 8
    """Observations per inference."""
    seed: int = 0
    """Seed of noise and random covers."""

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 100:
            raise FoveateError(f"percentile: expected a number between 0 and 100, got {self.percentile}")
        if self.fill not in FILLS:
            raise unknown("fill", self.fill, FILLS)
        for name in ("draws", "batch"):
            if getattr(self, name) < 1:
                raise FoveateError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.curve_points and self.curve_points < 3:
            raise FoveateError(f"curve_points: expected 0 (no curves) or at least 3, got {self.curve_points}")


@dataclass
class FrameEffects:
    """What covering parts of one frame did to the actions."""

    effects: list[Row]
    """`views, layer, area, high, random, low`."""
    curves: list[Row]
    """`views, layer, shares, deletion, insertion`."""
    maps: dict[int, dict[str, np.ndarray]]
    """Layer -> view -> [rows, columns]."""
    covered: dict[tuple[str, int], dict[str, Marked]]
    """(views, layer) -> high, random (the first draw), low -> what was covered."""
    show: Callable[[Marked], Observation]
    """The observation with patches covered."""


Marked = dict[str, np.ndarray]
"""View -> bool [rows, columns]: the patches that are covered."""
REFERENCE, EVERYTHING = ("reference",), (None, "deletion", 1.0, 0)
"""Keys of the cases in which nothing and everything is covered."""


def choose_views(choice: str, views: Sequence[str]) -> tuple[str, ...]:
    """The views that `both`, `side`, `wrist` or a name stands for.

    Raises:
        FoveateError: there is none.
    """
    wrist = tuple(v for v in views if any(word in v.lower() for word in WRIST_WORDS))
    named = {"both": tuple(views), "side": tuple(v for v in views if v not in wrist), "wrist": wrist}
    chosen = named.get(choice, (choice,) if choice in views else None)
    if chosen is None:
        raise unknown("choice of views", choice, (*named, *views))
    if not chosen:
        raise FoveateError(f"--views {choice}: the model has no {choice} view in this frame, only {', '.join(views)}")
    return chosen


def layer_maps(maps: AttentionMaps, heads: HeadChoice) -> dict[int, dict[str, np.ndarray]]:
    """Layer -> view -> float64 [rows, columns], of the views that are there; heads made one."""
    there = [v for v, view in enumerate(maps.views) if maps.valid[v].any()]
    values = maps.maps.astype(np.float64)
    result = {}
    active = most_active_heads(maps)
    for i, layer in enumerate(maps.layers):
        one = values[i].mean(0) if heads == "mean" else values[i, maps.heads.index(active[layer])]
        result[layer] = {maps.views[v]: one[v] for v in there}
    return result


def key_of(frame: Frame, seed: int) -> tuple[int, ...]:
    """What noise and random covers are drawn by: of a frame always the same."""
    return seed, crc32(frame.episode.encode()), frame.index


def source_name(names: Mapping[str, Sequence[str]], view: str, images: Mapping[str, np.ndarray]) -> str:
    """The observation's name for a model view, of those that it may have."""
    return next(name for name in names[view] if name in images)


def occlude(policy: AttendingPolicy, frame: Frame, config: OcclusionConfig) -> FrameEffects:
    """All measurements of one frame.

    Raises:
        FoveateError: a layer or a view does not exist, or a fill leaves a picture as it was.
    """
    spec, key = policy.spec, key_of(frame, config.seed)
    noise = action_noise(spec.noise_shape, *key)
    model_hw = (spec.image_size, spec.image_size)
    request = AttentionRequest(config.layers, phases=(config.phase,))
    [(_, captured)] = policy.attend([frame.observation], request, stack_noise([noise]))
    attention = captured[config.phase]
    maps = layer_maps(attention, config.heads)
    views = tuple(next(iter(maps.values())))
    images = frame.observation.images
    names = {view: source_name(spec.cameras, view, images) for view in views}
    covers, areas = {}, {}
    for view in views:
        image, valid = images[names[view]], attention.valid[attention.views.index(view)]
        axes = patch_axes(valid.shape, image.shape[:2], model_hw, crop=spec.crop)
        where = f"episode {frame.episode}, frame {frame.index}, view {names[view]}"
        covers[view] = Cover(image, axes, config.fill, key[1] + frame.index, where)
        areas[view] = areas_of(axes, valid.shape) * valid

    choices = {choice: choose_views(choice, views) for choice in config.views}
    effects: dict[Any, Marked] = {}
    for choice, chosen in choices.items():
        for layer in maps:
            effects |= _effect_cases(choice, layer, {v: maps[layer][v] for v in chosen}, areas, config, key)
    curves = _curve_cases(choices[config.views[0]], maps, areas, config, key) if config.curve_points else {}

    def show(marked: Marked) -> Observation:
        changed = {names[view]: covers[view](mask) for view, mask in marked.items()}
        return dataclasses.replace(frame.observation, images={**images, **changed})

    actions = ask(policy, {REFERENCE: {}, **effects, **curves}, show, noise, config.batch)
    covered: dict[tuple[str, int], dict[str, Marked]] = {}
    for (choice, layer, kind, draw), marked in effects.items():
        if draw == 0:
            covered.setdefault((choice, layer), {})[kind] = marked
    return FrameEffects(_effects(effects, actions, areas), _curves(config, curves, actions), maps, covered, show)


def ask(
    policy: AnsweringPolicy,
    cases: Mapping[Any, Any],
    show: Callable[[Any], Observation],
    noise: np.ndarray | None,
    batch: int,
) -> dict[Any, np.ndarray]:
    """The actions [H, A] of every case, in batches, all from the same noise."""
    keys = list(cases)
    actions: dict[Any, np.ndarray] = {}
    for start in range(0, len(keys), batch):
        part = keys[start : start + batch]
        chunks = policy.infer_batch([show(cases[key]) for key in part], stack_noise([noise] * len(part)))
        actions |= {key: chunk.actions for key, chunk in zip(part, chunks, strict=True)}
    return actions


def _effect_cases(
    choice: str,
    layer: int,
    scores: Marked,
    areas: Mapping[str, np.ndarray],
    config: OcclusionConfig,
    key: Sequence[int],
) -> dict[Any, Marked]:
    share = 1 - config.percentile / 100
    high = {v: choose(s, areas[v], share) for v, s in scores.items()}

    def elsewhere(wanted: Mapping[str, np.ndarray]) -> Marked:
        return {v: choose(np.where(high[v], -np.inf, wanted[v]), areas[v], share) for v in scores}

    cases: dict[Any, Marked] = {(choice, layer, "high", 0): high}
    cases[choice, layer, "low", 0] = elsewhere({v: -s for v, s in scores.items()})
    for draw in range(config.draws):
        rng = np.random.default_rng([*key, layer, draw])
        cases[choice, layer, "random", draw] = elsewhere({v: rng.random(s.shape) for v, s in scores.items()})
    return cases


def _curve_cases(
    chosen: Sequence[str],
    maps: Mapping[int, Mapping[str, np.ndarray]],
    areas: Mapping[str, np.ndarray],
    config: OcclusionConfig,
    key: Sequence[int],
) -> dict[Any, Marked]:
    """(order, kind, share, draw) -> what is covered; the order is that of a layer's map, or a random one (None)."""
    whole = {v: areas[v] > 0 for v in chosen}
    cases: dict[Any, Marked] = {EVERYTHING: whole}
    orders: list[tuple[int | None, int, Mapping[str, np.ndarray]]] = [(layer, 0, maps[layer]) for layer in maps]
    for draw in range(CURVE_DRAWS):
        rng = np.random.default_rng([*key, 10_000 + draw])
        orders.append((None, draw, {v: rng.random(areas[v].shape) for v in chosen}))
    for share in np.linspace(0, 1, config.curve_points)[1:-1].tolist():
        for layer, draw, scores in orders:
            first = {v: choose(scores[v], areas[v], share) for v in chosen}
            cases[layer, "deletion", share, draw] = first
            cases[layer, "insertion", share, draw] = {v: whole[v] & ~first[v] for v in chosen}
    return cases


def _effects(
    cases: Mapping[Any, Marked], actions: Mapping[Any, np.ndarray], areas: Mapping[str, np.ndarray]
) -> list[Row]:
    groups: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for key in cases:
        choice, layer, kind, _ = key
        groups.setdefault((choice, layer), {}).setdefault(kind, []).append(key)
    rows = []
    for (choice, layer), kinds in groups.items():
        row: Row = {"views": choice, "layer": layer, "area": {}}
        for kind, keys in kinds.items():
            row[kind] = measure(actions[REFERENCE], np.stack([actions[key] for key in keys]))
            row["area"][kind] = float(np.mean([_area(cases[key], areas) for key in keys]))
        rows.append(row)
    return rows


def _area(marked: Marked, areas: Mapping[str, np.ndarray]) -> float:
    """Share of the chosen views' area."""
    return sum(int(areas[v][m].sum()) for v, m in marked.items()) / sum(int(areas[v].sum()) for v in marked)


def _curves(config: OcclusionConfig, cases: Mapping[Any, Marked], actions: Mapping[Any, np.ndarray]) -> list[Row]:
    lines: dict[tuple[int | None, str], dict[float, list[float]]] = {}
    for key in cases:
        order, kind, share, _ = key
        distance = float(distances(actions[REFERENCE], actions[key])["mse"])
        if key == EVERYTHING:
            everything = distance
        else:
            lines.setdefault((order, kind), {}).setdefault(share, []).append(distance)
    rows = []
    for order in dict.fromkeys(order for order, _ in lines):
        shares = sorted(lines[order, "deletion"])
        deletion, insertion = (
            [float(np.mean(lines[order, kind][share])) for share in shares] for kind in ("deletion", "insertion")
        )
        row: Row = {"views": config.views[0], "layer": order, "shares": [0.0, *shares, 1.0]}
        rows.append({**row, "deletion": [0.0, *deletion, everything], "insertion": [everything, *insertion, 0.0]})
    return rows
