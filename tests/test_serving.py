"""`foveate serve` as a process, and `foveate eval sim` through a server: ours, a killed one, and openpi's protocol."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace

import fake_env
import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve as serve_plainly

from foveate.cli.config import parse
from foveate.cli.eval.carry_over import ALIASES
from foveate.cli.eval.carry_over import carry_over as carry_over_client
from foveate.cli.main import main
from foveate.cli.serve import ALIASES as SERVE_ALIASES
from foveate.cli.serve import carry_over
from foveate.client import PolicyClient
from foveate.errors import FoveateError
from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.remote import RemotePolicy
from foveate.evaluation.sim.simulate import EnvConfig, SimConfig
from foveate.models.common.robots import RobotMapping
from foveate.serving.config import ServeConfig
from foveate.testing.serving import served, started
from foveate.training.policy.untrained import TINY, random_policy
from foveate.util import msgpack_numpy
from foveate.util.files import read_json_lines
from foveate.util.ports import check_port


def config_of(uri, out, **more):
    env = EnvConfig(name="fake_env:LineEnv", image_size=56)
    options = {"task_suite_name": "go", "num_trials_per_task": 2, "num_workers": 2, **more}
    return SimConfig(policy=uri, env=env, out=str(out), **options)


@pytest.fixture(autouse=True)
def _fake_env(monkeypatch):
    fake_env.on_the_path(monkeypatch)


def test_a_served_policy_is_evaluated_as_one_that_is_loaded(tmp_path):
    with random_policy(TINY, "lightvla") as policy:
        here = evaluate(replace(config_of("p", tmp_path / "here"), max_batch=1), policy=policy)
        with served(policy, worker={"max_batch": 1, "fallback_kept": 0}) as server:
            there = evaluate(config_of(f"ws://127.0.0.1:{server.port}", tmp_path / "there", max_batch=1))
    assert here.variant == there.variant == "lightvla"
    rows = [read_json_lines(run.folder / "queries.jsonl") for run in (here, there)]
    told = [
        [
            (row["episode"], row["query"], row["step"], row["kept"], row["kept_corner"], row["patches"])
            for row in sorted(some, key=lambda row: (row["episode"], row["query"]))
        ]
        for some in rows
    ]
    assert told[0] == told[1] and len(told[0]) > 4
    total = [run.summary["total"] for run in (here, there)]
    assert [t["successes"] for t in total] == [2, 2]
    assert there.summary["engine"]["policy"] == policy.spec.name
    assert {"vision_ms", "denoise_ms", "total_ms"} <= rows[1][0].keys()


def test_the_actions_through_a_server_are_the_same(tmp_path):
    with random_policy(TINY, "lightvla") as policy, served(policy, worker={"fallback_kept": 0}) as server:
        observations = [policy.example(seed) for seed in range(3)]
        noise = np.random.default_rng(0).standard_normal((3, *policy.spec.noise_shape), np.float32)
        with PolicyClient("127.0.0.1", server.port) as client:
            remote = RemotePolicy(client)
            chunks = remote.infer_batch(observations, noise, sessions=["a", "b", "c"])
        alone = [policy.infer(o, x) for o, x in zip(observations, noise, strict=True)]
    for chunk, expected in zip(chunks, alone, strict=True):
        np.testing.assert_allclose(chunk.actions, expected.actions, atol=2e-5)


def openpi_server(connection):
    """As openpi's server answers: actions and timings, and whatever else was sent is passed over."""
    connection.send(msgpack.packb({}))
    for frame in connection:
        message = msgpack_numpy.arrays_in(msgpack_numpy.unpack(frame))
        wanted = {"observation/corner", "observation/gripperPOV", "observation/state", "prompt"}
        assert message.keys() == wanted, message.keys()
        actions = np.tile(message["observation/state"].astype(np.float64), (10, 1))
        connection.send(
            msgpack_numpy.pack(
                {"actions": actions, "policy_timing": {"infer_ms": 1.0}, "server_timing": {"infer_ms": 1.0}}
            )
        )


