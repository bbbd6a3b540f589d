"""Attention against objects in one episode: its stored maps, its pictures, its masks. No model.

    metrics = measure_episode(EpisodeMaps.load(path), episode, open_masks(folder), Targets())

With a folder for pictures: the map of a layer with the objects' outlines over it, and a video per layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.attention.objects import ANY, Row, choose_objects, episode_means, study_picture
from foveate.data.droid.reader import Episode
from foveate.data.masks.source import Masks, MaskSource
from foveate.errors import FoveateError, unknown
from foveate.studies.attention.archive import About, EpisodeMaps
from foveate.studies.attention.pictures import select
from foveate.types import AttentionMaps, Phase
from foveate.util.files import draft, nan_to_null
from foveate.util.pictures import read_picture
from foveate.util.video import VideoWriter
from foveate.viz.attention import Sheet, Style, save_jpeg
from foveate.viz.outline import draw_outlines

NO_TARGETS = ("robot",)
"""Objects that are left out where none are named: the arm is in every picture and is no object of the task."""
DIGITS = 6
FPS = 4.0
"""Keyframes per second of playback."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which maps are held against which objects."""

    objects: tuple[str, ...] = ()
    """Names of the objects; none: all but the robot."""
    layers: tuple[int, ...] = ()
    """Layers; none: all that the maps hold."""
    views: tuple[str, ...] = ()
    """Views, as the policy's observation names them; none: all."""
    phase: Phase = "prefix"
    """prefix: attention of the text; suffix: of the actions."""
    draws: int = 20
    """Shuffles of each map, whose mean is what chance would give."""
    seed: int = 0
    """Seed of the shuffles, and of the noise where maps are computed."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise FoveateError(f"--draws: expected at least 1, got {self.draws}")


def measure_episode(
    stored: EpisodeMaps, episode: Episode, masks: MaskSource, targets: Targets, folder: Path | None = None
) -> Row:
    """The content of `metrics.json`.

    Args:
        folder: where pictures and videos go; None: draw none.

    Returns:
        `episode, outcome, instruction, policy, phase, layers, heads, views` (view -> camera), `objects`, `pictures`,
        `without_masks` (pictures of which nothing is known), `frames`: rows of `study_picture` with their `frame`, and
        `means` over them. Numbers without a value are None.
    Raises:
        FoveateError: no picture has masks, a mask has another size than its frame, or a layer or view is not there.
    """
    about = stored.about
    for view in targets.views:
        if view not in about.views:
            raise unknown("view of the maps", view, about.views)
    cameras = {v: camera for v, camera in about.views.items() if not targets.views or v in targets.views}
    pictures = {view: episode.frames(camera, about.keyframes) for view, camera in cameras.items()}
    rng = np.random.default_rng([targets.seed, zlib.crc32(about.episode.encode())])
    rows: list[Row] = []
    seen: dict[str, None] = {}
    order: list[str] = []  # of the objects' colours
    counts = {"pictures": 0, "without_masks": 0}
    most: dict[int, float] = {}
    if folder is not None:  # one scale for the whole video of a layer
        whole = select(stored.at(about.keyframes[0], targets.phase), targets.layers, ()).layers
        most = {layer: stored.most_of_mean(targets.phase, layer) for layer in whole}
    for frame in about.keyframes:
        images = {view: next(source) for view, source in pictures.items()}
        maps = select(stored.at(frame, targets.phase), targets.layers, ())
        chosen: dict[str, Masks] = {}
        for view, camera in cameras.items():
            found = masks.at(camera, frame, images[view])
            counts["pictures"] += 1
            counts["without_masks"] += found is None
            seen |= dict.fromkeys(found or ())
            chosen[view] = {n: (found or {})[n] for n in choose_objects(found or {}, targets.objects, NO_TARGETS)}
            hw = (images[view].shape[0], images[view].shape[1])
            found_rows = study_picture(maps, view, chosen[view], about.model_hw, hw, targets.draws, rng, about.crop)
            rows += [{"frame": frame, **row} for row in found_rows]
        if folder is not None:
            order += dict.fromkeys(name for found in chosen.values() for name in found if name not in order)
            shown = folder / f"{frame:05d}"
            draw_objects(shown, images, chosen, maps, about, order, most)
    if counts["without_masks"] == counts["pictures"]:
        raise FoveateError(
            f"episode {about.episode}: there are no masks of any of its keyframes {list(about.keyframes)[:4]} ..., "
            f"cameras {', '.join(cameras.values())}; see docs/attention.md for the names of mask files"
        )
    if not rows:
        wanted = ", ".join(targets.objects) or f"any but {', '.join(NO_TARGETS)}"
        raise FoveateError(
            f"episode {about.episode}: no object of {wanted} is in its masks; they hold {', '.join(seen)}"
        )
    if folder is not None:
        film_objects(folder, about.keyframes, targets.phase, maps.layers)
    known: dict[str, Any] = {"episode": about.episode, "outcome": about.outcome, "instruction": about.instruction}
    known |= {"policy": about.policy, "phase": targets.phase, "layers": list(maps.layers), "heads": list(maps.heads)}
    known |= {"views": cameras, "objects": [n for n in dict.fromkeys(r["object"] for r in rows) if n != ANY], **counts}
    return nan_to_null({**known, "means": episode_means(rows), "frames": rows}, DIGITS)


def draw_objects(
    folder: Path,
    images: Mapping[str, np.ndarray],
    masks: Mapping[str, Mapping[str, np.ndarray]],
    maps: AttentionMaps,
    about: About,
    order: Sequence[str],
    most: Mapping[int, float],
) -> None:
    """`folder/<phase>_L5_objects.jpg` for each layer: the mean of its heads.

    Args:
        images: view -> uint8 [H, W, 3].
        masks: view -> object -> bool [H, W].
        about: the episode.
        order: objects, in the order of their colours.
        most: layer -> value of the last colour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(images, about.model_hw, title=about.instruction, style=Style(smooth=False), crop=about.crop)
    for i, layer in enumerate(maps.layers):
        mean = maps.maps[i].astype(np.float32).mean(0)
        grids = {view: np.where(maps.valid[v], mean[v], np.nan) for v, view in enumerate(maps.views) if view in images}
        picture = sheet.draw(grids, f"{maps.phase} L{layer}", (0.0, most[layer]))
        draw_outlines(picture, sheet.places, masks, order)
        save_jpeg(folder / picture_name(maps.phase, layer), picture)


def picture_name(phase: str, layer: int) -> str:
    return f"{phase}_L{layer}_objects.jpg"


def film_objects(folder: Path, keyframes: Sequence[int], phase: str, layers: Sequence[int]) -> list[Path]:
    """`folder/L05_prefix_objects.webm` for each layer, from the pictures of its keyframes."""
    paths = []
    for layer in layers:
        path = folder / f"L{layer:02d}_{phase}_objects.webm"
        with draft(path, suffix=".draft.webm") as begun, VideoWriter(begun, FPS) as video:
            for frame in keyframes:
                video.add(read_picture(folder / f"{frame:05d}" / picture_name(phase, layer)))
        paths.append(path)
    return paths
