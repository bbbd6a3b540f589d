"""Pictures and videos of attention against objects: the map of a layer, and the objects' outlines over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foveate.types import AttentionMaps
from foveate.util.files import draft
from foveate.viz.attention import Sheet, Style, save_jpeg
from foveate.viz.outline import draw_outlines
from foveate.viz.video import VideoWriter

FPS = 4.0
"""Keyframes per second of playback."""


def draw_objects(
    folder: Path,
    images: Mapping[str, np.ndarray],
    masks: Mapping[str, Mapping[str, np.ndarray]],
    maps: AttentionMaps,
    model_hw: tuple[int, int],
    title: str,
    order: Sequence[str],
) -> None:
    """`folder/<phase>_L5_objects.jpg` for each layer: the mean of its heads.

    Args:
        images: view -> uint8 [H, W, 3].
        masks: view -> object -> bool [H, W].
        title: the instruction.
        order: objects, in the order of their colours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(images, model_hw, title=title, style=Style(smooth=False))
    for i, layer in enumerate(maps.layers):
        mean = maps.maps[i].astype(np.float32).mean(0)
        grids = {view: np.where(maps.valid[v], mean[v], np.nan) for v, view in enumerate(maps.views) if view in images}
        picture = sheet.draw(grids, f"{maps.phase} L{layer}")
        draw_outlines(picture, sheet.places, masks, order)
        save_jpeg(folder / picture_name(maps.phase, layer), picture)


def picture_name(phase: str, layer: int) -> str:
    return f"{phase}_L{layer}_objects.jpg"


def film_objects(folder: Path, keyframes: Sequence[int], phase: str, layers: Sequence[int]) -> list[Path]:
    """`folder/L05_prefix_objects.webm` for each layer, from the pictures of its keyframes."""
    from PIL import Image

    paths = []
    for layer in layers:
        path = folder / f"L{layer:02d}_{phase}_objects.webm"
        with draft(path, suffix=".draft.webm") as begun, VideoWriter(begun, FPS) as video:
            for frame in keyframes:
                with Image.open(folder / f"{frame:05d}" / picture_name(phase, layer)) as picture:
                    video.add(np.asarray(picture.convert("RGB")))
        paths.append(path)
    return paths
