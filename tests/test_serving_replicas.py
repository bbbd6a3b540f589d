"""`foveate serve --replicas`: real Ray Serve, and a replica that is killed under its clients."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from foveate.cli.main import main
from foveate.client import ConnectionLost, PolicyClient, ServerError
from foveate.testing.serving import started
from foveate.util.ports import check_port

IMAGE = np.zeros((224, 224, 3), np.uint8)
OBSERVATION = {
    "observation/corner": IMAGE,
    "observation/gripperPOV": IMAGE,
    "observation/state": np.zeros(4, np.float32),
    "prompt": "push",
    "noise": np.zeros((10, 4), np.float32),
}
TOKEN = "a-token"


class Robot(threading.Thread):
    """A client in a closed loop, which goes on after a lost connection."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__()
        self.client = PolicyClient("127.0.0.1", port, api_key=TOKEN, timeout_s=60)
        self.stop, self.lost, self.failed = stop, 0, []
        self.actions = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self.actions.append(self.client.infer(OBSERVATION)["actions"])
            except ConnectionLost:
                self.lost += 1
            except Exception as error:
                self.failed.append(error)
                return


def replicas() -> list[int]:
    """Processes of the replicas on this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::ServeReplica:foveate" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def metrics(port: int) -> dict[str, float]:
    """Replica -> queries that it has answered."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    except OSError:  # the one that was asked has just died
        return {}
    return {
        sample.labels["replica"]: sample.value
        for sample in families["foveate_queries"].samples
        if sample.name == "foveate_queries_total" and sample.labels["outcome"] == "ok"
    }


def until(true, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_a_replica_that_is_killed_costs_no_more_than_its_running_answers(tmp_path):
    pytest.importorskip("ray", reason='Ray is not installed: pip install "foveate[ray]"')
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    port, stop = check_port("127.0.0.1", 0), threading.Event()
    server = started(port, "--policy", "metaworld_tiny", "--replicas", "2", "--token_file", str(tokens), seconds=300)
    try:
        with pytest.raises(ConnectionLost, match="a token is needed"):
            PolicyClient("127.0.0.1", port, wait_s=0)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
        until(lambda: len(metrics(port)) == 2)  # the first one that is ready answers alone
        robots = [Robot(port, stop) for _ in range(4)]
        with pytest.raises(ServerError, match="the observation lacks 'observation/corner'"):
            robots[0].client.infer({"prompt": "push"})  # and the connection stays
        for robot in robots:
            robot.start()
        until(lambda: all(len(robot.actions) > 5 for robot in robots))
        before = metrics(port)
        assert len(before) == 2 and all(before.values()), "the connections are shared out"
        killed = replicas()[0]
        os.kill(killed, signal.SIGKILL)
        marks = [len(robot.actions) for robot in robots]
        until(lambda: all(len(robot.actions) > mark + 20 for robot, mark in zip(robots, marks, strict=True)))
        until(lambda: len(now := replicas()) == 2 and killed not in now)
        until(lambda: len(metrics(port)) == 2)
        stop.set()
        for robot in robots:
            robot.join(60)
        assert not any(robot.failed for robot in robots)
        lost = [robot.lost for robot in robots]
        assert sorted(set(lost)) == [0, 1], "the clients of the killed one lost one answer each, the others none"
        assert [robot.client.connections for robot in robots] == [1 + count for count in lost]
        for actions in (robot.actions[-1] for robot in robots):
            np.testing.assert_allclose(actions, robots[0].actions[0], atol=1e-5)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        with pytest.raises(ConnectionLost):
            robots[0].client.infer(OBSERVATION)
        assert "serving 2 replicas of metaworld_tiny on ws://127.0.0.1" in server.stdout.read()
        assert not replicas()
    finally:
        stop.set()
        server.kill()


def test_replicas_without_ray_say_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "--policy", "metaworld_tiny", "--replicas", "2"]) == 1
    assert 'pip install "foveate[ray]"' in capsys.readouterr().err
    assert main(["serve", "--policy", "metaworld_tiny", "--replicas", "0"]) == 1
    assert "replicas: expected a whole number of 1" in capsys.readouterr().err
