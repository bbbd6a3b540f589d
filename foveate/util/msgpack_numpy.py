"""openpi's wire format: msgpack whose arrays are maps with `__ndarray__`, as openpi-client 0.1 writes and reads them.

    frame = pack({"observation/image": image, "prompt": "push the block"})
    message = arrays_in(unpack(frame))

Nothing is pickled, and what came is checked before it becomes an array: `unpack` leaves arrays as `Packed`, their type
and shape and bytes known to agree, so that a server can refuse what it does not want before it takes it up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.errors import FoveateError

try:
    import msgpack
except ImportError as error:  # the rest of foveate needs it nowhere
    raise FoveateError('msgpack is missing; pip install "foveate[client]", or "foveate[serve]" for a server') from error

DTYPE = re.compile(r"[<>=|]?([biuf][1248]|[SU][1-9]\d{0,4})")
"""Types that travel: truth values, numbers, text of a fixed width. No objects, no records, no complex numbers."""
MAX_ITEMS, MAX_KEYS, MAX_DIMS = 4096, 256, 8
"""Entries of one list, keys of one map, axes of one array: the decoder takes memory for no more."""


class MessageError(FoveateError):
    """What came is no message of this format."""


@dataclass(frozen=True)
class Packed:
    """An array as it came: type, shape and bytes agree, and nothing is made of them yet."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> np.ndarray:
        """The array; it may not be written to."""
        return np.ndarray(self.shape, self.dtype, buffer=self.data)


def pack(message: Any) -> bytes:
    """One frame.

    Raises:
        TypeError: it holds something else than plain values and arrays of numbers or text.
    """
    frame: bytes = msgpack.packb(message, default=_header)
    return frame


def unpack(frame: bytes) -> Any:
    """The message of one frame, arrays as `Packed`.

    Raises:
        MessageError: it is cut off, no msgpack, too large in one of its parts, or an array's header does not fit.
    """
    try:
        return msgpack.unpackb(
            frame,
            object_hook=_described,
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_KEYS,
            max_ext_len=0,
        )
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:  # msgpack's own errors are ValueErrors
        reason = str(error).rstrip(".") or type(error).__name__
        raise MessageError(f"a frame of {len(frame)} bytes is no msgpack message ({reason:.200})") from None


def arrays_in(message: Any) -> Any:
    """The same message with arrays in place of what was packed."""
    if isinstance(message, Packed):
        return message.array()
    if isinstance(message, dict):
        return {key: arrays_in(value) for key, value in message.items()}
    return [arrays_in(value) for value in message] if isinstance(message, list) else message


def _header(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and DTYPE.fullmatch(value.dtype.str):
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value).reshape(value.shape)
            return {b"__ndarray__": True, b"data": array.data.cast("B") if array.size else b"",
                    b"dtype": array.dtype.str, b"shape": array.shape}  # fmt: skip
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"cannot send a value of type {kind}; use plain values or arrays of numbers or text")


def _described(found: Mapping[Any, Any]) -> Any:
    if b"__npgeneric__" in found:
        value = found.get(b"data")
        if not isinstance(value, bool | int | float | str):
            raise MessageError(f"a NumPy scalar: expected a number or text, got a {type(value).__name__}")
        return value
    if b"__ndarray__" not in found:
        if b"nd" in found or "nd" in found:
            raise MessageError(
                "an array is written as the package msgpack-numpy does it (key `nd`); expected openpi-client's form, a "
                "map of __ndarray__, data, dtype, shape"
            )
        return found
    dtype, shape, data = (found.get(key) for key in (b"dtype", b"shape", b"data"))
    if not isinstance(dtype, str) or DTYPE.fullmatch(dtype) is None:
        raise MessageError(f"an array: expected a dtype of numbers or text such as '|u1' or '<f4', got {dtype!r:.60}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError(f"an array: expected a shape of at most {MAX_DIMS} whole numbers, got {shape!r:.60}")
    if not isinstance(data, bytes):
        raise MessageError(f"an array: expected its data as bytes, got a {type(data).__name__}")
    try:
        size = math.prod(shape) * np.dtype(dtype).itemsize
    except TypeError:
        raise MessageError(f"an array: there is no dtype {dtype!r:.60}") from None
    if size != len(data):
        raise MessageError(f"an array {dtype} of shape {shape} has {size:,} bytes, and {len(data):,} came")
    return Packed(dtype, tuple(shape), data)
