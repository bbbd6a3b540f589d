"""Pictures of questions, decoded."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from foveate.errors import FoveateError
from foveate.types import VQASample


class ImageError(FoveateError):
    """A picture that is missing or cannot be decoded: the sample is marked, the run goes on."""


def decode(sample: VQASample) -> Image.Image:
    """The sample's picture, RGB, whole.

    Raises:
        ImageError: there is none, or it is broken.
    """
    if sample.image is None:
        raise ImageError(f"sample {sample.id}: there is no image to look at")
    try:
        source = io.BytesIO(sample.image) if isinstance(sample.image, bytes) else Path(sample.image)
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        where = f"{len(sample.image)} bytes" if isinstance(sample.image, bytes) else sample.image
        # Pillow's own sentence ends with the address of an object, another one in each run.
        reason = "no known picture format" if isinstance(error, UnidentifiedImageError) else error
        raise ImageError(f"sample {sample.id}: the image ({where}) cannot be decoded: {reason}") from error
