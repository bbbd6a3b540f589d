"""LeRobot data sets as samples: the robot's mapping finds cameras and columns, pictures are those of their rows."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foveate.data.conversion.base import NEW_PICTURE, vector
from foveate.data.conversion.lerobot import LeRobotSource
from foveate.data.lerobot.writer import LeRobotWriter
from foveate.errors import FoveateError
from foveate.models.common.normalize import Normalizer, NormStats, save_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.processing import Processor
from foveate.testing.lerobot import LENGTHS, TASKS, rows_of, seen_in, write_set
from foveate.training.config import DataConfig, LoopConfig, OptimConfig
from foveate.training.loop import Share
from foveate.training.policy.data import chunks, load_demos, make_samples, norm_stats
from foveate.training.policy.pi0.recipe import FlowSource
from foveate.training.policy.train import TrainPolicyConfig, train_policy
from foveate.util.shipped import TINY_TOKENIZER

SIZE, HORIZON = 56, 3
GEMMA = GemmaConfig(width=16, depth=1, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=8)
MODEL = Pi0Config(
    action_dim=5,
    action_horizon=HORIZON,
    max_token_len=48,
    vocab_size=1024,
    llm=GEMMA,
    expert=GEMMA,
    vision=VisionConfig(16, 1, 2, 32, 14, SIZE, 16),
    views=("main", "hand", "other"),
)
ROBOT = {
    "name": "toy",
    "views": {"main": ["front"], "hand": ["left", "wrist"], "other": []},
    "state": [{"name": "arm", "dim": 4}],
    "action_dim": 3,
}


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    root = write_set(tmp_path / "set")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(ROBOT))
    return DataConfig(path=(str(root),), robot=str(tmp_path / "toy.yaml"), memory_gb=0.5, run_length=4)


def make_source(config: DataConfig) -> FlowSource:
    robot, episodes = RobotMapping.load(config.robot), load_demos(config)
    stats = norm_stats(episodes, robot, HORIZON)
    norms = [Normalizer(stats[key], "quantile") for key in ("state", "actions")]
    processor = Processor(MODEL, robot, PromptTokenizer(TINY_TOKENIZER, 48), *norms)
    return FlowSource(make_samples(episodes, processor, config), processor, config, seed=3)


def test_samples_are_the_sets_rows(config: DataConfig) -> None:
    source = make_source(config)
    samples = source.samples
    assert len(samples) == sum(LENGTHS) and [samples.prompts[row] for row in (0, 11)] == list(TASKS)
    assert samples.present.tolist() == [True, True, False]
    episodes = np.repeat(np.arange(3), LENGTHS)
    for step in range(4):
        index = source.rows(step, 10)
        pictures = samples.images[index]
        assert pictures.shape == (10, 3, 3, SIZE, SIZE) and not pictures[:, 2].any()
        for row, views in zip(index.tolist(), pictures, strict=True):
            first = sum(LENGTHS[: episodes[row]])
            # Square views fill the model's picture; the front camera lies between black borders.
            assert seen_in(views[1].movedim(0, -1).numpy()) == (episodes[row], 1, row - first)
            assert seen_in(views[0, :, 7:-7].movedim(0, -1).numpy()[:40]) == (episodes[row], 0, row - first)
    order = torch.cat([source.rows(step, 10) for step in range(4)]).tolist()
    assert len(set(order)) == 40 and order != sorted(order)
    source.samples.images.loader.close()


def test_a_batch_is_the_same_in_every_share(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(config)
    whole = source.batch(Share(5, 0, 8, 8))
    assert whole.inputs.image_masks.tolist() == [[True, True, False]] * 8
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    other = make_source(config)
    half = other.batch(Share(5, 4, 8, 8))
    assert torch.equal(half.inputs.images, whole.inputs.images[4:]) and torch.equal(half.actions, whole.actions[4:])
    # The second process decodes its own half of the epoch alone.
    own = torch.cat([other.rows(step, 8)[4:] for step in range(5, 10)])
    assert set(other.samples.images.loader._wanted) <= set(own.tolist())
    for each in (source, other):
        each.samples.images.loader.close()


def test_chunks_end_with_their_episode(config: DataConfig) -> None:
    demo = load_demos(config)[1]
    actions, mask = chunks(demo, np.array([0, LENGTHS[1] - 1]), HORIZON)
    np.testing.assert_array_equal(actions[0], rows_of(1, LENGTHS[1])["action"][:3])
    assert actions[1, :, 0].tolist() == [122.0] * 3 and mask[1].tolist() == [True, False, False]


def test_the_sets_own_norm_stats_are_taken(config: DataConfig) -> None:
    stats = {key: NormStats([1.0] * n, [2.0] * n, [0.0] * n, [3.0] * n) for key, n in (("state", 4), ("actions", 3))}
    save_norm_stats(config.path[0], stats)
    found = norm_stats(load_demos(config), RobotMapping.load(config.robot), HORIZON, config)
    assert found["actions"].q99.tolist() == [3.0] * 3


def test_rows_that_show_an_old_picture_are_no_samples(config: DataConfig, tmp_path: Path) -> None:
    """A set made of demonstrations with pictures at every second step."""
    source, root = LeRobotSource(config.path[0]), tmp_path / "every_second"
    features = {**source.features, NEW_PICTURE: vector(NEW_PICTURE, 1)}
    with LeRobotWriter(root, "v3.0", 20, features) as writer:
        for number, length in enumerate(LENGTHS):
            read = source.read(number)
            is_new = (np.arange(length)[:, None] % 2 == 0).astype(np.float32)
            writer.add({**read.columns, NEW_PICTURE: is_new}, read.pictures, read.tasks)
        writer.finish()
    episodes = load_demos(dataclasses.replace(config, path=(str(root),)))
    assert [episode.frames.tolist() for episode in episodes] == [list(range(0, length, 2)) for length in LENGTHS]
    assert [len(episode) for episode in episodes] == list(LENGTHS), "actions stay, of every step"


def test_training_streams_a_lerobot_set(config: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "foveate")
    loop = LoopConfig(steps=2, batch_size=4, device="cpu", threads=1, log_every=1)
    optim = OptimConfig(warmup_steps=1)
    run = TrainPolicyConfig(out=str(tmp_path / "run"), model=MODEL, data=config, optim=optim, loop=loop)
    folder = train_policy(run)
    assert (folder / "model.safetensors").exists() and (folder / "robot.yaml").exists()
    assert "training waited for it in" in caplog.text


def test_what_does_not_fit_is_named(config: DataConfig, tmp_path: Path) -> None:
    def refused(message: str, **robot) -> None:
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**ROBOT, **robot}))
        with pytest.raises(FoveateError, match=message):
            load_demos(config)

    refused(r"no camera 'top' .*its cameras are observation\.images\.front", views={"main": ["top"]})
    refused("expects 7 numbers as actions, and action has 3", action_dim=7)
    next(Path(config.path[0], "videos").rglob("*.mp4")).unlink()
    refused("no such video; copy the data set again")  # before a model is made, not when its turn comes
    with pytest.raises(FoveateError, match="memory_gb is above 0"):
        DataConfig(memory_gb=0)
