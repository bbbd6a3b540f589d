"""Object metrics of one episode: its stored maps, its pictures, its masks. No model.

metrics = study_episode(EpisodeMaps.load(path), episode, open_masks(folder), Targets())
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.attention.objects import ANY, Row, choose_objects, episode_means, study_picture
from foveate.data.droid.reader import Episode
from foveate.data.masks.source import Masks, MaskSource
from foveate.errors import FoveateError, unknown
from foveate.studies.attention.archive import EpisodeMaps
from foveate.studies.attention.pictures import select
from foveate.types import AttentionMaps, Phase
from foveate.util.files import nan_to_null

NO_TARGETS = ("robot",)
"""Objects that are left out where none are named: the arm is in every picture and is no object of the task."""
DIGITS = 6


@dataclass(frozen=True)
class Targets:
    """Which maps are held against which objects."""

    objects: tuple[str, ...] = ()
    """Names; empty: all but `NO_TARGETS`."""
    views: tuple[str, ...] = ()
    """Empty: all of the maps."""
    layers: tuple[int, ...] = ()
    """Empty: all of the maps."""
    phase: Phase = "prefix"
    draws: int = 20
    """Shuffles of each map."""
    seed: int = 0


OnPicture = Callable[[int, Mapping[str, np.ndarray], Mapping[str, Masks], AttentionMaps], None]
"""(frame, view -> picture, view -> masks of the chosen objects, maps of that frame)."""


def study_episode(
    stored: EpisodeMaps, episode: Episode, masks: MaskSource, targets: Targets, on_picture: OnPicture | None = None
) -> Row:
    """The content of `metrics.json`.

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
    counts = {"pictures": 0, "without_masks": 0}
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
            found_rows = study_picture(maps, view, chosen[view], about.model_hw, hw, targets.draws, rng)
            rows += [{"frame": frame, **row} for row in found_rows]
        if on_picture is not None:
            on_picture(frame, images, chosen, maps)
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
    known: dict[str, Any] = {"episode": about.episode, "outcome": about.outcome, "instruction": about.instruction}
    known |= {"policy": about.policy, "phase": targets.phase, "layers": list(maps.layers), "heads": list(maps.heads)}
    known |= {"views": cameras, "objects": [n for n in dict.fromkeys(r["object"] for r in rows) if n != ANY], **counts}
    return nan_to_null({**known, "means": episode_means(rows), "frames": rows}, DIGITS)
