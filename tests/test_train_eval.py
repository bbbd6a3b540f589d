"""A policy that is trained is played at its checkpoints, and the log says how it did."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_env import on_the_path

from foveate.errors import FoveateError
from foveate.studies.train_and_evaluate import train_and_evaluate
from foveate.training.config import DataConfig, EvalConfig, LoopConfig
from foveate.training.policy.train import TrainPolicyConfig
from foveate.training.policy.untrained import TINY

LOOP = LoopConfig(steps=3, batch_size=2, log_every=1, save_every=1, device="cpu")


def config_of(folder: Path, **loop: object) -> TrainPolicyConfig:
    model = dataclasses.replace(TINY, max_token_len=48)
    data = DataConfig(path=("fake",), robot="metaworld")
    play = EvalConfig(every=2, env="fake_env:LineEnv", task_suite_name="go", num_trials_per_task=2, num_workers=1)
    loop_config = dataclasses.replace(LOOP, **loop)  # type: ignore[arg-type]
    return TrainPolicyConfig(out=str(folder / "run"), model=model, data=data, loop=loop_config, eval=play)


def test_checkpoints_are_played_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_path(monkeypatch)
    logged: list[tuple[int, dict[str, float]]] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda exit_code: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    train_and_evaluate(config_of(tmp_path, wandb=True))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    played = [line for line in lines if "eval/success" in line]
    assert [(line["step"], line["eval/success"], line["eval/episodes"]) for line in played] == [(2, 1.0, 2)]
    assert [step for step, _ in logged] == [1, 2, 2, 3] and logged[2][1]["eval/success"] == 1
    assert len((tmp_path / "run" / "eval" / "2" / "episodes.jsonl").read_text().splitlines()) == 2
    plain = train_and_evaluate(dataclasses.replace(config_of(tmp_path / "plain"), eval=EvalConfig()))
    losses = [line["loss"] for line in lines if "loss" in line]
    others = [json.loads(line)["loss"] for line in (plain.parent / "metrics.jsonl").read_text().splitlines()]
    assert losses == others, "an evaluation changes nothing of the training"


def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FoveateError, match=r"eval\.every 2 is no multiple of loop\.save_every 3"):
        config_of(tmp_path, save_every=3)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FoveateError, match=r"pip install foveate\[wandb\]"):
        train_and_evaluate(config_of(tmp_path, wandb=True))
