"""The pictures of the mixed set: 64 px, a shape in the middle, a letter in each corner.

    scene = Scene(background="red", color="blue", shape="circle", size="large", letters=("c", "h", "k", "s"))
    pixels = draw(scene, random.Random(0))

What can be seen at which size was measured (docs/vqa-data.md): colours and a large shape survive the shrinking
to 16 px, a small shape (8 px, then 2 px) and the letters (7 px high, then 2 px) do not.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
"""Side of the picture, pixels."""
COARSE_SIDE = 16
"""Side at which COARSE questions can still be answered."""
COLORS = {
    "red": (215, 45, 45),
    "green": (45, 165, 60),
    "blue": (50, 80, 215),
    "yellow": (235, 210, 45),
    "teal": (40, 180, 185),
    "gray": (128, 128, 128),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("large", "small")
LETTERS = ("c", "h", "k", "n", "s", "t", "x", "z")
GREY, CONTRAST = 128, 110
"""Of the signs with the letters, in steps of 255."""
GRAIN = 16
"""Standard deviation of the grain over the whole picture, in steps of 255."""
CORNERS = ("top left", "top right", "bottom left", "bottom right")

_GLYPHS = {
    "c": "01110 10001 10000 10000 10000 10001 01110",
    "h": "10001 10001 10001 11111 10001 10001 10001",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "n": "10001 11001 11001 10101 10011 10011 10001",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "x": "10001 10001 01010 00100 01010 10001 10001",
    "z": "11111 00001 00010 00100 01000 10000 11111",
}
"""Capital letters, 5 pixels wide and 7 high, row by row."""


@dataclass(frozen=True)
class Scene:
    """What is in a picture; where exactly, and in which shade, is left to the drawing."""

    background: str
    color: str
    """Of the shape; never the background's."""
    shape: str
    size: str
    """`large`: 28 to 36 px; `small`: 7 to 9 px."""
    letters: tuple[str, str, str, str]
    """In the order of `CORNERS`."""


def draw(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 [64, 64, 3]: the scene with shades, places and sizes drawn from `rng`."""
    ground = _shade(scene.background, rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    pen = ImageDraw.Draw(image)
    if scene.size == "large":
        half = rng.randint(14, 18)
        x, y = (SIDE // 2 + rng.randint(-2, 2) for _ in range(2))
    else:
        # On one of the sixteen middle patches of 8 px, to a pixel.
        half = 4
        x, y = (rng.choice((20, 28, 36, 44)) + rng.randint(-1, 1) for _ in range(2))
    _draw_shape(pen, scene.shape, x, y, half, _shade(scene.color, rng))
    pixels = np.asarray(image, dtype=np.float64).copy()
    for corner, letter in zip(CORNERS, scene.letters, strict=True):
        # Strokes stay within a patch of 8 px: a small model learns in minutes to read what one patch holds.
        left = min(rng.choice((1, 2, 9, 10)) + (SIDE - 16 if "right" in corner else 0), SIDE - 7)
        top = 1 + (SIDE - 16 if "bottom" in corner else 0)
        _draw_letter(pixels, letter, left, top, rng.choice((-1, 1)))
    # Grain from NumPy's generator: Python's would take twenty times as long.
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0.0, GRAIN, (SIDE, SIDE, 1))
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _shade(color: str, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-12, 12))) for value in COLORS[color])
    return red, green, blue


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, half: int, fill: tuple[int, int, int]) -> None:
    box = (x - half, y - half, x + half - 1, y + half - 1)
    if shape == "circle":
        pen.ellipse(box, fill)
    elif shape == "square":
        pen.rectangle(box, fill)
    elif shape == "triangle":
        pen.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill)
    else:
        arm = max(1, half // 3)
        pen.rectangle((box[0], y - arm, box[2], y + arm - 1), fill)
        pen.rectangle((x - arm, box[1], x + arm - 1, box[3]), fill)


def _draw_letter(pixels: np.ndarray, letter: str, left: int, top: int, polarity: int) -> None:
    """Put a sign on float [64, 64, 3]: grey, on average over the letter and its rim."""
    height, width = _SIGNS[letter].shape
    sign = GREY + polarity * CONTRAST * _SIGNS[letter]
    pixels[top - 1 : top - 1 + height, left - 1 : left - 1 + width] = sign[:, :, None]


def _sign(rows: str) -> np.ndarray:
    """float [10, 8]: 1 on the strokes, negative on their rim so that the sum is 0, 0 elsewhere."""
    strokes = np.zeros((10, 8))
    strokes[1:8, 1:6] = [[int(bit) for bit in row] for row in rows.split()]
    padded = np.pad(strokes, 1)
    near = np.max([padded[y : y + 10, x : x + 8] for y in range(3) for x in range(3)], axis=0)
    rim = near * (strokes == 0)
    return strokes - rim * strokes.sum() / rim.sum()


_SIGNS = {letter: _sign(rows) for letter, rows in _GLYPHS.items()}
