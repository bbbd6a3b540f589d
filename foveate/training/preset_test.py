"""A preset from end to end, as openpi's users go: norm stats, training, a policy folder per checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foveate.cli.main import main
from foveate.models.common.normalize import load_norm_stats
from foveate.policy import load_policy
from foveate.testing.lerobot import write_set
from foveate.training.config import LoopConfig
from foveate.training.policy.train import TrainPolicyConfig, train_policy
from foveate.types import Observation

ROBOT = {
    "name": "toy",
    "views": {"base_0_rgb": ["front"], "left_wrist_0_rgb": ["wrist"], "right_wrist_0_rgb": []},
    "state": [{"name": "arm", "dim": 4}],
    "action_dim": 3,
    "delta_mask": [2, -1],
}
FLAGS = "--model.vision.image_size 56 --data.robot toy.yaml --loop.device cpu --num_workers 1"
PRUNED = "--model.token_pruning_enabled True --model.token_prune_noise_scale 0.5 --model.token_prune_keep_tokens 4"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: a data set, its robot, statistics, and a finished run of debug_pi05."""
    folder = tmp_path_factory.mktemp("work")
    write_set(folder / "datasets" / "mine", kind="image")
    (folder / "toy.yaml").write_text(yaml.safe_dump(ROBOT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "norm-stats --config-name debug_pi05 --repo_id datasets/mine --robot toy.yaml --assets_dir assets"
        assert main([*words.split(), "--asset_id", "mine"]) == 0
        words = f"train policy debug_pi05 --exp_name run1 --repo_id datasets/mine --assets_dir assets {FLAGS}"
        steps = "--asset_id mine --num_train_steps 4 --save_interval 2"
        assert main([*words.split(), *PRUNED.split(), *steps.split()]) == 0
    return folder


def test_each_checkpoint_is_a_policy(place: Path) -> None:
    run = place / "checkpoints" / "debug_pi05" / "run1"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["noise_scale"] for m in metrics] == pytest.approx([0.5, 0.5 * 2 / 3, 0.5 / 3, 0])
    assert all(m["kept/base_0_rgb"] <= 16 for m in metrics)
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) == ["2", "4", "tensorboard"]
    for step in ("2", "4"):
        policy = load_policy(run / step)
        rng = np.random.default_rng(0)
        images = {v: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for v in ("front", "wrist")}
        chunk = policy.infer(Observation(images, np.zeros(4, np.float32), "pick up the red cube"))
        assert chunk.actions.shape == (50, 3) and np.isfinite(chunk.actions).all()
        kept = policy.get_token_pruning_stats()["last_kept_per_view"]
        assert kept["base_0_rgb"] == kept["left_wrist_0_rgb"] == [4]
    assert main(["inspect", str(run / "4")]) == 0


def test_statistics_are_those_of_the_assets(place: Path) -> None:
    ours = load_norm_stats(place / "checkpoints" / "debug_pi05" / "run1" / "4" / "assets" / "mine")
    theirs = load_norm_stats(place / "assets" / "mine")
    for key in ("state", "actions"):
        np.testing.assert_array_equal(ours[key].q99, theirs[key].q99)
    assert not (place / "datasets" / "mine" / "norm_stats.json").exists()


def test_missing_statistics_are_told(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(place)
    words = f"train policy debug_pi05 --exp_name none --repo_id datasets/mine --assets_dir nowhere {FLAGS}"
    assert main(words.split()) == 1
    assert (
        "nowhere/mine/norm_stats.json: no norm stats; write them with `foveate norm-stats`" in capsys.readouterr().err
    )


def test_weights_of_a_base_are_all_taken(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(place)
    base = "checkpoints/debug_pi05/run1/4"
    words = f"train policy debug_pi05 --exp_name next --num_train_steps 1 --repo_id fake {FLAGS}"
    start = [*words.split(), "--pytorch_weight_path"]
    assert main([*start, base, "--optim.lr", "0", "--optim.final_lr", "0"]) == 0
    one, other = (
        load_policy(f"checkpoints/debug_pi05/{run}").engine.model.state_dict() for run in ("run1/4", "next/1")
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name].float(), value.float(), rtol=1e-3, atol=1e-6)
    assert main([*start, base, "--model.llm.depth", "3", "--model.expert.depth", "3"]) == 1
    assert "unexpected" in capsys.readouterr().err
    assert main([*start, "nowhere"]) == 1
    assert "foveate convert jax-to-torch" in capsys.readouterr().err


def test_a_run_goes_on_or_begins_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    model = load_policy("checkpoints/debug_pi05/run1/4").engine.model.config

    def run(steps: int, overwrite: bool = False) -> list[float]:
        config = TrainPolicyConfig(
            exp_name="again",
            checkpoint_base_dir=str(tmp_path),
            overwrite=overwrite,
            model=model,
            data=dataclasses.replace(TrainPolicyConfig().data, path=("fake",), robot="libero"),
            loop=LoopConfig(steps=steps, batch_size=2, log_every=1, save_every=1, device="cpu"),
        )
        assert train_policy(config) == tmp_path / "again" / str(steps)
        return [json.loads(line)["loss"] for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]

    whole = run(2)
    shutil.rmtree(tmp_path / "again" / "2")
    assert run(2) == whole
    assert run(2, overwrite=True) == whole


def test_a_vocabulary_without_its_tokenizer_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "policy", "pi05_libero", "--exp_name", "x", "--repo_id", "fake"]) == 1
    assert "no tokenizer for a vocabulary of 257,152" in capsys.readouterr().err
