"""What pictures of several kinds are drawn with: paper and ink, colours, Pillow's font."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import ImageFont

PAPER, INK = (250, 250, 248), (28, 32, 38)


@lru_cache(maxsize=16)
def palette(colormap: str) -> np.ndarray:
    """uint8 [256, 3]: the colours of one of matplotlib's maps."""
    from matplotlib import colormaps

    return (colormaps[colormap](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def shorten(text: str, width: float, size: int = 14) -> str:
    """The text, cut with an ellipsis where it is wider than so many pixels."""
    text = " ".join(text.split())
    if font(size).getlength(text) <= width:
        return text
    cuts = (f"{text[:n].rstrip()}…" for n in range(min(len(text), 400), -1, -1))
    return next((cut for cut in cuts if font(size).getlength(cut) <= width), "…")
