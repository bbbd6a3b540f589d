"""Adapters on π0 and π0.5: what trains, and that the exported policy is what was trained."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import load_weights, openpi_state_dict, save_weights
from foveate.policy import load_policy
from foveate.training.config import DataConfig, NoiseConfig
from foveate.training.loop import Share
from foveate.training.policy.data_test import GEMMA, MODEL, open_gates, source
from foveate.training.policy.lora import LoraConfig, merged_parameters
from foveate.training.policy.pi0.adapters import train_adapters
from foveate.training.policy.pi0.losses import FlowBatch, FlowMatching

CONFIG = LoraConfig(rank=3, alpha=6)
DEEP = dataclasses.replace(GEMMA, depth=2)


def trained(pi05: bool) -> tuple[Pi0, Pi0, FlowBatch]:
    """A model before and after a few steps with adapters, and the batch of these steps."""
    torch.manual_seed(0)
    model = Pi0(dataclasses.replace(MODEL, pi05=pi05, llm=DEEP, expert=DEEP))
    before = copy.deepcopy(open_gates(model))
    train_adapters(model, CONFIG, "float32")
    batch = source(DataConfig(flow_samples=2)).batch(Share(0, 0, 4, 4))
    objective = FlowMatching(model, NoiseConfig())
    torch.testing.assert_close(objective(batch), FlowMatching(before, NoiseConfig())(batch), rtol=0, atol=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, model, batch


@pytest.mark.parametrize("pi05", [True, False])
def test_the_exported_weights_act_as_the_adapters_did(pi05: bool, tmp_path: Path) -> None:
    before, model, batch = trained(pi05)
    save_weights(model, tmp_path / "model.safetensors", None, merged_parameters(model))
    merged = load_weights(tmp_path / "model.safetensors", model.config)
    loss = FlowMatching(model, NoiseConfig())(batch).detach()
    torch.testing.assert_close(FlowMatching(merged, NoiseConfig())(batch).detach(), loss, rtol=1e-5, atol=1e-6)
    assert abs(float(loss - FlowMatching(before, NoiseConfig())(batch).detach())) > 1e-3


def test_what_trains_and_by_which_formula() -> None:
    before, model, _ = trained(pi05=True)
    start, end = openpi_state_dict(before), openpi_state_dict(model, None, merged_parameters(model))
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    for name in start:
        stack = ".language_model." in name or ".gemma_expert." in name
        adapted = stack and any(part in name for part in (".self_attn.", ".mlp."))
        # Of the backbone's last layer keys and values alone are used; the embedding and all norms of both stacks stay.
        unused = "language_model.layers.1." in name and not name.endswith(("k_proj.weight", "v_proj.weight"))
        if stack or "lm_head" in name:
            assert (name in changed) == (adapted and not unused), name
    assert {"action_in_proj.weight", "action_out_proj.weight", "time_mlp_in.weight"} < changed
    assert any("vision_tower" in name for name in changed)
    layer = model.expert.layers[1].self_attn.qkv_proj
    adapter = layer.adapters["1"]
    key = "paligemma_with_expert.gemma_expert.model.layers.1.self_attn.k_proj.weight"
    expected = start[key].double() + 6 / 3 * adapter.b.weight.double() @ adapter.a.weight.double()
    torch.testing.assert_close(end[key].double(), expected, rtol=1e-6, atol=1e-7)


def test_targets_and_precision() -> None:
    model = Pi0(MODEL)
    train_adapters(model, LoraConfig(rank=2, targets=("q_proj", "down_proj")), "bfloat16")
    adapters = [name for name, _ in model.named_parameters() if ".adapters." in name]
    assert len(adapters) == 2 * 2 * 2 and not any("gate_up" in name or "o_proj" in name for name in adapters)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.llm.layers[0].mlp.down_proj.base.weight.dtype == model.llm.dtype == torch.bfloat16
    assert model.llm.layers[0].input_layernorm.weight.dtype == torch.float32
    assert model.expert.layers[0].input_layernorm.dense.weight.dtype == torch.float32
    with pytest.raises(FoveateError, match=r"no layer ends in 'query'; layers end in down_proj, gate_proj"):
        train_adapters(Pi0(MODEL), LoraConfig(targets=("query",)), "float32")


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train policy debug_pi05 --exp_name lora --model.vision.image_size 56 --lora.rank 4 --loop.device cpu"
    run = [*words.split(), "--loop.precision", "bfloat16", "--gradient_checkpointing", "true", "--num_train_steps"]
    assert main([*run, "2"]) == 0
    folder = tmp_path / "checkpoints" / "debug_pi05" / "lora"
    assert load_policy(folder / "2").engine.model.config.llm.depth == 4
    assert yaml.safe_load((folder / "2" / "train_config.yaml").read_text())["lora"]["rank"] == 4
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
