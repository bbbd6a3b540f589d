"""The model server against the real harness: its benchmark, its runner and its client play the shipped policy."""

from __future__ import annotations

import asyncio
import socket
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vla_eval", reason='needs vla-eval: pip install "foveate[vla-eval]"')

from jsonargparse import ArgumentParser
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
from vla_eval.connection import Connection
from vla_eval.model_servers.serve import serve_async
from vla_eval.orchestrator import _merge_observation_params
from vla_eval.runners.base import ModelActError
from vla_eval.runners.sync_runner import SyncEpisodeRunner
from vla_eval.specs import check_specs

import foveate
from foveate.integrations.vla_eval import FoveateModelServer
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation
from foveate.util.noise import action_noise

pytestmark = pytest.mark.peer

POLICY, TASK, EPISODE = "metaworld_tiny_lightvla", "drawer-open", 3
CAMERAS = {"front": "corner", "wrist": "gripperPOV"}


class Pictures(StepBenchmark):
    """Random scenes in the harness's form; remembers what was done in them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self.actions: list[np.ndarray] = []

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": TASK, "episode_idx": EPISODE}]

    def reset(self, task: dict[str, Any]) -> np.random.Generator:
        return np.random.default_rng(0)

    def step(self, action: dict[str, Any]) -> StepResult:
        self.actions.append(np.array(action["actions"]))
        return StepResult(obs=self._last_result.obs, reward=0.0, done=len(self.actions) == 7, info={})

    def make_obs(self, raw_obs: np.random.Generator, task: dict[str, Any]) -> dict[str, Any]:
        pictures = {name: raw_obs.integers(0, 256, (64, 64, 3), np.uint8) for name in CAMERAS}
        self.seen.append(
            {"images": pictures, "states": raw_obs.uniform(0, 0.5, 4), "task_description": "open the drawer"}
        )
        return self.seen[-1]

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        return {"success": step_result.done}


def play(server: FoveateModelServer, benchmark: Pictures) -> tuple[dict[str, Any], dict[str, Any]]:
    """One episode over a real socket: what the server said of itself, and what the runner made of the episode."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def both() -> tuple[dict[str, Any], dict[str, Any]]:
        serving = asyncio.create_task(serve_async(server, "127.0.0.1", port))
        await asyncio.sleep(0)
        try:
            async with Connection(f"ws://127.0.0.1:{port}", timeout=120, backoff_base=1.1) as connection:
                result = await SyncEpisodeRunner().run_episode(benchmark, benchmark.get_tasks()[0], connection)
                return connection.server_info, result
        finally:
            serving.cancel()

    return asyncio.run(both())


@pytest.mark.parametrize("pruner", [None, {"name": "random", "keep_ratio": 0.5}])
def test_an_episode_over_the_wire_is_what_the_policy_does(pruner: dict[str, Any] | None) -> None:
    benchmark = Pictures()
    server = FoveateModelServer(POLICY, pruner=pruner, cameras=CAMERAS, seed=5, chunk_size=4)
    said, result = play(server, benchmark)
    assert result["metrics"] == {"success": True} and result["steps"] == 7
    assert said["observation_params"] == {"send_state": True, "send_wrist_image": True}

    policy = foveate.load_policy(POLICY, **({} if pruner is None else {"pruner": pruner}))
    expected = []
    for step in (0, 4):  # four actions of a chunk, then it looks again
        seen = benchmark.seen[step]
        observation = Observation(
            {ours: seen["images"][theirs] for theirs, ours in CAMERAS.items()}, seen["states"], "open the drawer"
        )
        noise = action_noise(policy.spec.noise_shape, 5, zlib.crc32(TASK.encode()), EPISODE, step)
        expected.append(policy.infer(observation, noise).actions[:4])
    np.testing.assert_array_equal(benchmark.actions, np.concatenate(expected)[:7])


def test_a_missing_camera_is_told_to_the_client() -> None:
    with pytest.raises(ModelActError) as caught:
        play(FoveateModelServer(POLICY, cameras={"front": "corner"}), Pictures())
    told = f"{caught.value} {caught.value.__cause__}"
    assert "no view 'gripperPOV'" in told and "got ['corner', 'wrist_image']" in told


def test_options_as_the_harness_reads_them() -> None:
    """As `run_server` does, whose flags begin with --args."""
    parser = ArgumentParser()
    parser.add_class_arguments(FoveateModelServer, nested_key="args", fail_untyped=False, sub_configs=True)
    words = ["--args.policy", POLICY, "--args.pruner", "{name: random, keep_ratio: 0.5}"]
    words += ["--args.cameras", '{"front": "corner"}', "--args.chunk_size", "3", "--args.max_batch_size", "2"]
    server = FoveateModelServer(**parser.parse_args(words).args.as_dict())
    assert (server.chunk_size, server.max_batch_size, server.cameras["front"]) == (3, 2, "corner")
    assert server.policy.pruner.config.keep_ratio == 0.5


def test_libero_is_asked_for_what_its_policies_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quaternion's sign is kept, the wrist camera is found, and the harness sees no other convention."""
    server = FoveateModelServer(POLICY)
    robot = RobotMapping.load("libero")
    spec = foveate.policy.PolicySpec(
        **{**vars(server.policy.spec), "conventions": robot.conventions, "state": robot.state, "cameras": robot.views}
    )
    monkeypatch.setattr(server.policy, "spec", spec)
    params = _merge_observation_params(LIBEROBenchmark, {"suite": "libero_goal"}, server.get_observation_params())
    benchmark = LIBEROBenchmark(**params)
    assert (benchmark.send_state, benchmark.send_wrist_image) == (True, True)
    turned = benchmark._quat_to_aa(np.array([0, 0, np.sqrt(0.5), -np.sqrt(0.5)]))
    np.testing.assert_allclose(turned, [0, 0, 1.5 * np.pi], rtol=1e-6)
    told = check_specs(
        server.get_action_spec(),
        benchmark.get_action_spec(),
        server.get_observation_spec(),
        benchmark.get_observation_spec(),
    )
    assert told == []
    pictures = {"agentview": np.zeros((8, 8, 3), np.uint8), "wrist": np.ones((8, 8, 3), np.uint8)}
    seen = server.observation({"images": pictures, "states": np.zeros(8), "task_description": "x"})
    chosen = robot.select_views(seen.images)
    assert chosen["base_0_rgb"].max() == 0 and chosen["left_wrist_0_rgb"].max() == 1