def test_an_openpi_server_is_evaluated_once_the_robot_is_named(tmp_path):
    with serve_plainly(openpi_server, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(FoveateError, match="--robot libero"):
            evaluate(config_of(uri, tmp_path / "none"))
        run = evaluate(config_of(uri, tmp_path / "run", robot="metaworld"))
        with pytest.raises(FoveateError, match="num_steps, trace_out_dir: the server"):
            evaluate(replace(config_of(uri, tmp_path), out=None, trace_out_dir=str(tmp_path / "t"), num_steps=3))
    assert run.summary["total"]["successes"] == 2
    assert run.summary["total"]["kept"]["mean"] is None


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_under_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DELAY", "0.1")
    port = check_port("127.0.0.1", 0)
    server = started(port, "policy:checkpoint", "--policy.dir", "metaworld_tiny")
    run = []
    config = config_of(f"ws://127.0.0.1:{port}", tmp_path / "run", num_trials_per_task=3, num_workers=1)
    log = tmp_path / "run" / "episodes.jsonl"
    playing = threading.Thread(target=lambda: run.append(evaluate(config)))
    try:
        playing.start()
        until = time.monotonic() + 100
        while not (log.exists() and log.read_text().count("\n")):  # one episode is over, two are to come
            assert playing.is_alive() and time.monotonic() < until
            time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server = started(port, "--policy", "metaworld_tiny")
        playing.join(120)
        assert run[0].summary["total"]["successes"] == 3
        assert run[0].summary["engine"]["connections"] == 2
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert "serving metaworld_tiny on ws://127.0.0.1" in server.stdout.read()
    finally:
        server.kill()


def test_openpi_s_command_line_carries_over():
    words = ["policy:checkpoint", "--policy.config", "pi05_libero_pytorch", "--policy.dir", "DIR", "--record"]
    left, robot = carry_over(["--env", "LIBERO", *words])
    assert robot == "libero"
    config = parse(ServeConfig, left, "foveate serve", aliases=SERVE_ALIASES)
    assert (config.policy, config.config_name) == ("DIR", "pi05_libero_pytorch")
    assert config.trace_out_dir == "policy_records"
    assert carry_over(["--env=ALOHA_SIM"]) == ([], "aloha_sim")
    for wrong in (["--env", "MARS"], ["policy:default"], ["--env"]):
        with pytest.raises(FoveateError):
            carry_over(wrong)


def test_openpi_s_client_line_becomes_a_remote_evaluation():
    as_it_is = ["--args.resize-size", "224", "--args.num-steps-wait=10"]
    words = carry_over_client(
        ["--args.task-suite-name", "libero_spatial", "--args.host", "0.0.0.0", "--args.port=8001", *as_it_is]
    )
    config = parse(SimConfig, words, "foveate eval sim", aliases=ALIASES)
    assert (config.policy, config.task_suite_name, config.env.name) == (
        "ws://127.0.0.1:8001",
        "libero_spatial",
        "libero",
    )
    assert config.remote
    with pytest.raises(FoveateError, match=r"openpi's flag has no counterpart.*--record video"):
        carry_over_client(["--args.video-out-path", "videos"])
    with pytest.raises(FoveateError, match=r"--args\.port needs a value"):
        carry_over_client(["--args.port"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--token_file FILE, or --allow_anonymous"),
        (["--token_file", "absent"], "cannot be read"),
        (["--port", "70000"], "port: expected a whole number of 0 to 65,535"),
        (["--deadline_ms", "0"], "deadline_ms: expected more than 0"),
        (["--max_message_mb", "-1"], "max_message_mb: expected more than 0"),
        (["--policy", "absent"], "no such checkpoint folder"),
    ],
)
def test_what_cannot_be_served_is_told(words, told, capsys):
    assert main(["serve", "--policy", "metaworld_tiny", *words]) == 1
    assert told in capsys.readouterr().err


def test_a_port_in_use_is_told_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(ServeConfig, "load", lambda *_: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--policy", "metaworld_tiny", "--port", str(port)]) == 1
    assert f"port {port} of 127.0.0.1 is in use by " in (told := capsys.readouterr().err)
    assert f"(process {os.getpid()}); choose another with --port" in told


def test_every_robot_says_what_its_clients_send():
    keys = {name: RobotMapping.load(name).remote.keys(RobotMapping.load(name)) for name in ("droid", "libero", "aloha")}
    assert keys["droid"][2:] == ["observation/joint_position", "observation/gripper_position"]
    assert keys["libero"] == ["observation/image", "observation/wrist_image", "observation/state"]
    assert keys["aloha"] == ["images/cam_high", "state"]
