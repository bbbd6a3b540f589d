"""`run_libero_eval`'s command lines are taken by `foveate eval sim`, or refused flag by flag."""

from __future__ import annotations

import dataclasses
import re

import pytest

from foveate.cli.config import parse
from foveate.cli.eval.carry_over import ALIASES, FIXED, carry_over
from foveate.errors import FoveateError
from foveate.evaluation.sim.simulate import SimConfig

THEIRS = """
model_family pretrained_checkpoint use_l1_regression use_diffusion num_diffusion_steps_train use_film seed
num_diffusion_steps_inference num_images_in_input use_proprio center_crop num_open_loop_steps lora_rank unnorm_key
load_in_8bit load_in_4bit task_suite_name num_steps_wait num_trials_per_task initial_states_path env_img_res
run_id_note local_log_dir use_wandb wandb_entity wandb_project save_rollout_video trace_out_dir trace_dump_routing
trace_max_dumps_per_run trace_save_policy_images trace_dump_attn trace_attn_layers
"""
"""Fields of OpenVLA-OFT's GenerateConfig, and what LightVLA and its trace scripts add."""
LINE = """
--pretrained_checkpoint /path/to/ckpt --task_suite_name libero_spatial --center_crop true --num_trials_per_task 1
--num_open_loop_steps 8 --unnorm_key libero_spatial_no_noops --env_img_res 256 --trace_out_dir runs/my_trace_run
--trace_max_dumps_per_run 500 --trace_save_policy_images true --trace_dump_routing true --trace_dump_attn true
--trace_attn_layers 1,31
"""


def read(*words: str) -> SimConfig:
    return parse(SimConfig, carry_over(words), "foveate eval sim", aliases=ALIASES)


@pytest.mark.parametrize("dash", ["_", "-"])
def test_the_users_own_command_line(dash: str) -> None:
    config = read(*(w.replace("_", dash) if w.startswith("--") else w for w in LINE.split()))
    assert config.policy == "/path/to/ckpt" and config.env.name == "libero" and config.env.image_size == 256
    assert (config.num_trials_per_task, config.replan_steps) == (1, 8)
    assert config.asset_id == "libero_spatial_no_noops"
    assert (config.trace_out_dir, config.trace_max_dumps_per_run) == ("runs/my_trace_run", 500)
    assert config.trace_save_policy_images and config.trace_dump_routing and config.trace_dump_attn
    assert config.trace_attn_layers == (1, 31)


def test_every_flag_has_one_place() -> None:
    own = {field.name for field in dataclasses.fields(SimConfig)}
    for name in THEIRS.split():
        assert (name in own) + (name in ALIASES) + (name in FIXED) == 1, name


@pytest.mark.parametrize("name", [name for name, fixed in FIXED.items() if fixed.is_so])
def test_what_is_so_anyway_changes_nothing(name: str) -> None:
    value = FIXED[name].is_so
    assert value is not None
    for words in ([f"--{name}", value.title()], [f"--{name}={value}"], [f"--{name.replace('_', '-')}", value]):
        assert carry_over(["--policy", "p", *words, "--quick"]) == ["--policy", "p", "--quick"]


@pytest.mark.parametrize("name", FIXED)
def test_what_has_no_counterpart_is_refused_with_what_to_do(name: str) -> None:
    whose = "openpi" if name.startswith("args.") else "run_libero_eval"
    said = f"--{name} other: {whose}'s flag has no counterpart here; {FIXED[name].instead}"
    with pytest.raises(FoveateError, match=re.escape(said)):
        read("--policy", "p", f"--{name}", "other")


def test_a_flag_alone_means_true() -> None:
    assert carry_over(["--center_crop", "--quick"]) == ["--quick"]
    with pytest.raises(FoveateError, match=r"use_film true: .* FiLM is not built"):
        carry_over(["--use_film", "--quick"])


def test_an_empty_trace_folder_is_no_trace() -> None:
    assert read("--policy", "p", "--trace_out_dir", "").trace_out_dir is None
