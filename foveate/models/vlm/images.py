"""Pictures of questions, decoded."""

from __future__ import annotations

from PIL import Image

from foveate.types import VQASample
from foveate.util.pictures import MAX_PIXELS, ImageError, open_picture


def decode(sample: VQASample, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The sample's picture, RGB, whole.

    Raises:
        ImageError: there is none, it is broken, or it has more pixels: the sample is marked, the run goes on.
    """
    if sample.image is None:
        raise ImageError(f"sample {sample.id}: there is no image to look at")
    try:
        return open_picture(sample.image, max_pixels)
    except ImageError as error:
        where = f"{len(sample.image)} bytes" if isinstance(sample.image, bytes) else sample.image
        raise ImageError(f"sample {sample.id}: the image ({where}) cannot be decoded: {error}") from error
