"""The server over a real socket: openpi's protocol, what foveate adds, and what no client can do to it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from foveate.client import ConnectionLost, PolicyClient, ServerError
from foveate.errors import FoveateError
from foveate.serving.access import Access
from foveate.serving.evidence import ServedTrace
from foveate.serving.inference import InferenceWorker
from foveate.serving.server import PolicyServer
from foveate.testing.serving import HORIZON, StubPolicy, served
from foveate.tracing.record import iter_records
from foveate.util import msgpack_numpy


def message(value=0.25, prompt="push", **more):
    image = np.zeros((56, 56, 3), np.uint8)
    pictures = {"observation/corner": image, "observation/gripperPOV": image}
    state = np.array([value, 0, 0, 0], np.float32)
    return {
        **pictures,
        "observation/state": state,
        "prompt": prompt,
        "noise": np.zeros((HORIZON, 4), np.float32),
        **more,
    }


def client_of(server, **options):
    return PolicyClient("127.0.0.1", server.port, **{"wait_s": 5, **options})


def get(server, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def counted(server, name):
    """A number of /metrics."""
    return float(re.search(rf"^{re.escape(name)} (\S+)$", get(server, "/metrics"), re.MULTILINE)[1])


@pytest.fixture(scope="module")
def server():
    with served(StubPolicy()) as running:
        yield running


def test_metadata_first_then_an_answer_per_observation(server):
    with connect(f"ws://127.0.0.1:{server.port}", compression=None) as raw:
        hello = msgpack.unpackb(raw.recv())
        assert hello["policy"] == "stub"
        assert hello["observation"] == [
            "observation/corner", "observation/gripperPOV", "observation/state", "prompt"
        ]  # fmt: skip
        timings = []
        for value in (0.25, 0.5):
            raw.send(msgpack_numpy.pack(message(value)))
            answer = msgpack_numpy.arrays_in(msgpack_numpy.unpack(raw.recv()))
            assert answer["actions"].dtype == np.float32
            np.testing.assert_array_equal(answer["actions"], np.full((HORIZON, 4), value, np.float32))
            assert answer["policy_timing"]["infer_ms"] > 0
            timings.append(answer["server_timing"])
    assert timings[0].keys() == {"infer_ms"}
    assert timings[1].keys() == {"infer_ms", "prev_total_ms"}


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ("text", "a text frame came"),
        (b"", "no msgpack"),
        (b"\x93\x01\x02\x03", "expected an object"),
        (msgpack_numpy.pack({"observation/image": 1}), "lacks 'observation/corner'"),
        (msgpack_numpy.pack(message(noise=np.zeros(3, np.float32))), r"noise: expected a float32 array \[10, 4\]"),
        (msgpack_numpy.pack(message(session="s" * 1000)), "session: expected a name"),
        (msgpack_numpy.pack(message(reset="yes")), "reset: expected true or false"),
        (msgpack_numpy.pack({"batch": []}), "batch: expected 1 to 64"),
        (msgpack_numpy.pack({"batch": [message(), {"prompt": "x"}]}), r"batch\[1\]: the observation lacks"),
        (msgpack_numpy.pack(message(prev_chunk_left_over=np.zeros((5, 4)))), "real-time chunking: a stub has no flow"),
        (msgpack_numpy.pack(message(prev_chunk_left_over=np.zeros((50, 4)))), "expected an array of 1 to 10 actions"),
        (msgpack_numpy.pack(message(prev_chunk_left_over=np.zeros((5, 3)))), r"expected a float32 array \[5, 4\]"),
        (msgpack_numpy.pack(message(prompt="x" * 1_000_000)), "at most 4,096 characters, got 1,000,000"),
    ],
)
def test_a_malformed_query_is_a_text_frame_and_the_connection_stays(server, frame, told):
    with connect(f"ws://127.0.0.1:{server.port}", compression=None) as raw:
        raw.recv()
        raw.send(frame)
        answer = raw.recv()
        assert isinstance(answer, str) and re.search(told, answer)
        assert "Traceback" not in answer and ".py" not in answer
        raw.send(msgpack_numpy.pack(message()))
        assert isinstance(raw.recv(), bytes)


def test_too_large_a_message_ends_its_connection_with_1009():
    with served(StubPolicy(), max_message_bytes=100_000) as server:
        with connect(f"ws://127.0.0.1:{server.port}", compression=None) as raw:
            raw.recv()
            raw.send(b"x" * 100_001)
            with pytest.raises(ConnectionClosed):
                raw.recv()
            assert raw.protocol.close_code == 1009
        with client_of(server) as client:
            assert client.infer(message())["actions"].shape == (HORIZON, 4)


def test_health_and_metrics(server):
    assert get(server, "/healthz") == "OK\n"
    with client_of(server) as client:
        before = counted(server, 'foveate_queries_total{outcome="ok"}')
        client.infer(message())
        assert counted(server, 'foveate_queries_total{outcome="ok"}') == before + 1
        assert counted(server, "foveate_connections") == 1


def test_a_batch_answers_each_and_tells_what_was_refused():
    with served(StubPolicy()) as server, client_of(server) as client:
        rows = [message(0.1), message(prompt="nan"), message(0.3)]
        first, second, third = client.infer_batch([{**row, "session": str(i)} for i, row in enumerate(rows)])
    np.testing.assert_allclose([first["actions"][0, 0], third["actions"][0, 0]], [0.1, 0.3], rtol=1e-6)
    assert "not finite" in second["error"] and "actions" not in second


def test_actions_that_are_not_finite_never_leave(server):
    with client_of(server) as client:
        with pytest.raises(ServerError, match="not finite"):
            client.infer(message(prompt="nan"))
        assert np.isfinite(client.infer(message())["actions"]).all()
    assert counted(server, 'foveate_queries_total{outcome="not_finite"}') >= 1


def test_a_policy_that_raises_costs_one_answer_and_tells_no_secret():
    def fail(observations):
        if any(observation.prompt == "fail" for observation in observations):
            raise KeyError("/home/somebody/secret.py")

    with served(StubPolicy(before=fail)) as server, client_of(server) as client:
        with pytest.raises(ServerError, match=r"failed on this observation \(KeyError\)") as told:
            client.infer(message(prompt="fail"))
        assert "secret" not in str(told.value)
        rows = [message(0.1), message(prompt="fail"), message(0.3)]
        answers = client.infer_batch([{**row, "session": str(i)} for i, row in enumerate(rows)])
        assert ["error" in answer for answer in answers] == [False, True, False]


def test_a_late_answer_is_an_error_frame_and_is_counted():
    def slow(observations):
        time.sleep(0.3 if observations[0].prompt == "slow" else 0)

    with served(StubPolicy(before=slow), deadline_ms=150) as server, client_of(server) as client:
        with pytest.raises(ServerError, match="the answer is late"):
            client.infer(message(prompt="slow"))
        assert client.infer(message())["actions"].shape == (HORIZON, 4)
        assert counted(server, 'foveate_queries_total{outcome="late"}') == 1


def test_the_event_loop_is_free_while_the_policy_thinks():
    with served(StubPolicy(before=lambda _: time.sleep(1.0))) as server, client_of(server) as client:
        thinking = threading.Thread(target=client.infer, args=(message(),))
        thinking.start()
        time.sleep(0.2)
        begun = time.monotonic()
        assert get(server, "/healthz") == "OK\n"
        with client_of(server):
            pass
        assert time.monotonic() - begun < 0.7
        thinking.join()


def test_sessions_begin_anew_by_reset_and_by_connection():
    policy = StubPolicy()

    def resets():
        """Sessions that were reset since it was last asked."""
        found = [session for session in policy.resets if session]
        policy.resets.clear()
        return found

    with served(policy) as server:
        with client_of(server) as client:
            client.infer(message())
            assert resets() == ["1/"]
            client.infer(message())
            assert resets() == []
            client.reset()
            client.infer(message())
            assert set(resets()) == {"1/"}
            client.infer(message(reset=True))
            assert resets() == ["1/"]
            client.infer(message(session="left arm"))
            assert resets() == ["1/left arm"]
        with client_of(server) as client:
            client.infer(message())
            assert "2/" in resets()


def test_a_connection_has_no_end_of_sessions(server):
    with client_of(server) as client:
        for start in range(0, 256, 64):
            client.infer_batch([message(session=str(start + i)) for i in range(64)])
        with pytest.raises(ServerError, match="256"):
            client.infer(message(session="one more"))
        client.reset("7")
        client.infer(message(session="one more"))


def test_kept_patches_are_told_where_they_are_asked_for():
    with served(StubPolicy(kept=lambda _: 20)) as server, client_of(server) as client:
        assert "keep" not in client.infer(message())
        answer = client.infer(message(return_keep=True))
        assert {view: mask.shape for view, mask in answer["keep"].items()} == {"corner": (4, 4), "gripperPOV": (4, 4)}
        assert [int(mask.sum()) for mask in answer["keep"].values()] == [16, 4]
        assert answer["fell_back"] is False


def test_where_the_pruner_collapses_the_query_runs_with_all_tokens():
    policy = StubPolicy(kept=lambda observation: 2 if observation.prompt == "dark" else 20)
    with served(policy) as server, client_of(server) as client:
        rows = [message(prompt=prompt, return_keep=True, session=prompt) for prompt in ("push", "dark")]
        seen, blind = client.infer_batch(rows)
        assert (seen["fell_back"], blind["fell_back"]) == (False, True)
        assert sum(int(mask.sum()) for mask in blind["keep"].values()) == 32
        assert [o.prompt for o in policy.batches[-1]] == ["dark"]
        assert counted(server, "foveate_fallbacks_total") == 1
    with served(policy, worker={"fallback_kept": 0}) as server, client_of(server) as client:
        assert client.infer(message(prompt="dark", return_keep=True))["fell_back"] is False


def test_without_the_token_nobody_is_let_in():
    with served(StubPolicy(), access=Access(["secret"])) as server:
        for key in (None, "guess"):
            with pytest.raises(ConnectionLost, match="401"):
                client_of(server, api_key=key)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(server, "/metrics")
        assert get(server, "/healthz") == "OK\n"
        assert "foveate_queries" in get(server, "/metrics", Authorization="Bearer secret")
        with client_of(server, api_key="secret") as client:
            client.infer(message())
        assert 'foveate_refused_connections_total{reason="token"} 3.0' in get(
            server, "/metrics", Authorization="Api-Key secret"
        )


def test_evidence_of_served_inferences_is_a_run_folder_and_bounded(tmp_path):
    policy = StubPolicy(kept=lambda _: 20)
    for _ in range(2):
        trace = ServedTrace(tmp_path, 6, policy)
        with served(policy, worker={"witness": trace}) as server:
            for _ in range(2):
                with client_of(server) as client:
                    for _ in range(3):
                        client.infer(message())
        assert trace.close() == []
    records = [record for _, record in iter_records(tmp_path)]
    assert len(records) == 6
    assert {record.meta["task"] for record in records} == {"served"}
    assert {record.meta["episode"] for record in records} == {0, 1, 2, 3}


def test_told_to_end_the_server_answers_what_runs():
    begun = threading.Event()

    def slow(observations):
        begun.set()
        time.sleep(0.4)

    answers = []
    with served(StubPolicy(before=slow)) as server:
        client = client_of(server)
        asking = threading.Thread(target=lambda: answers.append(client.infer(message())))
        asking.start()
        assert begun.wait(5)
        server.stop()
        asking.join()
    assert answers[0]["actions"].shape == (HORIZON, 4)
    with pytest.raises(ConnectionLost):
        client_of(server, wait_s=0)


def test_a_port_in_use_names_who_holds_it(server):
    second = PolicyServer(InferenceWorker(StubPolicy()), port=server.port)
    with pytest.raises(FoveateError, match=rf"port {server.port} of 127.0.0.1 is in use by .*process {os.getpid()}"):
        asyncio.run(second.run())


def test_clients_that_break_off_in_a_frame_or_say_nothing_harm_nobody(server):
    half = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    half += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    broken = []
    for sent in (b"", b"GET /", b"\x16\x03\x01\x02\x00", half, half + b"\x82\xfe\xff\xff\x00\x00\x00\x00" + b"x" * 100):
        raw = socket.create_connection(("127.0.0.1", server.port))
        raw.sendall(sent)
        broken.append(raw)
    with client_of(server) as client:
        assert client.infer(message())["actions"].shape == (HORIZON, 4)
    for raw in broken:
        raw.close()
    with client_of(server) as client:
        assert client.infer(message())["actions"].shape == (HORIZON, 4)


def test_a_full_server_says_so():
    with served(StubPolicy()) as server:
        server._most = 1
        with client_of(server):
            with pytest.raises(InvalidStatus, match="503"):
                connect(f"ws://127.0.0.1:{server.port}")
