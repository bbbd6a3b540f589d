"""The experiment files in `configs/`: each is read on top of the base, and sets what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from foveate.cli.config import parse
from foveate.evaluation.vqa.config import VqaConfig
from foveate.testing.golden import REPO

CONFIGS = REPO / "configs"
BASE = ("--config", str(CONFIGS / "base.yaml"))
TRAIN = ("--config", str(CONFIGS / "train_mmbench_llava_textvqa.yaml"))
OVERLAYS = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem not in ("base", "train_mmbench_llava_textvqa"))


def read(*words: str) -> VqaConfig:
    return parse(VqaConfig, words, "foveate eval vqa")


def test_the_users_command_line_is_understood() -> None:
    config = read(
        *BASE, *TRAIN, "--dataset_config", "mmbench,mmmu,textvqa", "--output_dir", "outputs/pareto_vovnet",
        "--pareto", "0", "0.01", "0.02", "0.05", "0.1", "--thresholds", "0.1", "0.2", "--uncertainty", "entropy",
        "--vision", "full", "--ratios", "1.0", "0.5", "--mode", "stride", "--max_samples", "200",
    )  # fmt: skip
    assert config.pareto == (0, 0.01, 0.02, 0.05, 0.1) and config.ratios == (1.0, 0.5) and config.max_samples == 200
    assert config.policy.baseline_name is None and config.policy.vow_hidden_dim == 256
    assert config.data.train_jsonl == "data/vqa_train/train.jsonl" and config.training.stage1_epochs == 1
    assert config.vision_budget is not None and config.vision_budget.full_long_side == 896


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_each_overlay_wins_over_the_base(path: Path) -> None:
    config = read(*BASE, *TRAIN, "--config", str(path))
    for section, values in yaml.safe_load(path.read_text()).items():
        if values is None:
            assert getattr(config, section) is None
            continue
        for key, value in values.items():
            got = getattr(getattr(config, section), key)
            assert (list(got) if isinstance(got, tuple) else got) == value
