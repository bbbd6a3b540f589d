"""Messages between processes: JSON values and NumPy arrays, with NumPy and the standard library alone.

    send(connection, {"call": "step", "action": action})
    answer = receive(connection)

A message is a JSON document whose arrays travel behind it as raw bytes; nothing is pickled:

    uint32 length of the JSON, big endian | JSON, {"__array__": [dtype, shape]} in place of arrays | bytes of each array

Whatever comes is checked before memory is taken for it. A simulator's interpreter imports this file, so it holds
nothing that an older Python lacks.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import FoveateError

if TYPE_CHECKING:
    import socket

KINDS = "biufcSU"
"""NumPy's kinds of data that travel: numbers, truth values and text of a fixed width; no objects, no records."""
MAX_JSON = 1 << 26
MAX_ARRAYS = 1 << 30
"""Bytes of a message; what asks for more is no message."""
HEADER = struct.Struct(">I")


class WireError(FoveateError):
    """What came is no message, or is cut off."""


def encode(message: Any) -> bytes:
    """One message.

    Raises:
        TypeError: it holds something else than JSON values and arrays of numbers or text.
    """
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in KINDS:
                raise TypeError(f"cannot send an array of {value.dtype} between processes; use numbers or text")
            arrays.append(value)
            return {"__array__": [value.dtype.str, list(value.shape)]}
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"cannot send a {type(value).__name__} between processes; use plain JSON values or arrays")

    text = json.dumps(message, default=plain).encode()
    return b"".join([HEADER.pack(len(text)), text, *(array.tobytes() for array in arrays)])


def decode(data: bytes) -> Any:
    """The message that `encode` made; its arrays may be written to.

    Raises:
        WireError: it is cut off, goes on behind its end, or is no message.
    """
    at = 0

    def read(size: int) -> bytearray:
        nonlocal at
        if size > len(data) - at:
            raise WireError(f"a message of {len(data)} bytes is cut off: {size} more were to come after {at}")
        at += size
        return bytearray(data[at - size : at])

    message = _parse(read)
    if at < len(data):
        raise WireError(f"a message of {at} bytes has {len(data) - at} more behind it")
    return message


def send(connection: socket.socket, message: Any) -> None:
    """Write one message; errors of `encode`, and OSError."""
    connection.sendall(encode(message))


def receive(connection: socket.socket) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side has closed, before or within a message.
        WireError: what came is no message; the connection is of no more use.
    """

    def read(size: int) -> bytearray:
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size:
            count = connection.recv_into(view[got:])
            if count == 0:
                raise EOFError("the other side closed the connection")
            got += count
        return buffer

    return _parse(read)


def _parse(read: Callable[[int], bytearray]) -> Any:
    (length,) = HEADER.unpack(read(HEADER.size))
    if length > MAX_JSON:
        raise WireError(f"no message: its JSON would have {length} bytes, more than {MAX_JSON}")
    room = MAX_ARRAYS

    # JSON keeps the order of the text, in which `encode` met the arrays, so their bytes follow in this order.
    def unplain(value: dict[str, Any]) -> Any:
        nonlocal room
        if "__array__" not in value:
            return value
        dtype, shape = _described(value["__array__"])
        size = math.prod(shape) * dtype.itemsize
        if size > room:
            raise WireError(f"no message: its arrays would have more than {MAX_ARRAYS} bytes")
        room -= size
        return np.frombuffer(read(size), dtype).reshape(shape) if size else np.zeros(shape, dtype)

    try:
        return json.loads(read(length).decode(), object_hook=unplain)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no message: its JSON cannot be read ({error})") from error


def _described(what: Any) -> tuple[np.dtype, list[int]]:
    """Type and shape of an array to come."""
    try:
        name, shape = what
        dtype = np.dtype(name) if isinstance(name, str) else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in KINDS or not isinstance(shape, list):
        raise WireError(f"no message: expected an array's [dtype, shape], got {str(what)[:80]}")
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise WireError(f"no message: {str(shape)[:80]} is no shape of an array")
    return dtype, shape
