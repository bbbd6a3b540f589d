import ast
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from foveate.util import wire
from foveate.util.wire import WireError, decode, encode, receive, send

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1],
    np.array([[True, False]]),
    *(
        np.arange(6).astype(kind).reshape(2, 3)
        for kind in ("i1", "u2", "<i4", "i8", "u8", "f2", "f4", ">f4", "f8", "c16")
    ),
    np.array(3.5, np.float32),
    np.array([np.nan, np.inf, -0.0]),
    np.zeros((0, 3), np.uint8),
    np.array(["gripper", "π"]),
    np.array([b"raw"]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{list(array.shape)}")
def test_arrays_come_back_as_they_were(array):
    back = decode(encode({"a": [array, {"again": array}]}))["a"]
    for got in (back[0], back[1]["again"]):
        assert got.dtype == array.dtype and got.shape == array.shape
        np.testing.assert_array_equal(got, array)
        got[...] = got  # may be written to


def test_plain_values_come_back():
    message = {"x": [1, None, True, "ü", 0.1, float("inf")], "n": np.float32(0.5), "b": np.bool_(True), "empty": {}}
    assert decode(encode(message)) == {**message, "n": 0.5, "b": True}
    assert decode(encode(None)) is None


@pytest.mark.parametrize(
    "value",
    [
        {1},
        object(),
        np.array([object()]),
        np.array([None]),
        np.zeros(2, "i4,f4"),
        np.array(["2026-01-01"], "M8[D]"),
        b"x",
    ],
    ids=["set", "object", "objects", "none", "records", "dates", "bytes"],
)
def test_what_is_neither_json_nor_numbers_is_refused(value):
    with pytest.raises(TypeError, match=r"cannot send an? .* between processes; use"):
        encode({"x": value})


def described(*what):
    text = json.dumps({"__array__": list(what)}).encode()
    return struct.pack(">I", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        described("|O", [1]) + bytes(8),
        described("O8", [1]) + bytes(8),
        described("i4,f4", [1]) + bytes(8),
        described("(2,)f4", [1]) + bytes(8),
        described("nonsense", [1]),
        described("f8", [-1]),
        described("f8", [1.5]),
        described("f8", [True]) + bytes(8),
        described("f8", [1] * 40) + bytes(8),
        described("f8", 3),
        described("f8"),
        described(3, [1]),
        described("f8", [1 << 62, 1 << 62]),
        described("f8", [1 << 28]),
        struct.pack(">I", 0xFFFFFFFF) + b"{}",
        struct.pack(">I", 5) + b"{nope",
        struct.pack(">I", 4) + b"\xff\xfe\x00\x00",
        struct.pack(">I", 200_000) + b"[" * 200_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        encode({"a": 1}) + b"more",
        b"",
    ],
    ids=lambda data: str(data[:40]),
)
def test_garbage_is_one_clear_error(data):
    with pytest.raises(WireError, match="message"):
        decode(data)


def test_every_cut_is_told():
    data = encode({"a": np.arange(5, dtype=np.float32), "b": "text"})
    for end in range(len(data)):
        with pytest.raises(WireError, match="cut off"):
            decode(data[:end])


def test_random_bytes_never_do_harm():
    rng = np.random.default_rng(0)
    good = bytearray(encode({"a": np.arange(5, dtype=np.float32), "b": "text"}))
    for _ in range(2000):
        data = bytearray(good)
        for place in rng.integers(len(data), size=3):
            data[place] = rng.integers(256)
        with contextlib.suppress(WireError):
            decode(bytes(data))


def test_no_memory_is_taken_for_what_is_too_large(monkeypatch):
    monkeypatch.setattr(wire, "MAX_ARRAYS", 100)
    assert decode(encode(np.zeros(100, np.uint8))).size == 100
    with pytest.raises(WireError, match="more than 100 bytes"):
        decode(encode([np.zeros(60, np.uint8), np.zeros(60, np.uint8)]))


def test_messages_over_a_socket():
    ours, theirs = socket.socketpair()
    big = np.random.default_rng(0).integers(0, 255, (2000, 1000), np.uint8)  # more than a socket's buffer holds
    sender = threading.Thread(target=lambda: [send(theirs, {"big": big, "n": n}) for n in range(2)])
    sender.start()
    for n in range(2):
        got = receive(ours)
        assert got["n"] == n and (got["big"] == big).all()
    sender.join()
    theirs.sendall(encode({"big": big[:5]})[:-1])
    theirs.close()
    with pytest.raises(EOFError, match="closed"):
        receive(ours)
    ours.close()
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(WireError):
        receive(ours)
    ours.close()
    theirs.close()


ONLY_NUMPY = """
import sys
allowed = set(sys.stdlib_module_names) | {"numpy", "foveate"}
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Guard())
import foveate.util.wire, foveate.envs.worker
print(sorted(name for name in sys.modules if name.startswith("foveate.util.")))
"""


def test_the_worker_side_needs_numpy_alone():
    out = subprocess.run([sys.executable, "-c", ONLY_NUMPY], capture_output=True, text=True)
    assert out.stdout.strip() == "['foveate.util.process', 'foveate.util.wire']", out.stderr


def test_an_older_python_reads_the_file():
    ast.parse(Path(wire.__file__).read_text(), feature_version=(3, 8))
