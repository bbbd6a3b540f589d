"""What saves memory or rounds must not change what is learned: portions, recomputation, bfloat16 arithmetic."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.data.demos import write_episode, write_meta
from foveate.errors import FoveateError
from foveate.models.pi0.model import Pi0
from foveate.pruning import make_pruner
from foveate.training.config import DataConfig, LoopConfig, NoiseConfig, OptimConfig
from foveate.training.loop import Share, make_optimizer
from foveate.training.policy.data import load_demos
from foveate.training.policy.data_test import MODEL, episode, open_gates, source
from foveate.training.policy.pi0.losses import FlowMatching
from foveate.training.policy.train import TrainPolicyConfig, train_policy

DATA = DataConfig(flow_samples=2, shift_px=1, brightness=0.1)


def objective(pruner: str | None = None, *, recompute: bool = False, pi05: bool = True) -> FlowMatching:
    torch.manual_seed(0)
    model = Pi0(dataclasses.replace(MODEL, pi05=pi05, llm=dataclasses.replace(MODEL.llm, depth=3), expert=DEEP))
    return FlowMatching(open_gates(model), NoiseConfig(0, 0), make_pruner(pruner), recompute=recompute).train()


DEEP = dataclasses.replace(MODEL.expert, depth=3)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_portions_give_the_gradient_of_the_large_batch() -> None:
    whole, cut, batches = objective(), objective(), source(DATA)
    loss = whole(batches.batch(Share(3, 0, 6, 6)))
    loss.backward()
    total = torch.zeros(())
    for start, stop in ((0, 1), (1, 5), (5, 6)):  # one row is a portion too
        part = cut(batches.batch(Share(3, start, stop, 6))) * (stop - start) / 6
        part.backward()
        total += part.detach()
    torch.testing.assert_close(total, loss.detach(), rtol=1e-5, atol=1e-6)
    assert gradients(whole).keys() == gradients(cut).keys()
    for name, value in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("pi05", [True, False])
@pytest.mark.parametrize("pruner", [None, "lightvla"])
def test_recomputing_changes_memory_alone(pruner: str | None, pi05: bool) -> None:
    kept = {}
    for recompute in (False, True):
        module, saved = objective(pruner, recompute=recompute, pi05=pi05), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t):
            loss = module(source(DATA).batch(Share(3, 0, 4, 4)))
        loss.backward()
        kept[recompute] = (loss.detach(), gradients(module), sum(saved))
    torch.testing.assert_close(kept[True][0], kept[False][0], rtol=0, atol=0)
    assert kept[True][1].keys() == kept[False][1].keys()
    for name, value in kept[False][1].items():
        torch.testing.assert_close(kept[True][1][name], value, rtol=1e-6, atol=1e-8, msg=name)
    assert kept[True][2] < 0.6 * kept[False][2]


def test_a_camera_that_every_row_lacks_costs_nothing_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = source(DATA).batch(Share(3, 0, 4, 4))
    there = batch.inputs.image_masks.clone()
    there[:, 0] = False
    batch = dataclasses.replace(batch, inputs=dataclasses.replace(batch.inputs, image_masks=there))
    lengths, found = [], []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr("foveate.models.base.pack", lambda prefix: prefix)
        module = objective()
        prefill = module.model.prefill
        monkeypatch.setattr(module.model, "prefill", lambda p, r=prefill: lengths.append(p.mask.shape[1]) or r(p))
        loss = module(batch)
        loss.backward()
        found.append((loss.detach(), gradients(module)))
    patches = MODEL.vision.grid[0] * MODEL.vision.grid[1]
    assert lengths[1] - lengths[0] >= patches
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for name, value in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_small_steps_reach_float32_weights() -> None:
    """AdamW's formula in float64 beside the optimizer; weights in bfloat16 would not move at all."""
    lr, steps, weight = 1e-5, 40, torch.full((2, 3), 0.7)
    rng = np.random.default_rng(0)
    draws = rng.normal(1, 0.3, (steps, 2, 3))
    config = OptimConfig(lr=lr, weight_decay=0.0)
    module, rounded = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False).bfloat16()
    for linear in (module, rounded):
        linear.weight.data.copy_(weight)
        optimizer = make_optimizer(linear, config)
        for draw in draws:
            linear.weight.grad = torch.from_numpy(draw).to(linear.weight.dtype)
            optimizer.step()
    first, second, expected = np.zeros((2, 3)), np.zeros((2, 3)), weight.double().numpy()
    for t, draw in enumerate(draws, 1):
        first = config.betas[0] * first + (1 - config.betas[0]) * draw
        second = config.betas[1] * second + (1 - config.betas[1]) * draw**2
        mean, square = first / (1 - config.betas[0] ** t), second / (1 - config.betas[1] ** t)
        expected = expected - lr * mean / (np.sqrt(square) + config.eps)
    moved = weight.numpy() - module.weight.detach().numpy()
    np.testing.assert_allclose(moved, weight.numpy() - expected, rtol=1e-2)
    assert math.isclose(moved.mean(), lr * steps, rel_tol=0.2)
    assert torch.equal(rounded.weight.detach().float(), weight.bfloat16().float())


def test_with_bfloat16_arithmetic_all_that_is_kept_is_float32(tmp_path: Path) -> None:
    write_demos(tmp_path / "demos", float("inf"))
    config = TrainPolicyConfig(
        out=str(tmp_path / "run"),
        model=MODEL,
        data=DataConfig(path=(str(tmp_path / "demos"),)),
        loop=LoopConfig(steps=2, batch_size=2, device="cpu", precision="bfloat16"),
    )
    train_policy(config)
    state = tmp_path / "run" / "2" / "train_state"
    for file in ("model.safetensors", "ema.safetensors"):
        assert {value.dtype for value in load_file(state / file).values()} == {torch.float32}
    moments = torch.load(state / "state.pt", weights_only=True)["optimizer"]["state"].values()
    assert {moment[key].dtype for moment in moments for key in ("exp_avg", "exp_avg_sq")} == {torch.float32}


def test_actions_state_and_time_are_float32_under_autocast() -> None:
    model = objective(pi05=False).model
    x = torch.randn(2, MODEL.action_dim)
    layers = (model.action_in_proj, model.state_proj)
    exact = [layer(x) for layer in layers]
    with torch.autocast("cpu", torch.bfloat16):
        for layer, expected in zip(layers, exact, strict=True):
            assert torch.equal(layer(x), expected)
        assert model.llm.layers[0].mlp.down_proj(torch.randn(2, MODEL.llm.mlp_dim)).dtype == torch.bfloat16


def write_demos(folder: Path, poison: float) -> None:
    """Two episodes; `poison` is a number of the second one's actions, unless it is infinite."""
    for i in range(2):
        demo = episode(i)
        if i == 1 and poison != float("inf"):
            demo.actions[3, 2] = poison
        write_episode(folder, i, demo, 0, fps=80.0)
    write_meta(folder, ["push the puck to the goal"], 80.0, 2, {})


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    write_demos(tmp_path, float("nan"))
    with pytest.raises(FoveateError, match=r"episode 1, frame 3, column action\[2\]: nan is no finite number \(1 such"):
        load_demos(DataConfig(path=(str(tmp_path),)))
