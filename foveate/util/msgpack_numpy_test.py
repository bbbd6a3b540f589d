"""openpi's wire format: the very bytes of openpi-client, and nothing dangerous comes in."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from foveate.util.msgpack_numpy import MAX_ITEMS, MessageError, Packed, arrays_in, pack, unpack


def header(**changes):
    """An array as openpi-client 0.1 writes it."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": array.shape} | changes
    return msgpack.packb({name.encode(): value for name, value in plain.items()})


@pytest.mark.parametrize(
    "value",
    [
        np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        np.zeros((0, 3), np.float64),
        np.array(3.5, np.float16),
        np.array(["left", "right"]),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([True, False]),
    ],
)
def test_arrays_come_back_as_they_went(value):
    back = arrays_in(unpack(pack({"a": [value]})))["a"][0]
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back, value)


def test_the_bytes_are_those_of_openpi_client():
    assert pack(np.arange(6, dtype=np.float32).reshape(2, 3)) == header()
    assert pack(np.float32(1.5)) == msgpack.packb({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"})


def test_plain_values_and_numpy_scalars():
    message = {"prompt": "push", "n": 3, "x": 0.5, "none": None, "flag": True}
    assert unpack(pack({**message, "scalar": np.float64(2.5)})) == {**message, "scalar": 2.5}


def test_an_array_stays_packed_until_it_is_asked_for():
    found = unpack(header())
    assert found == Packed("<f4", (2, 3), np.arange(6, dtype=np.float32).tobytes())
    assert found.array().shape == (2, 3)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (header(dtype="|O"), "dtype of numbers or text"),
        (header(dtype="<f4,<f4"), "dtype of numbers or text"),
        (header(dtype="<f2(9999999,)"), "dtype of numbers or text"),
        (header(dtype="<f1"), "no dtype"),
        (header(dtype="<c8"), "dtype of numbers or text"),
        (header(dtype=4), "dtype of numbers or text"),
        (header(shape=(2, 4)), "has 32 bytes, and 24 came"),
        (header(shape=(-2, -3)), "whole numbers"),
        (header(shape=(2**62, 2**62)), "24 came"),
        (header(shape=(1,) * 9 + (6,)), "at most 8"),
        (header(shape=6), "whole numbers"),
        (header(shape=(2.0, 3)), "whole numbers"),
        (header(data="text"), "as bytes"),
        (header()[:-3], "no msgpack"),
        (header() + b"\x00", "no msgpack"),
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (b"\xdd\xff\xff\xff\xff", "no msgpack"),
        (b"\xdf\xff\xff\xff\xff", "no msgpack"),
        (b"\x91" * 5000, "no msgpack"),
        (msgpack.packb([0] * (MAX_ITEMS + 1)), "no msgpack"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "no msgpack"),
        (b"\x81\x90\x01", "no msgpack"),
        (b"\xa2\xff\xfe", "no msgpack"),
        (msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}), "NumPy scalar"),
        (msgpack.packb({b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [1], b"data": b"0000"}), "msgpack-numpy"),
    ],
)
def test_what_is_no_message_is_told(frame, told):
    with pytest.raises(MessageError, match=told):
        unpack(frame)


@pytest.mark.parametrize("value", [np.array([object()]), np.zeros(2, complex), object(), np.zeros(2, "M8[s]")])
def test_objects_are_not_sent(value):
    with pytest.raises(TypeError, match="cannot send"):
        pack({"a": value})
