"""The loop's own loss on the reference's training cases: losses and every gradient, plain and with LightVLA."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from foveate.golden.openvla_oft import gradients, training_inputs, with_heads
from foveate.golden.report import TOLERANCES
from foveate.models.base import ModelOptions
from foveate.models.openvla_oft.detect import detect
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.models.openvla_oft.weights import load_weights, places_of
from foveate.pruning import make_pruner
from foveate.testing.golden import golden_dir
from foveate.training.config import NoiseConfig
from foveate.training.policy.lora import LoraConfig, adapt
from foveate.training.policy.openvla_oft.losses import ChunkBatch, L1Regression

PAPER = {"name": "lightvla", "train_form": "paper"}


def golden_model() -> OpenVLAOFT:
    info = detect(golden_dir("openvla_oft", "index.json") / "checkpoint", ModelOptions())
    assert info is not None
    return load_weights(info.path, info.weights, with_heads(info.config))


def objective(model: OpenVLAOFT, pruner: dict | None = None) -> L1Regression:
    return L1Regression(model, NoiseConfig(0.0, 0.0), make_pruner(pruner)).train()


def case(name: str) -> tuple[dict[str, torch.Tensor], ChunkBatch]:
    folder = golden_dir("openvla_oft", f"{name}.safetensors")
    golden = load_file(folder / f"{name}.safetensors")
    actions = golden["gt_actions"]
    return golden, ChunkBatch(training_inputs(folder, golden), actions, torch.ones(actions.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "kind"), [("train_b1", "unpruned"), ("train_b1", "pruned"), ("train_b2_padded", "unpruned")]
)
def test_losses_and_gradients_are_the_reference_s(name: str, kind: str) -> None:
    """Not the padded batch pruned: there the reference's pruner asks with padding too, as `check golden` has it."""
    golden, batch = case(name)
    trained = objective(golden_model(), PAPER if kind == "pruned" else None)
    trained.begin_step(0, 1)
    loss = trained(batch)
    loss.backward()
    tolerance = TOLERANCES["float32"]
    torch.testing.assert_close(loss.detach()[None], golden[f"{kind}.loss"], rtol=1e-5, atol=1e-6)
    norms = json.loads((golden_dir("openvla_oft", "grad_norms.json") / "grad_norms.json").read_text())[f"{name}.{kind}"]
    compared = 0
    for key, gradient in gradients(trained.model).items():
        limit = tolerance["gradient norm"]
        assert float(gradient.norm()) == pytest.approx(norms[key], abs=limit.atol, rel=limit.rtol), key
        if (whole := golden.get(f"{kind}.grad.{key}")) is not None:
            limit = tolerance["gradient"]
            torch.testing.assert_close(gradient, whole, atol=limit.atol, rtol=limit.rtol, msg=key)
            compared += 1
    assert compared > 5 and len(norms) > 50


def test_adapters_have_the_gradients_that_the_chain_rule_gives() -> None:
    """At the start B is zero: B's gradient is scale * G A^T with the reference's gradient G of the weight, A's is 0."""
    golden, batch = case("train_b1")
    model = golden_model()
    widths = {"llm.layers.0.self_attn.qkv_proj": 3, "projector.2": 1, "dino.layers.0.qkv_proj": 1}

    def parts(layer: str) -> dict[str, int]:
        if layer not in widths:
            return {}
        rows = len(model.get_parameter(f"{layer}.weight")) // widths[layer]
        return {place.key.removesuffix(".weight"): rows for place in places_of(f"{layer}.weight")}

    pairs = adapt(model, parts, LoraConfig(rank=4, alpha=2))
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".adapters." not in n)
    loss = objective(model, PAPER)(batch)
    torch.testing.assert_close(loss.detach()[None], golden["pruned.loss"], rtol=1e-5, atol=1e-6)
    loss.backward()
    compared = 0
    for name, (a, b) in pairs.items():
        assert a.grad is not None and b.grad is not None and float(a.grad.abs().max()) == 0
        if (whole := golden.get(f"pruned.grad.vla.{name}.weight")) is not None:
            torch.testing.assert_close(b.grad, 0.5 * whole @ a.detach().T, atol=2e-5, rtol=1e-3, msg=name)
            compared += 1
    assert compared > 0, sorted(k for k in golden if k.startswith("pruned.grad."))


def test_masked_steps_count_as_nothing() -> None:
    _, batch = case("train_b1")
    trained = objective(golden_model())
    with torch.no_grad():
        error = trained.model(batch.inputs, batch.actions)
        only = torch.zeros_like(batch.mask)
        only[0, 2] = True
        loss = trained(dataclasses.replace(batch, mask=only))
    torch.testing.assert_close(loss, error[0, 2].sum() / error.numel())


def test_one_batch_is_learned() -> None:
    _, batch = case("train_b1")
    torch.manual_seed(0)
    trained = objective(golden_model(), PAPER)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = trained(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0], losses
