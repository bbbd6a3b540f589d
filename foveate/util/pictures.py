"""The one door for pictures: whatever a file holds, RGB of 8 bits as a viewer shows it, or an `ImageError`.

    read_picture("frame.jpg")        # uint8 [H, W, 3]
    open_picture(encoded)            # the same as a PIL picture

    EXIF orientation        the picture is turned
    transparency            over white
    16 bits                 the high byte
    floats, 32-bit numbers  by their range: the first of 0-1, 0-255, 0-65535 that holds them, else lowest to highest
    CMYK, palette, 1 bit    converted
    several frames          the first

Nothing is decoded before its header has said how large it is; only regular files are opened.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Source = bytes | str | Path
"""An encoded picture, or the path of one."""
MAX_PIXELS = 89_478_485
"""A picture with more is refused: 256 MB as RGB, and where Pillow starts to warn."""
HARD_LIMIT = 2 * MAX_PIXELS
"""Where Pillow itself refuses."""
ORIENTATION = 0x0112
RANGES = (1, 255, 65535)


class ImageError(FoveateError):
    """A picture that is missing or not understood; says why, not which."""


def open_picture(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB, whole.

    Raises:
        ImageError: it is no regular file, too large, broken, or of a kind that is not known.
    """
    return _opened(source, max_pixels, _rgb)


def read_picture(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 [H, W, 3]; errors as of `open_picture`."""
    return np.array(open_picture(source, max_pixels))


def read_labels(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[H, W], the numbers as they stand in the file: grey levels of any depth, indices of a palette; colours as grey.

    What is transparent is 0. Errors as of `open_picture`.
    """
    return _opened(source, max_pixels, _labels)


def picture_size(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height as they are stored, from the header alone; errors as of `open_picture`."""
    return _opened(source, max_pixels, lambda image: image.size, decode=False)


def fault(source: Source, max_pixels: int = MAX_PIXELS) -> str:
    """Why a picture cannot be read; empty: it can. A JPEG is decoded at an eighth of its size for that."""
    try:
        return _opened(source, max_pixels, lambda image: "", draft=True)
    except ImageError as error:
        return str(error)


def encoded(source: Source | None) -> bytes:
    """The bytes of a picture as they are stored; of none, and of what is no regular file, nothing."""
    if source is None or isinstance(source, bytes):
        return source or b""
    try:
        return Path(source).read_bytes() if is_file(source) else b""
    except OSError:
        return b""


def difference(before: np.ndarray, now: np.ndarray) -> float:
    """Mean absolute difference of two pictures, of 1; infinite where their sizes differ."""
    if before.shape != now.shape:
        return float("inf")
    return float(np.abs(before.astype(np.int16) - now).mean() / 255)


def is_file(path: str | Path) -> bool:
    """Whether a regular file is there, whatever stands in place of a path."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null
        return False


def _opened(
    source: Source, max_pixels: int, make: Callable[[Image.Image], T], *, draft: bool = False, decode: bool = True
) -> T:
    from PIL import Image, UnidentifiedImageError

    try:
        if not isinstance(source, bytes):
            _check_file(Path(source))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are judged here
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.format in ("EPS", "WMF"):
                    raise ImageError(f"{image.format} holds drawing commands, no pixels; save it as PNG")
                if image.width * image.height > max_pixels:
                    raise ImageError(f"{image.width} x {image.height} are more than {max_pixels:,} pixels")
                if draft:
                    image.draft("RGB", (32, 32))
                if decode:
                    image.load()
                return make(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its own sentence ends with the address of an object
        raise ImageError("no known picture format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {min(max_pixels, HARD_LIMIT):,} pixels") from error
    except Exception as error:  # decoders raise what their libraries do
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(reason) from error


def _check_file(path: Path) -> None:
    """A device never ends, and a pipe waits for its writer."""
    if not path.is_file():
        reason = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
        raise ImageError(reason)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    turn = _turn(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(image))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] of one channel of more than 8 bits."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        levels = (values >> 8).astype(np.uint8)
        clear = image.info.get("transparency")
        return levels if clear is None else np.where(values == clear, np.uint8(255), levels)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("it holds not one finite number")
    values = np.where(finite, values, 0).astype(np.float64)
    low, high = values[finite].min(), values[finite].max()
    top = next((top for top in RANGES if low >= 0 and high <= top), None)
    scaled = values / top if top else (values - low) / (high - low or 1)
    return np.where(finite, np.rint(scaled * 255), 0).astype(np.uint8)


def _labels(image: Image.Image) -> np.ndarray:
    from PIL import Image

    turn = _turn(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    if image.mode not in ("L", "P", "1", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("L")
    return np.array(image if turn is None else image.transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What a loaded picture's EXIF asks for; a damaged EXIF asks for nothing."""
    from PIL import Image

    turns = Image.Transpose
    kinds = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    try:
        return kinds.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever a parser of foreign bytes raises
        return None
