"""What was covered: the map beside the pictures that the policy was shown. NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foveate.viz.attention import Sheet, Style
from foveate.viz.drawing import PAPER
from foveate.viz.overlay import captioned_row

HEIGHT = 200
"""Of each picture in a strip, in pixels."""


def strip(
    image: np.ndarray,
    grid: np.ndarray,
    shown: Mapping[str, np.ndarray],
    model_hw: tuple[int, int],
    title: str,
    most: float | None = None,
    crop: float | None = None,
) -> np.ndarray:
    """One view in a row: its map, then the pictures with something covered; uint8 [*, *, 3].

    Args:
        image: uint8 [H, W, 3], as it was.
        grid: [rows, columns], the map over the model's padded input.
        shown: name -> uint8 [H, W, 3].
        most: value of the map's last colour; None: its largest.
        crop: as `Sheet` takes it.
    """
    ratio = image.shape[1] / image.shape[0]
    style = Style(names=False, colorbar=False, smooth=False, size=(max(96, round(HEIGHT * 2 * ratio)), HEIGHT * 2))
    drawn = np.asarray(
        Sheet({"": image}, model_hw, style=style, crop=crop).draw(
            {"": grid}, scale=None if most is None else (0.0, most)
        )
    )
    return captioned_row({"map": drawn, **shown}, title, HEIGHT)


def stack(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Strips below each other, on paper: uint8 [*, *, 3]."""
    width = max(s.shape[1] for s in strips)
    wide = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0))) for s in strips]
    for before, after in zip(strips, wide, strict=True):
        after[:, before.shape[1] :] = PAPER
    return np.concatenate(wide)
