"""Frames and connections that no good client sends, made from a seed; see `tests/test_serving_faults.py` and `run.py`.

counts = send_hostile(port, frames=10_000, seed=0)
counts["text"], counts["closed"]          # answered with an error, closed cleanly
"""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from foveate.util import msgpack_numpy

IMAGE = np.zeros((32, 32, 3), np.uint8)
GOOD: dict[str, Any] = {
    "observation/corner": IMAGE,
    "observation/gripperPOV": IMAGE,
    "observation/state": np.zeros(4, np.float32),
    "prompt": "push",
}


def array(**changes: Any) -> dict[bytes, Any]:
    """An array's header with something wrong in it."""
    header = {"__ndarray__": True, "data": IMAGE.tobytes(), "dtype": "|u1", "shape": [32, 32, 3], **changes}
    return {name.encode(): value for name, value in header.items()}


ODD: list[Any] = [
    *(None, -1, 2**63, 1e308, float("nan"), "", "x" * 10, "x" * 5000, "x" * 200_000, b"\x80" * 50),
    *([], {}, [[]] * 50, [1] * 3000, [{"prompt": "x"}] * 64, {"a": {"b": {"c": {"d": {"e": 1}}}}}),
    *(array(dtype=dtype) for dtype in ("|O", "<f4,<i8", "V99", "<U9999", "<c16", "")),
    *(array(shape=shape) for shape in ([2**40, 2**40], [-1, 32, 3], "32", [32, 32, 1, 3])),
    *(array(data=data) for data in (b"", 7)),
]
"""Values that fit nowhere in an observation."""


def malformed(rng: random.Random) -> bytes | str:
    """One frame that has to be refused."""
    whole = msgpack_numpy.pack(GOOD)
    view = rng.choice(["observation/corner", "observation/state", "prompt", "noise", "batch", "session", "reset"])
    odd = rng.choice(ODD)
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(0, 2000))
    if kind == 1:
        return whole[: rng.randrange(len(whole))]
    if kind == 2:
        at = rng.randrange(34)  # in the first key or header; further on it may be a pixel
        return whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    if kind == 3:
        return rng.choice(["text", '{"json": 1}', "\x00" * 1000])
    if kind == 4:
        return rng.choice(
            [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000]
        )
    if kind == 5:
        return bytes(msgpack.packb({"unknown": 1, "observation/image": [1, 2, 3]}))
    return bytes(msgpack.packb({**{k: array() for k in list(GOOD)[:2]}, view: odd}, use_bin_type=True))


def send_hostile(port: int, frames: int, seed: int = 0, slow_every: int = 200, huge: int = 1 << 25) -> Counter[str]:
    """Send them; what became of each: `text` (an error that says what is wrong), `closed`, `answered`, `hung`.

    Args:
        slow_every: of so many one is a connection that breaks off in a frame, says nothing of use, or sends its frame
            byte by byte.
        huge: bytes of a message that is larger than the server takes.
    """
    rng, counts = random.Random(seed), Counter()
    held, connection = ExitStack(), None
    for number in range(frames):
        if number % slow_every == slow_every - 1:
            counts[_odd_connection(port, rng)] += 1
            continue
        frame = b"\0" * huge if number % 1000 == 500 else malformed(rng)
        try:
            if connection is None:
                held.close()
                connection = held.enter_context(connect(f"ws://127.0.0.1:{port}", compression=None))
                connection.recv(10)
            connection.send(frame)
            answer = connection.recv(10)
            counts["text" if isinstance(answer, str) else "answered"] += 1
            if isinstance(answer, str) and ("Traceback" in answer or len(answer) > 2000):
                counts["told too much"] += 1
        except TimeoutError:
            counts["hung"] += 1
            connection = None
        except (ConnectionClosed, InvalidHandshake, OSError):
            counts["closed"] += 1
            connection = None
    held.close()
    return counts


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


BROKEN = [
    *(b"", b"GET /", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"POST / HTTP/1.1\r\n\r\n"),
    *(HANDSHAKE, HANDSHAKE + b"\xff" * 20, HANDSHAKE + b"\x82\xfe\xff\xff\x00\x00\x00\x00" + b"x" * 500),
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500,
]
"""What a connection sends that breaks off."""


def _odd_connection(port: int, rng: random.Random) -> str:
    """A connection that is broken at the level of TCP, HTTP or WebSocket."""
    sent = rng.choice(BROKEN)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            for at in range(0, len(sent), 1 if len(sent) < 200 else len(sent)):
                raw.sendall(sent[at : at + 1] if len(sent) < 200 else sent)
                time.sleep(0.0005)
    except OSError:
        pass
    return "broken off"
