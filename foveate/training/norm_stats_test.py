"""Norm stats against NumPy, on rows and on chunks, and what happens to entries that hardly vary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from foveate.cli.main import main
from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.writer import LeRobotWriter
from foveate.errors import FoveateError
from foveate.models.common.normalize import load_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.testing.golden import golden_dir
from foveate.testing.lerobot import LENGTHS, rows_of, write_set
from foveate.training.norm_stats import NormStatsConfig, dataset_stats, norm_stats

ROBOT = {
    "name": "toy",
    "views": {"front": ["front"], "wrist": ["wrist"]},
    "state": [{"name": "arm", "dim": 4}],
    "action_dim": 3,
}


def robot_file(folder: Path, **more) -> str:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**ROBOT, **more}))
    return str(path)


def check(stats, expected: np.ndarray) -> None:
    np.testing.assert_allclose(stats.mean, expected.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.std, expected.std(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.q01, np.quantile(expected, 0.01, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.q99, np.quantile(expected, 0.99, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_equal_numpys(tmp_path: Path, version: str) -> None:
    root = write_set(tmp_path / "set", version, "image")
    assert main(["norm-stats", str(root), "--robot", robot_file(tmp_path)]) == 0
    stats = load_norm_stats(root / "norm_stats.json")
    rows = [rows_of(episode, length) for episode, length in enumerate(LENGTHS)]
    check(stats["state"], np.concatenate([row["observation.state"] for row in rows]))
    check(stats["actions"], np.concatenate([row["action"] for row in rows]))


def test_chunks_of_relative_actions_equal_numpys(tmp_path: Path) -> None:
    """As openpi counts them: every row's chunk, the last action repeated, less the state of the row."""
    root = write_set(tmp_path / "set", kind="image")
    robot = robot_file(tmp_path, delta_mask=[2, -1])
    with pytest.raises(FoveateError, match="set --action_horizon"):
        norm_stats(NormStatsConfig(dataset=str(root), robot=robot))
    result = norm_stats(NormStatsConfig(dataset=str(root), robot=robot, action_horizon=4, out=str(tmp_path / "assets")))
    assert result.path == tmp_path / "assets" / "norm_stats.json"
    moves = []
    for episode, length in enumerate(LENGTHS):
        rows = rows_of(episode, length)
        for t in range(length):
            for step in range(4):
                action = rows["action"][min(t + step, length - 1)].astype(np.float64)
                action[:2] -= rows["observation.state"][t, :2]
                moves.append(action)
    check(load_norm_stats(result.path)["actions"], np.array(moves))


def test_golden_quantiles_are_those_of_the_data_not_the_sets_own() -> None:
    """The set's own q01 of the first entry is -0.207, an average over episodes; the data's is -0.258."""
    root = golden_dir("lerobot", "v30_video.truth.npz") / "v30_video"
    truth = np.load(root.with_name("v30_video.truth.npz"))
    dataset = LeRobotDataset(root)
    views = {"front": ["front"]}
    robot = RobotMapping("toy", views, (("arm", 8),), 7)
    robot = RobotMapping.from_dict({**robot.to_dict(), "views": views})
    stats, warnings = dataset_stats(dataset, robot, None)
    np.testing.assert_allclose(stats["state"].q01[:6], np.quantile(truth["state"], 0.01, axis=0)[:6], rtol=1e-5)
    np.testing.assert_allclose(stats["actions"].q99, np.quantile(truth["action"], 0.99, axis=0), rtol=1e-5)
    assert stats["state"].q01[0] == pytest.approx(-0.258, abs=5e-4)
    assert dataset.stats["observation.state"]["q01"][0] == pytest.approx(-0.207, abs=5e-4)
    assert len(warnings) == 1 and "state[7], observation.state[7] (spare): constant at 0.5" in warnings[0]
    assert (stats["state"].q01[7], stats["state"].q99[7], stats["state"].std[7]) == (-0.5, 1.5, 1)


def test_a_gripper_that_hardly_ever_closes_keeps_its_range(tmp_path: Path) -> None:
    action = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    action[:, 2] = -1
    action[7, 2] = 1
    features = {"state": Feature("state", "float32", (4,)), "action": Feature("action", "float32", (3,))}
    with LeRobotWriter(tmp_path / "set", "v3.0", 20, features) as writer:
        writer.add({"state": np.random.default_rng(1).normal(size=(300, 4)), "action": action}, {}, "do it")
        writer.finish()
    robot = robot_file(tmp_path, optional_views=["front", "wrist"])
    result = norm_stats(NormStatsConfig(dataset=str(tmp_path / "set"), robot=robot))
    assert (result.stats["actions"].q01[2], result.stats["actions"].q99[2]) == (-1, 1)
    assert len(result.warnings) == 1 and "actions[2], action[2]: -1 in 98 % of the rows" in result.warnings[0]


def test_a_training_configuration_says_what_is_needed(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", kind="image")
    preset = {"data": {"path": [str(root)], "robot": robot_file(tmp_path)}, "model": {"action_horizon": 2}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset))
    assert main(["norm-stats", "--config-name", str(tmp_path / "mine.yaml")]) == 0
    written = json.loads((root / "norm_stats.json").read_text())["norm_stats"]
    assert set(written) == {"state", "actions"} and len(written["actions"]["q01"]) == 3
    with pytest.raises(FoveateError, match="did you mean 'metaworld_tiny"):
        norm_stats(NormStatsConfig(config_name="metaworld_tinny"))
    with pytest.raises(FoveateError, match="needs --dataset"):
        norm_stats(NormStatsConfig(config_name="metaworld_tiny"))


def test_what_does_not_fit_the_robot_is_named(tmp_path: Path) -> None:
    root = str(write_set(tmp_path / "set", kind="image"))

    def refused(message: str, **robot) -> None:
        with pytest.raises(FoveateError, match=message):
            norm_stats(NormStatsConfig(dataset=root, robot=robot_file(tmp_path, **robot)))

    refused(r"no camera 'top' .*its cameras are observation\.images\.front", views={"front": ["top"]})
    refused(r"expects 5 numbers as actions, and action has 3", action_dim=5)
    refused(r"expects 6 numbers as state.*observation\.state \(4\)", state=[{"name": "arm", "dim": 6}])
    refused(r"no column 'torque' \(columns\.state", columns={"state": ["torque"]})
