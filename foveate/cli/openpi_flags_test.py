"""The commands of openpi's users, word for word, and the presets that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.cli.openpi_flags import translate
from foveate.cli.train import policy_config
from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.openpi_configs import DUMMY, openpi_config
from foveate.pruning import LightVLA
from foveate.training.policy.train import TrainPolicyConfig
from foveate.training.preset import PRESETS

OPENPI = ("pi05_aloha", "pi05_droid", "pi05_libero", "pi0_aloha_sim", "pi0_droid", "pi0_libero")
FORK = ("pi05_libero_pytorch", "pi05_libero_pytorch_lightvla", "pi05_pick_place_pytorch")
NAMES = (*OPENPI, *FORK, "pi05_pick_place_pytorch_pruning", "debug", "debug_pi05")


def config(*words: str) -> TrainPolicyConfig:
    return policy_config(list(words), "foveate train policy", TrainPolicyConfig)


def test_the_commands_of_the_fork() -> None:
    words = "--exp_name pi05_pruning_train --model.token_pruning_enabled True --model.token_prune_noise_scale 0.5"
    said = config("debug_pi05", *words.split())
    assert said.out == "checkpoints/debug_pi05/pi05_pruning_train"
    assert (said.pruner_noise.start, said.pruner_noise.end) == (0.5, 0.0)
    assert said.pruner == LightVLA(train_form="paper", budget_in_training=False)
    said = config("debug_pi05", "--model.token_pruning_enabled", "--model.token_prune_keep_tokens", "24")
    assert isinstance(said.pruner, LightVLA) and said.pruner.keep_tokens == 24
    said = config("debug_pi05", "--model.token-pruning-enabled=True", "--model.token_prune_keep_ratio", "0.1")
    assert isinstance(said.pruner, LightVLA) and said.pruner.keep_ratio == 0.1
    assert config("pi05_libero_pytorch_lightvla", "--model.token_pruning_enabled", "False").pruner is None
    said = config("pi05_libero_pytorch", "--exp_name", "libero_baseline_run1", "--batch_size", "48")
    assert (said.loop.batch_size, said.pruner, said.config_name) == (48, None, "pi05_libero_pytorch")
    assert config("pi05_libero_pytorch_lightvla").pruner_noise.start == 1
    form = config("debug", "--pruner.train_form", "deduplicated", "--model.token_pruning_enabled", "True").pruner
    assert isinstance(form, LightVLA) and form.train_form == "deduplicated"


def test_openpis_flags_are_other_names() -> None:
    words = (
        "--num_train_steps 7 --save_interval 3 --log_interval 2 --keep_period 5 --num_workers 4 --repo_id a/b "
        "--data.assets.assets_dir assets --data.assets.asset_id b --lr_schedule.peak_lr 1e-4 "
        "--lr_schedule.decay_lr 1e-5 --lr_schedule.warmup_steps 9 --lr_schedule.decay_steps 90 --ema_decay 0.5 "
        "--pytorch_training_precision float32 --optimizer.clip_gradient_norm 2 --overwrite --resume --seed 42 "
        "--pytorch_weight_path base"
    )
    said = config("pi05_libero", *words.split())
    assert (said.loop.steps, said.loop.save_every, said.loop.log_every, said.loop.keep_period) == (7, 3, 2, 5)
    assert (said.data.decode_workers, said.data.path, said.data.assets_dir, said.data.asset_id) == (
        4,
        ("a/b",),
        "assets",
        "b",
    )
    assert (said.optim.lr, said.optim.final_lr, said.optim.warmup_steps, said.optim.decay_steps) == (1e-4, 1e-5, 9, 90)
    assert (said.optim.ema_decay, said.optim.clip_norm, said.loop.precision) == (0.5, 2, "float32")
    assert (said.overwrite, said.seed, said.pytorch_weight_path) == (True, 42, "base")
    assert translate(["a", "--resume", "true", "--seed", "1", "--resume"]) == ["a", "--seed", "1"]


def test_pi05_libero_has_the_published_numbers() -> None:
    said = config("pi05_libero")
    assert (said.model.pi05, said.model.action_horizon, said.loop.steps, said.loop.batch_size) == (
        True,
        10,
        30_000,
        256,
    )
    assert said.optim.ema_decay == 0.999 and said.optim.warmup_steps == 10_000 and said.optim.decay_steps == 1_000_000
    assert said.optim.lr == said.optim.final_lr == 5e-5
    for name in FORK[:2]:
        fork = config(name)
        assert (fork.model, fork.optim, fork.loop.batch_size) == (said.model, said.optim, 64)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_whole_configuration(name: str) -> None:
    said = config(name)
    assert said.config_name == name and said.model.action_dim == 32
    assert (said.pruner is not None) == name.endswith(("lightvla", "pruning"))
    openpi = openpi_config(name)
    if openpi.toy:
        assert (said.model.llm, said.model.expert, said.data.path) == (DUMMY, DUMMY, ("fake",))
        return
    assert said.model == openpi.model
    theirs, ours = openpi.robot(), RobotMapping.load(said.data.robot, "pi05" if said.model.pi05 else "pi0")
    assert theirs is not None
    for field in ("delta_mask", "joint_signs", "gripper", "state_in_prompt", "default_prompt"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert openpi.asset_id in (*ours.asset_ids, said.data.asset_id)


def test_typos_are_told() -> None:
    with pytest.raises(FoveateError, match=r"unknown training configuration 'pi05_libro'; did you mean 'pi05_libero'"):
        config("pi05_libro")
    with pytest.raises(FoveateError, match=r"--model.token_prune_keep_tokns'; did you mean"):
        config("debug_pi05", "--model.token_prune_keep_tokns", "24")
    with pytest.raises(FoveateError, match="no pruner is chosen"):
        config("debug_pi05", "--model.token_prune_keep_tokens", "24")
    with pytest.raises(FoveateError, match="both name the run's folder"):
        config("debug_pi05", "--exp_name", "a", "--out", "b")


def test_a_file_is_a_preset_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((PRESETS / "debug.yaml").read_text())
    assert config(str(tmp_path / "mine.yaml"), "--exp_name", "run").out == "checkpoints/mine/run"
