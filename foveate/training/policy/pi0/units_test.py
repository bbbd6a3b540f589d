"""Training in parts: two processes over gloo against one, checkpoints that neither of them depends on, real sizes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveate.cli.main import main
from foveate.models.common.layers import AdaRMSNorm
from foveate.models.pi0.model import Pi0
from foveate.training.policy import train
from foveate.training.policy.data_test import MODEL
from foveate.training.policy.pi0.units import units
from foveate.util.world import join_world

WORDS = (
    "--model.vision.image_size 56 --loop.device cpu --loop.threads 1 --loop.accumulate 2 --batch_size 4 "
    "--num_train_steps 6 --save_interval 3 --keep_period 3 --log_interval 1 --checkpoint_base_dir ."
)
RUN = ["train", "policy", "debug_pi05", *WORDS.split(), "--exp_name"]


def test_every_weight_is_in_one_unit_and_modulations_are_gathered_at_once() -> None:
    model = Pi0(MODEL)
    modulations, *layers = units(model)
    assert set(modulations) == {norm.dense for norm in model.modules() if isinstance(norm, AdaRMSNorm)}
    assert all(len(unit) == 1 for unit in layers)
    assert len(layers) == MODEL.vision.num_hidden_layers + MODEL.llm.depth + MODEL.expert.depth + 1


def losses(run: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines]


def assert_same(one: Path, two: Path) -> None:
    """Two runs learned the same, up to rounding: losses, gradient norms, weights, average, moments and the policy."""
    assert len(losses(one)) == 6
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for file in ("train_state/model.safetensors", "train_state/ema.safetensors", "model.safetensors"):
        ours, theirs = (load_file(run / "6" / file) for run in (one, two))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=2e-4, msg=f"{file}: {name}")
    states = [torch.load(run / "6" / "train_state" / "state.pt", weights_only=True) for run in (one, two)]
    first, second = (state["optimizer"]["state"] for state in states)
    assert first.keys() == second.keys()
    for number, state in first.items():
        assert state["exp_avg"].shape == second[number]["exp_avg"].shape
        torch.testing.assert_close(state["exp_avg"], second[number]["exp_avg"], rtol=1e-2, atol=1e-4)


def in_two_processes(folder: Path, *names: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_parts_learn_what_a_whole_learns_and_either_goes_on_from_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "debug_pi05"
    assert main([*RUN, "one"]) == 0
    go_on(runs / "one", runs / "parts_from_one")
    in_two_processes(tmp_path, "whole", "parts", "parts_again", "parts_from_one", "parts_lora")
    for name in ("whole", "parts", "parts_from_one"):
        assert_same(runs / "one", runs / name)
    assert losses(runs / "parts_again") == losses(runs / "parts")
    go_on(runs / "parts", runs / "one_from_parts")
    assert main([*RUN, "one_from_parts"]) == 0
    assert_same(runs / "one", runs / "one_from_parts")
    assert main([*RUN, "one_lora", "--lora.rank", "4"]) == 0
    assert_same(runs / "one_lora", runs / "parts_lora")


def go_on(run: Path, copy: Path) -> None:
    """A copy of a run that ends at its third step."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "6")


if __name__ == "__main__":
    with join_world("cpu") as world:
        train.join_world = lambda _: nullcontext(world)  # one process group for all runs
        for name in sys.argv[1:]:
            if name == "parts_again" and world.is_main:
                go_on(Path("debug_pi05", "parts"), Path("debug_pi05", name))
            world.barrier()
            extra = ["--fsdp", "true"] * name.startswith("parts") + ["--lora.rank", "4"] * name.endswith("lora")
            if main([*RUN, name, *extra]):
                sys.exit(1)
