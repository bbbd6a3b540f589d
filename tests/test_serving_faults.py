"""Hostile frames and connections beside a good client: nothing ends the server, and everything is told or closed."""

from __future__ import annotations

import importlib.util
import socket
import threading
from contextlib import ExitStack

import numpy as np
from websockets.sync.client import connect

from foveate.client import PolicyClient
from foveate.testing.golden import REPO
from foveate.testing.serving import StubPolicy, served


def hostile():
    """The benchmark's module, which makes the frames."""
    spec = importlib.util.spec_from_file_location("hostile", REPO / "benchmarks/serving/hostile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_frame_ends_the_server_or_a_good_client():
    bad = hostile()
    answers, stop = [], threading.Event()
    with served(StubPolicy(), max_message_bytes=1 << 20) as server:

        def good() -> None:
            with PolicyClient("127.0.0.1", server.port) as client:
                while not stop.is_set():
                    answers.append(client.infer(bad.GOOD)["actions"])

        client = threading.Thread(target=good)
        client.start()
        counts = bad.send_hostile(server.port, frames=600, slow_every=60, huge=2 << 20)
        stop.set()
        client.join(30)
        assert not client.is_alive()
        with ExitStack() as stack:
            uri = f"ws://127.0.0.1:{server.port}"
            for _ in range(100):
                stack.enter_context(connect(uri, compression=None)).close_socket()
        with PolicyClient("127.0.0.1", server.port) as last:
            assert last.infer(bad.GOOD)["actions"].shape == (10, 4)
    assert counts["hung"] == counts["told too much"] == counts["answered"] == 0, counts
    assert counts["broken off"] == 10
    assert counts["text"] > 500 and counts["text"] + counts["closed"] == 590, counts
    assert len(answers) > 20 and all(np.isfinite(actions).all() for actions in answers)


def test_a_frame_that_comes_byte_by_byte_is_answered_and_holds_up_nobody():
    bad = hostile()
    with served(StubPolicy()) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        for byte in bad.HANDSHAKE:
            slow.sendall(bytes([byte]))
        with PolicyClient("127.0.0.1", server.port) as client:
            assert client.infer(bad.GOOD)["actions"].shape == (10, 4)
        # A masked text frame of one letter, its mask zero: an error comes back, as for any client.
        for byte in b"\x81\x81\x00\x00\x00\x00x":
            slow.sendall(bytes([byte]))
        slow.settimeout(10)
        got = b""
        while b"a text frame came" not in got:
            more = slow.recv(4096)
            assert more, got
            got += more
        slow.close()
