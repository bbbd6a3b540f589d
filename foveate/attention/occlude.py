"""Which patches a map marks, and how their area of the source picture is covered.

    marked = choose(scores, areas, share=0.1)              # the tenth of the picture with the highest scores
    covered = Cover(image, axes, "mean", seed=0)(marked)   # the picture without it

Patches are chosen by area, not by number: those at the border of a letterboxed picture are partly padding. Patches
that lie wholly in the padding have no area and are never chosen. Knows nothing of models.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from foveate.errors import FoveateError
from foveate.geometry import at_pixels

Fill = Literal["mean", "blur", "noise"]
FILLS: tuple[Fill, ...] = ("mean", "blur", "noise")
Axes = tuple[np.ndarray, np.ndarray]
"""Patch row of each source row [H], patch column of each source column [W], -1 for none: `geometry.patch_axes`."""


def areas_of(axes: Axes, grid: tuple[int, int]) -> np.ndarray:
    """int64 [rows, columns]: source pixels of each patch; 0 in the padding."""
    row, column = (np.bincount(index[index >= 0], minlength=n) for index, n in zip(axes, grid, strict=True))
    return np.outer(row, column)


def choose(scores: np.ndarray, areas: np.ndarray, share: float) -> np.ndarray:
    """bool, of the shape of `scores`: the patches of the highest scores that cover a share of the whole area.

    Of the two numbers of patches around the wanted area the nearer one is taken, but at least one. Equal scores: the
    first patch wins.

    Args:
        scores: float; -inf: never chosen.
        areas: pixels of each patch.
        share: of the area of all patches, those of score -inf included, in [0, 1].
    """
    flat, size = scores.ravel(), areas.ravel().astype(np.float64)
    order = np.argsort(-flat, kind="stable")
    order = order[(size[order] > 0) & (flat[order] > -np.inf)]
    reached = np.concatenate([[0.0], np.cumsum(size[order])])
    count = int(np.abs(reached - share * size.sum()).argmin())
    count = max(count, int(share > 0))  # a small share of a few large patches is still something
    chosen = np.zeros(flat.shape, bool)
    chosen[order[:count]] = True
    return chosen.reshape(scores.shape)


class Cover:
    """Covers patches of one picture; what stands in their place is made once.

    mean: the picture's mean colour. blur: the picture under a Gaussian of a twelfth of its longer side. noise: normal
    noise of the picture's mean and standard deviation, per channel.
    """

    def __init__(self, image: np.ndarray, axes: Axes, fill: Fill, seed: int, name: str = "picture") -> None:
        """
        image: uint8 [H, W, 3].
        name: of the picture, for messages.
        """
        self.image, self.axes, self.fill, self.name = image, axes, fill, name
        self._filled = _filled(image, fill, seed)

    def __call__(self, marked: np.ndarray) -> np.ndarray:
        """The picture with the patches of `marked` (bool [rows, columns]) covered: uint8 [H, W, 3].

        Raises:
            FoveateError: there is something to cover, and the picture stays as it was.
        """
        if not marked.any():
            return self.image
        pixels = at_pixels(marked, self.axes)
        covered = np.where(pixels[..., None], self._filled, self.image)
        if np.array_equal(covered, self.image):
            raise FoveateError(
                f"{self.name}: covering {int(marked.sum())} patches with fill {self.fill!r} leaves the picture as it "
                "was, so nothing would be tested; the picture is plain there: choose --fill noise, or other frames"
            )
        return covered


def _filled(image: np.ndarray, fill: Fill, seed: int) -> np.ndarray:
    mean = image.reshape(-1, 3).mean(0)
    if fill == "mean":
        return np.broadcast_to(mean.round().astype(np.uint8), image.shape)
    if fill == "blur":
        from PIL import Image, ImageFilter

        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(max(image.shape) / 12)))
    if fill == "noise":
        std = image.reshape(-1, 3).std(0) + 1.0  # a plain picture gets noise too
        noise = np.random.default_rng(seed).normal(mean, std, image.shape)
        return noise.round().clip(0, 255).astype(np.uint8)
    raise FoveateError(f"fill {fill!r} is unknown; choices: {', '.join(FILLS)}")
