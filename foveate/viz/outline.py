"""Outlines of object masks on attention pictures. Pillow, NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion

from foveate.viz.drawing import font

COLORS = ((255, 255, 255), (255, 214, 10), (50, 255, 126), (255, 105, 180), (90, 200, 250), (255, 140, 60))
SHADE = (20, 22, 26)


def draw_outlines(
    picture: Image.Image,
    places: Mapping[str, tuple[int, int, int, int]],
    masks: Mapping[str, Mapping[str, np.ndarray]],
    order: Sequence[str] = (),
) -> None:
    """Draw each object's outline, and its name beside it, onto the picture.

    Args:
        places: view -> left, top, width, height on the picture, as `Sheet.places` tells.
        masks: view -> object -> bool [H, W], over that view's source picture.
        order: objects whose colours are fixed by their place in it; others follow.
    """
    draw = ImageDraw.Draw(picture)
    names = list(dict.fromkeys([*order, *(name for found in masks.values() for name in found)]))
    for view, found in masks.items():
        left, top, width, height = places[view]
        canvas = np.asarray(picture.crop((left, top, left + width, top + height))).copy()
        for name, mask in found.items():
            small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            # By the four neighbours; what lies beyond the picture's border is outside.
            edge = small & ~binary_erosion(small)
            canvas[binary_dilation(small) & ~small] = SHADE  # a dark line around the light one: visible on any colour
            canvas[edge] = COLORS[names.index(name) % len(COLORS)]
        picture.paste(Image.fromarray(canvas), (left, top))
        for name, mask in found.items():
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                x = left + int(columns[0] * width / mask.shape[1])
                y = top + int(rows[0] * height / mask.shape[0])
                room = left + width - font(11).getlength(name) - 3
                at = (max(left + 3, min(x, room)), y - 8 if y - top > 16 else y + 10)
                color = COLORS[names.index(name) % len(COLORS)]
                draw.text(at, name, color, font(11), anchor="lm", stroke_width=2, stroke_fill=SHADE)
