"""`foveate train policy` from demonstrations to a policy folder, on a model of a few thousand weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from foveate.cli.main import main
from foveate.data.demos import write_episode, write_meta
from foveate.engine.plan import read_plans
from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config, VisionConfig
from foveate.models.pi0.detect import detect
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import load_weights
from foveate.policy import TraceOptions, load_policy
from foveate.pruning import make_pruner
from foveate.training.config import DataConfig, LoopConfig, NoiseConfig, OptimConfig, RtcConfig
from foveate.training.loop import Share
from foveate.training.policy.data_test import MODEL, episode, source
from foveate.training.policy.pi0.losses import FlowMatching, sample_given
from foveate.training.policy.recipe import begin
from foveate.training.policy.train import TrainPolicyConfig, train_policy
from foveate.types import LeftOver, Observation

LOOP = LoopConfig(steps=4, batch_size=4, log_every=1, save_every=2, device="cpu")
OPTIM = OptimConfig(lr=1e-3, final_lr=1e-4, warmup_steps=1)
DATA = DataConfig(flow_samples=2, shift_px=1, brightness=0.1)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("demos")
    prompts = ["push the puck to the goal", "reach the red marker with the hand"]
    for i in range(4):
        write_episode(root, i, episode(i, task=prompts[i % 2]), i % 2, fps=80.0)
    write_meta(root, prompts, 80.0, 2, {})
    return str(root)


@pytest.fixture(scope="module")
def base(demos: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = dataclasses.replace(DATA, path=(demos,))
    out = str(tmp_path_factory.mktemp("base"))
    return train_policy(TrainPolicyConfig(out=out, model=MODEL, data=data, optim=OPTIM, loop=LOOP))


def _metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_exported_policy_acts(base: Path) -> None:
    policy = load_policy(base)
    rng = np.random.default_rng(0)
    images = {v: rng.integers(0, 256, (56, 56, 3), dtype=np.uint8) for v in MODEL.views}
    chunk = policy.infer(Observation(images, np.zeros(4, np.float32), "push the puck to the goal"))
    assert chunk.actions.shape == (MODEL.action_horizon, 4)
    assert np.isfinite(chunk.actions).all()
    assert detect(base).missing == ()


def test_the_exported_weights_are_the_averaged_ones(base: Path) -> None:
    average = load_file(base.parent / "4" / "train_state" / "ema.safetensors")
    exported = dict(load_weights(base / "model.safetensors", MODEL).named_parameters())
    assert {f"model.{name}" for name in exported} == set(average)
    for name, value in exported.items():
        torch.testing.assert_close(value.detach(), average[f"model.{name}"], rtol=1e-3, atol=1e-6)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(base: Path, demos: str, tmp_path: Path) -> None:
    config = TrainPolicyConfig(
        out=str(tmp_path), model=MODEL, data=dataclasses.replace(DATA, path=(demos,)), optim=OPTIM, loop=LOOP
    )
    shutil.copytree(base.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "4")
    shutil.rmtree(tmp_path / "policy")
    train_policy(config)
    for key in ("step", "loss", "grad_norm", "lr"):
        assert [m[key] for m in _metrics(tmp_path)] == [m[key] for m in _metrics(base.parent)], key
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_random_levels_of_looking_go_on_as_if_nothing_had_happened(base: Path, demos: str, tmp_path: Path) -> None:
    def train(out: str, steps: int) -> list[float]:
        words = f"--init_from {base} --data.path {demos} --out {tmp_path / out} --looking.coarse 0.4 --looking.no 0.4"
        short = f"--loop.steps {steps} --loop.batch_size 4 --loop.log_every 1 --loop.save_every 1 --loop.device cpu"
        assert main(["train", "policy", *words.split(), *short.split()]) == 0
        return [m["loss"] for m in _metrics(tmp_path / out)]

    whole = train("whole", 3)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "3")
    assert train("cut", 3) == whole
    assert yaml.safe_load((tmp_path / "cut" / "policy" / "train_config.yaml").read_text())["looking"]["coarse"] == 0.4


def test_fine_tuning_with_a_pruner_from_the_command_line(base: Path, demos: str, tmp_path: Path) -> None:
    before = Path(shutil.copytree(base, tmp_path / "before"))
    other = before / "assets" / "another_robot" / "norm_stats.json"  # the first by name is not the robot's
    other.parent.mkdir()
    other.write_text(
        (before / "assets" / "metaworld" / "norm_stats.json").read_text().replace("mean", "mean_of_others")
    )
    words = f"--init_from {before} --data.path {demos} --out {tmp_path} --pruner lightvla --pruner.train_form paper"
    short = "--loop.steps 3 --loop.batch_size 4 --loop.log_every 1 --loop.device cpu --pruner-noise.start 0.5"
    assert main(["train", "policy", *words.split(), *short.split()]) == 0
    metrics = _metrics(tmp_path)
    assert [m["noise_scale"] for m in metrics] == [0.5, 0.25, 0.0]
    assert all(1 <= m["kept/corner"] <= 4 and m["kept"] == m["kept/corner"] + m["kept/gripperPOV"] for m in metrics)
    assert json.loads((tmp_path / "policy" / "config.json").read_text())["pruner"]["name"] == "lightvla"
    kept = (tmp_path / "policy" / "assets" / "metaworld" / "norm_stats.json").read_text()
    assert kept == (base / "assets" / "metaworld" / "norm_stats.json").read_text()  # the base policy's, not new ones
    assert "model" not in yaml.safe_load((tmp_path / "policy" / "train_config.yaml").read_text())  # the base's sizes
    for name in ("config.yaml", "tensorboard"):
        assert (tmp_path / name).exists()
    plans = read_plans(tmp_path / "policy")
    assert list(plans) == ["lightvla"] and 2 < plans["lightvla"][0] <= plans["lightvla"][-1] <= 8 + MODEL.max_token_len


def test_a_pruner_with_weights_of_its_own_is_trained_kept_and_loaded(base: Path, demos: str, tmp_path: Path) -> None:
    words = f"--init_from {base} --data.path {demos} --pruner grids --pruner.keep_tokens 2 --loop.batch_size 4"
    short = "--loop.log_every 1 --loop.device cpu --loop.save_every 2 --optim.lr 0.001 --optim.warmup_steps 1"
    verb = ["train", "policy", *words.split(), *short.split(), "--loop.steps", "4", "--out"]
    assert main([*verb, str(tmp_path / "whole")]) == 0
    assert all(m["kept"] == 4 for m in _metrics(tmp_path / "whole"))
    folder = tmp_path / "whole" / "policy"
    assert json.loads((folder / "config.json").read_text())["pruner"]["name"] == "grids"
    assert read_plans(folder) == {}, "a budget tells the lengths"
    trained, earlier = (load_file(path / "pruner.safetensors") for path in (folder, tmp_path / "whole" / "2"))
    assert all(not torch.equal(trained[name], earlier[name]) for name in trained)
    policy = load_policy(folder)
    images = {view: np.full((56, 56, 3), 80, np.uint8) for view in MODEL.views}
    chunk = policy.infer(Observation(images, np.zeros(4, np.float32), "push"), evidence=TraceOptions(routing=True))
    assert chunk.trace is not None and chunk.trace.keep is not None
    keep = chunk.trace.keep
    assert keep["keep_mask"].sum() == 4 and (keep["coordinates"][keep["keep_mask"]] > 0).all()

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "4")
    shutil.rmtree(tmp_path / "resumed" / "policy")
    assert main([*verb, str(tmp_path / "resumed")]) == 0
    resumed = tmp_path / "resumed" / "policy" / "pruner.safetensors"
    assert resumed.read_bytes() == (folder / "pruner.safetensors").read_bytes()
    (folder / "pruner.safetensors").unlink()
    with pytest.raises(FoveateError, match=r"pruner.safetensors: no such file; its weights come from a training"):
        load_policy(folder)


def test_a_model_of_another_robot_begins_with_the_weights_that_fit(base: Path) -> None:
    wider = dataclasses.replace(MODEL, action_dim=MODEL.action_dim + 3)
    theirs = dict(load_weights(base / "model.safetensors", MODEL).named_parameters())
    ours = dict(begin(TrainPolicyConfig(model=wider, weights_from=str(base))).objective.model.named_parameters())
    fresh = dict(begin(TrainPolicyConfig(model=wider)).objective.model.named_parameters())
    new = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert new == {"action_in_proj.weight", "action_out_proj.weight", "action_out_proj.bias"}
    for name, value in ours.items():
        torch.testing.assert_close(value, (fresh if name in new else theirs)[name].float())
    gemma = dataclasses.replace(MODEL.llm, width=48, mlp_dim=56, head_dim=24)
    vision = VisionConfig(24, 1, 2, 56, 28, 56, 48)
    stranger = dataclasses.replace(MODEL, action_dim=9, vocab_size=1025, llm=gemma, expert=gemma, vision=vision)
    with pytest.raises(FoveateError, match="no weight has the name and shape"):
        begin(TrainPolicyConfig(model=stranger, weights_from=str(base)))
    with pytest.raises(FoveateError, match="no such checkpoint folder"):
        begin(TrainPolicyConfig(model=MODEL, weights_from="/nowhere/at/all"))


def test_a_policy_trained_for_delays_goes_on_from_given_actions(base: Path, demos: str, tmp_path: Path) -> None:
    words = "--loop.steps 2 --loop.batch_size 4 --loop.device cpu --loop.log_every 1 --optim.warmup_steps 1"
    tune = ["train", "policy", "--init_from", str(base), "--data.path", demos, *words.split()]
    assert main([*tune, "--rtc.max_delay", "2", "--out", str(tmp_path / "rtc")]) == 0
    policy = load_policy(tmp_path / "rtc" / "policy")
    assert policy.real_time_chunking == ("hard_prefix",) and policy.spec.max_delay == 2
    frames = [Observation({v: np.zeros((28, 28, 3), np.uint8) for v in MODEL.views}, np.zeros(4, np.float32), "go")] * 2
    noise = np.zeros((2, *policy.spec.noise_shape), np.float32)
    left = LeftOver(np.full((4, 4), 0.25, np.float32), inference_delay=3)  # of which it was trained for two
    held, free = policy.infer_batch(frames, noise, left_over=[left, None])
    np.testing.assert_allclose(held.actions[:2], left.actions[:2], atol=1e-5)
    assert np.abs(held.actions[2:] - left.actions[2:]).max() > 1e-3
    np.testing.assert_allclose(policy.infer(frames[1], noise[1]).actions, free.actions, atol=1e-6)
    # Fine-tuned further it stays what it is, where nothing else is said.
    further = dataclasses.replace(DATA, path=(demos,))
    again = begin(TrainPolicyConfig(init_from=str(tmp_path / "rtc" / "policy"), data=further, loop=LOOP))
    assert again.objective.model.config.max_delay == 2
    with pytest.raises(FoveateError, match=r"rtc\.max_delay: expected a whole number of 0 to 3, got 9"):
        begin(TrainPolicyConfig(init_from=str(base), data=further, loop=LOOP, rtc=RtcConfig(9)))


def test_the_share_of_given_actions() -> None:
    """0 to 3 of 4 with equal chance: 3/4 of the first are given, 2/4, 1/4, none of the last; always the first ones."""
    given = sample_given((4000, 2), 4, 3, torch.Generator().manual_seed(0))
    assert given.shape == (4000, 2, 4) and not (given[..., 1:] & ~given[..., :-1]).any()
    np.testing.assert_allclose(given.double().mean((0, 1)), [0.75, 0.5, 0.25, 0], atol=0.02)


def test_the_loss_falls_on_one_repeated_batch() -> None:
    torch.manual_seed(0)
    objective = FlowMatching(Pi0(MODEL), NoiseConfig())
    batch = source(DataConfig(flow_samples=2)).batch(Share(0, 0, 6, 6))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_deduplicated_form_trains_on_what_evaluation_computes() -> None:
    torch.manual_seed(0)
    model = Pi0(MODEL)
    objective = FlowMatching(model, NoiseConfig(0.0, 0.0), make_pruner("lightvla"))
    batch = source().batch(Share(0, 0, 4, 4))
    objective.begin_step(0, 1)
    with torch.no_grad():
        training, evaluation = objective.train()(batch), objective.eval()(batch)
    torch.testing.assert_close(training, evaluation, rtol=1e-5, atol=1e-6)


def test_a_collapse_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    objective = FlowMatching(Pi0(MODEL), NoiseConfig(), make_pruner("lightvla"))
    kept = iter([*[[4, 4]] * 3, *[[1, 2]] * 8])
    stats = lambda: {"last_kept_per_view": dict.fromkeys(MODEL.views, next(kept))}  # noqa: E731
    monkeypatch.setattr(objective, "get_token_pruning_stats", stats)
    monkeypatch.setattr(objective.model, "spec", dataclasses.replace(MODEL.spec, grids=((16, 16), (16, 16))))
    for _ in range(11):
        objective.metrics()
    (told,) = [record.getMessage() for record in caplog.records]
    assert "collapse" in told and "3 of 512" in told


def test_the_mask_takes_elements_out_of_the_loss() -> None:
    torch.manual_seed(0)
    objective = FlowMatching(Pi0(MODEL), NoiseConfig())
    batch = source().batch(Share(0, 0, 4, 4))
    error = objective.model(batch.inputs, batch.actions, batch.noise, batch.time)
    assert float(objective(dataclasses.replace(batch, mask=torch.zeros_like(batch.mask)))) == 0
    only = torch.zeros_like(batch.mask)
    only[1, 0] = True
    expected = error[1, 0, 0].sum() / error.numel()
    torch.testing.assert_close(objective(dataclasses.replace(batch, mask=only)), expected)


def test_contradictions_are_told() -> None:
    with pytest.raises(FoveateError, match="exclude each other"):
        TrainPolicyConfig(init_from="x", model=MODEL)
    with pytest.raises(FoveateError, match="init_from and weights_from exclude each other"):
        TrainPolicyConfig(init_from="x", weights_from="x")
    with pytest.raises(FoveateError, match=r"data\.path is empty"):
        train_policy(TrainPolicyConfig(model=MODEL))
    with pytest.raises(FoveateError, match="no such checkpoint folder"):
        train_policy(TrainPolicyConfig(init_from="/nowhere/at/all", data=dataclasses.replace(DATA, path=("x",))))
    assert TrainPolicyConfig(init_from="x").model == Pi0Config()
