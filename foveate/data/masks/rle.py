"""COCO's run-length masks and polygons -> pixels. NumPy alone.

A run-length mask counts pixels column by column, from the top left: so many outside, so many inside, outside ... Its
counts are a list, or a text in COCO's compression: each number in groups of five bits, the lowest first, as characters
from "0" on; bit six says that more follow, bit five of the last is the sign; from the fourth number on, the difference
to the number two before stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.errors import FoveateError


def decode_counts(text: str | bytes) -> list[int]:
    """The numbers of a compressed text."""
    counts: list[int] = []
    value = shift = 0
    for char in text.encode() if isinstance(text, str) else text:
        bits = char - 48
        if not 0 <= bits < 64:
            raise FoveateError(f"compressed RLE: the character {chr(char)!r} cannot stand in it")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise FoveateError("compressed RLE: it ends in the middle of a number")
    return counts


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """`{"size": [H, W], "counts": list or text}` -> bool [H, W].

    Raises:
        FoveateError: the counts do not fill the size.
    """
    try:
        height, width = (int(n) for n in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise FoveateError(f'RLE mask: expected {{"size": [H, W], "counts": ...}}, got {str(rle)[:80]}') from error
    runs = np.asarray(decode_counts(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise FoveateError(
            f"RLE mask: its runs cover {int(runs.sum())} pixels, {height} x {width} has {height * width}"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def decode_polygons(polygons: Sequence[Sequence[float]], hw: tuple[int, int]) -> np.ndarray:
    """COCO polygons [x0, y0, x1, y1, ...] in pixels -> bool [H, W]: the pixels whose centre lies inside one of them.

    Of two that share an edge, each pixel lies in one. (Pillow's polygons take whole pixels, and their border with them;
    matplotlib's paths give a centre on an edge to either side.)
    """
    x, y = np.arange(hw[1]) + 0.5, np.arange(hw[0])[:, None] + 0.5
    inside = np.zeros(hw, bool)
    for flat in polygons:
        if len(flat) < 6 or len(flat) % 2:
            raise FoveateError(f"polygon: expected x, y of at least three corners, got {len(flat)} numbers")
        corners = np.asarray(flat, np.float64).reshape(-1, 2)
        odd = np.zeros(hw, bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if y0 != y1:  # a ray to the right crosses the edges that span its height
                odd ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        inside |= odd
    return inside


def decode_segmentation(segmentation: Any, hw: tuple[int, int]) -> np.ndarray:
    """A COCO `segmentation` (polygons or RLE) -> bool [H, W] of its own size, which need not be `hw`."""
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation)
    return decode_polygons(segmentation, hw)
