"""Attention capture: right numbers in original coordinates, and a model that is as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.model_test import golden_inputs, make_inputs, make_model
from foveate.models.pi0.weights import load_weights
from foveate.testing import golden_dir
from foveate.tracing.capture import capture_task_to_vis
from foveate.types import Prefix


def expected_map(attn: torch.Tensor, prefix: Prefix) -> torch.Tensor:
    """Mean over valid text rows of full maps [B, H, S, S], patches alone: float32 [B, H, P]."""
    text = torch.as_tensor(prefix.layout.tokens_of("text"))
    rows = prefix.mask[:, text]
    mean = (attn[:, :, text] * rows[:, None, :, None]).sum(2) / rows.sum(1)[:, None, None]
    return mean[:, :, torch.as_tensor(prefix.layout.patch_index)]


@pytest.fixture(params=["tiny_pi05", "tiny_pi0"])
def golden(request) -> tuple[Pi0, Prefix, dict[str, torch.Tensor]]:
    tag = request.param
    folder: Path = golden_dir("pi0", f"{tag}.outputs.safetensors")
    config = Pi0Config.from_dict(json.loads((folder / "pi0_index.json").read_text())[tag]["config"])
    model = load_weights(folder / f"{tag}.model.safetensors", config)
    with torch.no_grad():
        prefix = model.embed_prefix(golden_inputs(folder, "tiny")[0])
    return model, prefix, load_file(folder / f"{tag}.outputs.safetensors")


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_maps_agree_with_golden_attention(golden, packed: bool) -> None:
    model, whole, outputs = golden
    prefix = pack(whole) if packed else whole
    layers = [i for i in range(4) if f"prefix.layer{i}.attn" in outputs]  # a clone's subset lacks some
    with capture_task_to_vis(model.llm.layers, layers, prefix) as maps:
        model.prefill(prefix)
    assert sorted(maps) == layers and 0 in layers
    golden_layers = [layer for layer in maps if f"prefix.layer{layer}.attn" in outputs]  # a subset holds fewer
    assert golden_layers
    for layer in golden_layers:
        ours, expected = maps[layer], expected_map(outputs[f"prefix.layer{layer}.attn"], whole)
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 2e-4
        assert (ours[1, :, 32:] == 0).all()  # the camera that is absent


@torch.no_grad()
def test_a_pruned_prefix_reports_original_coordinates(golden) -> None:
    """The first layer's keys do not depend on who else is there: dropping patches renormalises its attention."""
    model, whole, outputs = golden
    keep = torch.ones_like(whole.mask)
    keep[0, [1, 5, 17, 40]] = False
    keep[1, 3:16] = False
    prefix = pack(whole, keep)
    with capture_task_to_vis(model.llm.layers, [0], prefix) as maps:
        model.prefill(prefix)
    attn = outputs["prefix.layer0.attn"] * (keep & whole.mask)[:, None, None]
    expected = expected_map(attn / attn.sum(-1, keepdim=True), whole)
    assert (maps[0] - expected).abs().max() < 2e-4
    assert (maps[0][0][:, [1, 5, 17, 40]] == 0).all() and (maps[0][1, :, 3:16] == 0).all()


@torch.no_grad()
def test_all_prefix_layers_agree_packed_and_padded_after_pruning() -> None:
    model, inputs = make_model(), make_inputs(2, [[True, False], [True, True]])
    whole = model.embed_prefix(inputs)
    keep = torch.ones_like(whole.mask)
    keep[:, [0, 2, 5]] = False
    padded = dataclasses.replace(whole, mask=whole.mask & keep)
    packed = pack(whole, keep)
    captured = []
    for prefix in (padded, packed):
        with capture_task_to_vis(model.llm.layers, [0, 1, -1], prefix) as maps:
            model.prefill(prefix)
        captured.append(maps)
    assert sorted(captured[0]) == [0, 1, 2]
    for layer in range(3):
        torch.testing.assert_close(captured[0][layer], captured[1][layer], atol=1e-6, rtol=1e-5)


class Bang(Exception):
    pass


@pytest.mark.parametrize("raises", [False, True])
@torch.no_grad()
def test_the_model_is_bit_identical_afterwards(raises: bool) -> None:
    model, inputs = make_model(), make_inputs(2, [[True, False], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    state = copy.deepcopy(model.state_dict())
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    before = model.sample_actions(inputs, noise, num_steps=2)
    prefix = pack(model.embed_prefix(inputs))
    try:
        with capture_task_to_vis(model.llm.layers, [0, 2], prefix):
            during = model.denoise(model.prefill(prefix), inputs.state, noise, 2)
            if raises:
                raise Bang
    except Bang:
        pass
    torch.testing.assert_close(during, before, atol=1e-6, rtol=1e-6)
    assert torch.equal(model.sample_actions(inputs, noise, num_steps=2), before)
    assert all(layer.self_attn.observer is None for layer in model.llm.layers)
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == attributes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_layer_that_is_not_there_is_named() -> None:
    model = make_model()
    with torch.no_grad():
        prefix = pack(model.embed_prefix(make_inputs()))
    with pytest.raises(FoveateError, match="attention layer 3: the backbone has layers 0 to 2"):
        with capture_task_to_vis(model.llm.layers, [0, 3], prefix):
            pass
    assert all(layer.self_attn.observer is None for layer in model.llm.layers)
