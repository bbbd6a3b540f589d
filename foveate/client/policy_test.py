"""The client where the other side is slow, gone, or no policy server."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve

from foveate.client import ConnectionLost, PolicyClient, ServerError
from foveate.errors import FoveateError
from foveate.util import msgpack_numpy


@contextmanager
def answering(handler, port=0):
    """A server whose connections a function answers; its port."""
    with serve(handler, "127.0.0.1", port, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def echo(connection):
    """Sends back the number that was asked with, as an action; waits for as long as it is told."""
    connection.send(msgpack.packb({"reset_pose": [0, 1]}))
    for frame in connection:
        message = msgpack_numpy.unpack(frame)
        time.sleep(message.get("wait", 0))
        if message.get("break"):
            connection.close_socket()
            return
        actions = np.full((2, 1), message["number"], np.float32)
        connection.send("no such number" if message["number"] < 0 else msgpack_numpy.pack({"actions": actions}))


def number(answer):
    return float(answer["actions"][0, 0])


def test_a_late_answer_is_not_taken_for_that_of_the_next_query():
    with answering(echo) as port, PolicyClient("127.0.0.1", port, timeout_s=0.3) as client:
        assert client.get_server_metadata() == {"reset_pose": [0, 1]}
        with pytest.raises(ConnectionLost, match=r"no answer within 0.3 s"):
            client.infer({"number": 1, "wait": 0.6})
        assert number(client.infer({"number": 2})) == 2
        assert client.connections == 2


def test_a_refused_query_leaves_the_connection():
    with answering(echo) as port, PolicyClient(f"ws://127.0.0.1:{port}") as client:
        with pytest.raises(ServerError, match="no such number"):
            client.infer({"number": -1})
        assert number(client.infer({"number": 3})) == 3
        assert client.connections == 1
        assert [answer.get("error", "") != "" for answer in client.infer_batch([{"number": 1}, {"number": -1}])] == [
            False,
            True,
        ]
        client.reset()  # openpi's server does not know it, and is not asked


def test_a_lost_connection_is_told_or_tried_again():
    broken = []

    def breaks_once(connection):
        if not broken:
            broken.append(True)
            connection.send(msgpack.packb({}))
            connection.recv()
            connection.close_socket()
        else:
            echo(connection)

    with answering(breaks_once) as port, PolicyClient("127.0.0.1", port) as client:
        with pytest.raises(ConnectionLost, match="lost before the answer"):
            client.infer({"number": 1})
        broken.clear()
        client.close()
    with answering(breaks_once) as port, PolicyClient("127.0.0.1", port, tries=2) as client:
        assert number(client.infer({"number": 4})) == 4
        assert client.connections == 2


def test_a_server_that_comes_up_later_is_waited_for():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionLost, match=r"no policy server reached within 0 s .*foveate serve"):
        PolicyClient("127.0.0.1", port, wait_s=0)
    clients = []
    waiting = threading.Thread(target=lambda: clients.append(PolicyClient("127.0.0.1", port, wait_s=20)))
    waiting.start()
    time.sleep(0.5)
    with answering(echo, port):
        waiting.join(20)
        assert number(clients[0].infer({"number": 5})) == 5
        clients[0].close()


def test_what_is_no_policy_server_is_told():
    with answering(lambda connection: connection.send("hello")) as port:
        with pytest.raises(ConnectionLost, match="no policy server"):
            PolicyClient("127.0.0.1", port, wait_s=0)
    later = {"server": "foveate 9.0", "protocol": 2}
    with answering(lambda connection: connection.send(msgpack.packb(later))) as port:
        with pytest.raises(FoveateError, match=r"foveate 9.0 speaks protocol 2, this client 1; .*--upgrade"):
            PolicyClient("127.0.0.1", port)
    with pytest.raises(ConnectionLost, match="no policy server"):
        PolicyClient("ws://", wait_s=0)
