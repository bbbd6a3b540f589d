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


@lru_cache(maxsize=64)
def wrap(text: str, width: float, size: int = 14) -> list[str]:
    """The text in lines of so many pixels at most; a word that is longer is divided."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while font(size).getlength(lines[-1]) > width and len(lines[-1]) > 1:
            rest = lines[-1]
            cut = next((n for n in range(len(rest) - 1, 1, -1) if font(size).getlength(rest[:n]) <= width), 1)
            lines[-1:] = [rest[:cut], rest[cut:]]
    return lines
