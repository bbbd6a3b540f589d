"""Where a patch of the model's input lies in the source image, and in which patch a pixel lies. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class ResizeGeometry:
    """A resize that keeps the aspect ratio and pads to the target, centred, as openpi's `resize_with_pad`."""

    src_hw: tuple[int, int]
    dst_hw: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.src_hw, *self.dst_hw) < 1:
            raise ValueError(f"image sizes must be positive, got {self.src_hw} -> {self.dst_hw}")

    @property
    def resized_hw(self) -> tuple[int, int]:
        """The picture's height and width inside the padded target, in pixels."""
        (h, w), (dst_h, dst_w) = self.src_hw, self.dst_hw
        # The same float arithmetic as the reference: the truncation can differ by a pixel otherwise.
        ratio = max(w / dst_w, h / dst_h)
        return max(1, int(h / ratio)), max(1, int(w / ratio))

    @property
    def pad(self) -> tuple[int, int, int, int]:
        """Left, right, top, bottom padding in target pixels; an odd pixel goes right and below."""
        (h, w), (dst_h, dst_w) = self.resized_hw, self.dst_hw
        left, top = (dst_w - w) // 2, (dst_h - h) // 2
        return left, dst_w - w - left, top, dst_h - h - top

    @property
    def scale(self) -> tuple[float, float]:
        """Target pixels per source pixel, in x and in y."""
        return self.resized_hw[1] / self.src_hw[1], self.resized_hw[0] / self.src_hw[0]

    def to_source(self, xy: np.ndarray) -> np.ndarray:
        """Target pixel coordinates [..., 2] (x, y) -> source pixel coordinates, not clipped."""
        left, _, top, _ = self.pad
        return (np.asarray(xy, dtype=np.float64) - (left, top)) / self.scale

    def patch_boxes(self, grid: tuple[int, int]) -> np.ndarray:
        """The source area of each patch.

        Args:
            grid: patch rows and columns over the whole target.
        Returns:
            float64 [rows * columns, 4]: x0, y0, x1, y1 in source pixels, row by row, clipped to the image; a
            patch that lies wholly in the padding has no area.
        """
        rows, columns = grid
        (height, width), (left, _, top, _) = self.resized_hw, self.pad
        # Clipped in target pixels, where the picture's edges are whole numbers: padding gets exactly no area.
        x = np.linspace(0, self.dst_hw[1], columns + 1).clip(left, left + width)
        y = np.linspace(0, self.dst_hw[0], rows + 1).clip(top, top + height)
        boxes = np.empty((rows, columns, 4))
        for corner, (ys, xs) in enumerate(((y[:-1], x[:-1]), (y[1:], x[1:]))):
            mesh = np.stack(np.meshgrid(xs, ys), axis=-1)
            boxes[..., 2 * corner : 2 * corner + 2] = self.to_source(mesh)
        return boxes.reshape(-1, 4).clip(0, [*self.src_hw[::-1]] * 2)


@lru_cache(maxsize=256)
def patch_axes(
    grid: tuple[int, int],
    source_hw: tuple[int, int],
    model_hw: tuple[int, int] | None = None,
    flips: tuple[bool, bool] = (False, False),
    crop: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The patch row of each source row, int [H], and the patch column of each source column, int [W].

    Args:
        model_hw: the model's input, into which the picture was resized with padding; None: the patches cover the
            picture exactly.
        flips: the model saw the picture mirrored vertically, horizontally.
        crop: side of the picture's middle that the model sees, as a share of the picture's, stretched to its input
            (OpenVLA-OFT); pixels outside of it have the index -1. None: it sees the whole picture, padded.
    """
    rows, columns = grid
    if crop is not None:
        row, column = (_middle(size, parts, crop) for size, parts in zip(source_hw, grid, strict=True))
        return (row[::-1] if flips[0] else row), (column[::-1] if flips[1] else column)
    # Without a model size, one whose resize keeps every pixel where it is: the picture's own.
    boxes = ResizeGeometry(source_hw, model_hw or source_hw).patch_boxes(grid).reshape(rows, columns, 4)
    # Of equal starts (patches wholly in the padding have no area) the last one is where the picture begins.
    # Rounded, so that a centre that lies on a border belongs to the later patch on every machine.
    row, column = (
        np.searchsorted(starts.round(9), np.arange(size) + 0.5, side="right") - 1
        for starts, size in zip((boxes[:, 0, 1], boxes[0, :, 0]), source_hw, strict=True)
    )
    return (row[::-1] if flips[0] else row), (column[::-1] if flips[1] else column)


def source_points(
    places: np.ndarray,
    grid: tuple[int, int],
    source_hw: tuple[int, int],
    model_hw: tuple[int, int] | None = None,
    flips: tuple[bool, bool] = (False, False),
    crop: float | None = None,
) -> np.ndarray:
    """Places between patches -> source pixel coordinates (x, y), float64 [..., 2], not clipped.

    Args:
        places: [..., 2], row and column in patches; the centre of the first patch is at 0.5, 0.5.
        others: as of `patch_axes`.
    """
    share = (np.asarray(places, np.float64) / grid)[..., ::-1]
    size = np.array(source_hw[::-1], np.float64)
    if crop is not None:
        xy = ((1 - crop) / 2 + crop * share) * size
    else:
        shown = model_hw or source_hw
        xy = ResizeGeometry(source_hw, shown).to_source(share * shown[::-1])
    mirrored: np.ndarray = np.where(flips[::-1], size - xy, xy)
    return mirrored


def _middle(size: int, parts: int, crop: float) -> np.ndarray:
    """int [size]: the patch of each pixel along an axis whose middle is cut into `parts`; -1 outside."""
    place = ((np.arange(size) + 0.5) / size - (1 - crop) / 2) / crop * parts
    index = np.floor(place.round(9)).astype(np.int64)
    return np.where((index >= 0) & (index < parts), index, -1)


def at_pixels(values: np.ndarray, axes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Values of patches [rows, columns, ...] -> of the source pixels [H, W, ...]; 0 where the model saw nothing.

    Args:
        axes: as `patch_axes` gives them.
    """
    # One row and one column more, where the index -1 points to.
    room = np.pad(values, [(0, 1), (0, 1)] + [(0, 0)] * (values.ndim - 2))
    seen: np.ndarray = room[axes[0][:, None], axes[1][None, :]]
    return seen
