"""Pictures as OpenVLA-OFT was trained on them, without TensorFlow: a JPEG round trip, Lanczos, a centre crop.

Each step is held to the reference's, which is TensorFlow's: its JPEG decoder uses the fast inverse DCT (up to 15 grey
levels from the exact one), its Lanczos filter does not clip between the two passes, and its crop is bilinear on a grid
whose corners are the crop's.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.models.openvla_oft.config import CROP

LOBES = 3
"""Of the Lanczos filter."""


def jpeg_round_trip(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] through JPEG of quality 95, 4:2:0, as the training data came.

    Raises:
        FoveateError: the package that decodes as TensorFlow does is not installed.
    """
    try:
        import simplejpeg
    except ImportError:
        raise FoveateError(
            'OpenVLA-OFT sees pictures through a JPEG decoder that is not installed: pip install "foveate[oft]"'
        ) from None
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=95, subsampling="4:2:0")
    decoded: np.ndarray = simplejpeg.decode_jpeg(encoded.getvalue(), fastdct=True)
    return decoded


@functools.lru_cache(maxsize=16)
def lanczos_weights(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: what each source pixel gives to each resized one, antialiased when shrinking."""
    scale = max(source / target, 1.0)
    centre = (np.arange(target) + 0.5) * source / target
    distance = (np.arange(source) + 0.5 - centre[:, None]) / scale
    weights = np.where(np.abs(distance) < LOBES, np.sinc(distance) * np.sinc(distance / LOBES), 0.0)
    normalised: np.ndarray = weights / weights.sum(1, keepdims=True)
    return normalised


def lanczos(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [side, side, 3], rounded once, after both passes."""
    rows, columns = lanczos_weights(image.shape[0], side), lanczos_weights(image.shape[1], side)
    resized = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    rounded: np.ndarray = np.clip(np.round(resized), 0, 255).astype(np.uint8)
    return rounded


def centre_crop(image: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] -> uint8 [S, S, 3]: the middle nine tenths of its area, enlarged again."""
    side = image.shape[0]
    place = ((1 - CROP) / 2 + np.arange(side) * CROP / (side - 1)) * (side - 1)
    first = np.floor(place).astype(int)
    second, share = np.minimum(first + 1, side - 1), place - first
    values = image.astype(np.float64) / 255
    values = values[first] * (1 - share)[:, None, None] + values[second] * share[:, None, None]
    values = values[:, first] * (1 - share)[:, None] + values[:, second] * share[:, None]
    cropped: np.ndarray = np.floor(values * 255.5).astype(np.uint8)
    return cropped


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [side, side, 3], not cropped; one of that size stays as it is, as in the reference."""
    if image.shape[:2] == (side, side):
        return image
    return lanczos(jpeg_round_trip(np.ascontiguousarray(image)), side)


def policy_picture(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3], upright as the environment gives it -> uint8 [side, side, 3], as the towers see it."""
    return centre_crop(resized(image, side))
