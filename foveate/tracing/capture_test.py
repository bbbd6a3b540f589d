"""Attention capture: right numbers in original coordinates, and a model that is as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.model_test import golden_inputs, make_inputs, make_model
from foveate.models.pi0.weights import load_weights
from foveate.pruning import make_pruner
from foveate.testing.golden import golden_dir
from foveate.testing.pruning import prune
from foveate.tracing.capture import capture_attention
from foveate.types import AttentionRequest, Prefix


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
    with capture_attention(AttentionRequest(tuple(layers)), prefix, model.attention_stacks()) as result:
        model.prefill(prefix)
    maps = result.prefix
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
    with capture_attention(AttentionRequest((0,)), prefix, model.attention_stacks()) as result:
        model.prefill(prefix)
    maps = result.prefix
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
        with capture_attention(AttentionRequest((0, 1, -1)), prefix, model.attention_stacks()) as maps:
            model.prefill(prefix)
        captured.append(maps.prefix)
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
        request = AttentionRequest((0, 2), ("prefix", "suffix"))
        stacks = (model.attention_stacks(), model.config.action_horizon)
        with capture_attention(request, prefix, *stacks):
            during = model.denoise(model.prefill(prefix), inputs.state, noise, 2)
            if raises:
                raise Bang
    except Bang:
        pass
    torch.testing.assert_close(during, before, atol=1e-6, rtol=1e-6)
    assert torch.equal(model.sample_actions(inputs, noise, num_steps=2), before)
    assert all(layer.self_attn.observer is None for layer in (*model.llm.layers, *model.expert.layers))
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == attributes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_layer_that_is_not_there_is_named() -> None:
    model = make_model()
    with torch.no_grad():
        prefix = pack(model.embed_prefix(make_inputs()))
    with pytest.raises(FoveateError, match="attention layer 3: the backbone has layers 0 to 2"):
        with capture_attention(AttentionRequest((0, 3)), prefix, model.attention_stacks()):
            pass
    assert all(layer.self_attn.observer is None for layer in model.llm.layers)


def suffix_map(attn: torch.Tensor, whole: Prefix, horizon: int) -> torch.Tensor:
    """Mean over the action rows of full maps [B, H, T, S + T], patches alone: float32 [B, H, P]."""
    return attn[:, :, -horizon:].mean(2)[:, :, torch.as_tensor(whole.layout.patch_index)]


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_both_phases_agree_with_golden_attention(golden, packed: bool) -> None:
    """Float32 before the cast within 2e-4; what comes to the host is that, rounded to float16."""
    model, whole, outputs = golden
    given = load_file(golden_dir("pi0", "tiny.inputs.safetensors") / "tiny.inputs.safetensors")
    prefix, horizon = (pack(whole) if packed else whole), model.config.action_horizon
    request = AttentionRequest((0, 2, -1), ("prefix", "suffix"), heads=(1, 6))
    with capture_attention(request, prefix, model.attention_stacks(), horizon) as looked:
        cache = model.prefill(prefix)
        model.velocity(cache, given["state"], given["x_t"], given["timestep"])
    assert looked.layers == (0, 2, 3)
    compared = {"prefix": 0, "suffix": 0}
    for i, layer in enumerate(looked.layers):
        for phase, name in (("prefix", f"prefix.layer{layer}.attn"), ("suffix", f"denoise.layer{layer}.attn")):
            if name not in outputs:
                continue  # a clone's subset holds fewer
            if phase == "prefix":
                ours, expected = looked.prefix[layer], expected_map(outputs[name], whole)[:, [1, 6]]
            else:
                ours, expected = looked.suffix[layer][0], suffix_map(outputs[name], whole, horizon)[:, [1, 6]]
            assert (ours - expected).abs().max() < 2e-4
            assert (ours[1, :, 32:] == 0).all()  # the camera that is absent
            for b in range(2):
                maps = looked.sample(b)[phase]
                assert maps.maps.dtype == np.float16 and maps.maps.shape == (3, 2, 3, 4, 4)
                assert maps.valid.tolist() == np.broadcast_to([[[True]], [[True]], [[b == 0]]], (3, 4, 4)).tolist()
                np.testing.assert_array_equal(maps.maps[i].reshape(2, -1), ours[b].numpy().astype(np.float16))
            compared[phase] += 1
    assert min(compared.values()) > 0


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_map_for_each_text_token(golden, packed: bool) -> None:
    model, whole, outputs = golden
    prefix = pack(whole) if packed else whole
    request = AttentionRequest((0,), tokens=True)
    with capture_attention(request, prefix, model.attention_stacks()) as looked:
        model.prefill(prefix)
    text, patches = (torch.as_tensor(index) for index in (whole.layout.tokens_of("text"), whole.layout.patch_index))
    pieces = [f"piece{i}" for i in range(len(text))]
    for b in range(2):
        there = whole.mask[b, text]
        rows = outputs["prefix.layer0.attn"][b][:, text[there]][:, :, patches].transpose(0, 1)
        maps = looked.sample(b, pieces)["prefix"]
        assert maps.tokens == tuple(piece for piece, valid in zip(pieces, there, strict=True) if valid)
        assert np.abs(maps.maps[:, 0].reshape(rows.shape).astype(np.float32) - rows.numpy()).max() < 2e-4 + 2**-11


@torch.no_grad()
def test_rows_of_a_larger_golden_model_with_the_middle_camera_absent() -> None:
    """`attn_rows` of the index: the rows among them that are text, 256 patches per view."""
    folder = golden_dir("pi0", "gqa_pi05.outputs.safetensors")
    entry = json.loads((folder / "pi0_index.json").read_text())["gqa_pi05"]
    model = load_weights(folder / "gqa_pi05.model.safetensors", Pi0Config.from_dict(entry["config"]))
    whole = model.embed_prefix(golden_inputs(folder, "gqa")[0])
    outputs = load_file(folder / "gqa_pi05.outputs.safetensors")
    layers = tuple(range(3))
    with capture_attention(AttentionRequest(layers, tokens=True), pack(whole), model.attention_stacks()) as looked:
        model.prefill(pack(whole))
    start = whole.layout.num_patches
    for b in range(2):
        rows = [(i, row - start) for i, row in enumerate(entry["attn_rows"]) if row >= start and whole.mask[b, row]]
        assert rows
        for layer in layers:
            for i, token in rows:
                expected = outputs[f"prefix.layer{layer}.attn_rows"][b, :, i, :start]
                assert (looked.prefix[layer][b, :, token] - expected).abs().max() < 2e-4
        assert looked.sample(b)["prefix"].valid.reshape(3, -1).all(1).tolist() == [True, b == 1, True]


@torch.no_grad()
def test_rows_beside_a_pruner_and_an_absent_camera_in_float64() -> None:
    """Both phases, from the layer's own q and k: the whole softmax in float64, patch by patch."""
    model, inputs = make_model(), make_inputs(2, [[True, False], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    whole = model.embed_prefix(inputs)
    prefix, keep = prune(make_pruner("lightvla"), whole)
    patches = whole.layout.num_patches
    there = keep.keep_mask & whole.mask[:, :patches]
    assert there[0].sum() < 4 and not there[0, 4:].any() and 0 < there[1].sum() < 8
    seen: dict[str, tuple] = {}
    for name, stack in (("prefix", model.llm), ("suffix", model.expert)):
        stack.layers[1].self_attn.observer = lambda q, k, mask, name=name: seen.setdefault(name, (q, k, mask))
    stacks = (model.attention_stacks(), model.config.action_horizon)
    with capture_attention(AttentionRequest((1,), ("prefix", "suffix")), prefix, *stacks) as looked:
        model.denoise(model.prefill(prefix), inputs.state, noise, 1)
    for b in range(2):
        source = prefix.source[b].tolist()
        for phase, (q, k, mask) in seen.items():
            scores = (q[b].double() @ k[b].double().transpose(-1, -2)).numpy() / 8**0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask[b].numpy()
            attn = weights / weights.sum(-1, keepdims=True)
            text = [slot for slot, token in enumerate(source) if token >= patches]
            mean = attn[:, text if phase == "prefix" else slice(None)].mean(1)
            expected = np.zeros((4, patches))
            for slot, token in enumerate(source):
                if 0 <= token < patches:
                    expected[:, token] = mean[:, slot]
            maps = looked.sample(b)[phase]
            np.testing.assert_allclose(maps.maps[0].reshape(4, -1), expected, atol=5e-4)
            np.testing.assert_array_equal(maps.valid.ravel(), there[b])
            assert (maps.maps[..., ~maps.valid] == 0).all()


@pytest.mark.parametrize("pi05", [True, False])
@torch.no_grad()
def test_denoising_steps_apart_and_averaged(pi05: bool) -> None:
    """π0's state token, prefilled alone, is no step."""
    model, inputs = make_model(pi05), make_inputs(2, [[True, False], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    prefix = pack(model.embed_prefix(inputs))
    stacks = (model.attention_stacks(), model.config.action_horizon)
    found = {}
    for steps in ("mean", "each"):
        with capture_attention(AttentionRequest((0, 1), ("suffix",), steps=steps), prefix, *stacks, 3) as looked:
            model.denoise(model.prefill(prefix), inputs.state, noise, 3)
        found[steps] = looked.sample(0)["suffix"]
    assert not looked.prefix
    each, mean = found["each"].maps.astype(np.float32), found["mean"].maps
    assert each.shape == (3, *mean.shape) == (3, 2, 4, 2, 2, 2)
    assert np.abs(each[0] - each[2]).max() > 1e-4
    np.testing.assert_allclose(each.mean(0), mean, atol=1e-3)
    # The first step alone, with the state beside the actions.
    with capture_attention(AttentionRequest((0, 1), ("suffix",)), prefix, *stacks) as looked:
        model.velocity(model.prefill(prefix), inputs.state, noise, torch.ones(2))
    np.testing.assert_allclose(looked.sample(0)["suffix"].maps, found["each"].maps[0], atol=1e-3)


@torch.no_grad()
def test_contexts_nest_and_each_sees_every_call() -> None:
    model = make_model()
    prefix = pack(model.embed_prefix(make_inputs()))
    with capture_attention(AttentionRequest((1,)), prefix, model.attention_stacks()) as outer:
        with capture_attention(AttentionRequest((1,)), prefix, model.attention_stacks()) as inner:
            model.prefill(prefix)
        assert model.llm.layers[1].self_attn.observer is not None
    assert torch.equal(outer.prefix[1], inner.prefix[1])
    assert all(layer.self_attn.observer is None for layer in model.llm.layers)


@torch.no_grad()
def test_layers_and_heads_come_in_the_order_asked_each_once() -> None:
    model = make_model()
    prefix = pack(model.embed_prefix(make_inputs()))
    found = []
    for layers, heads in (((0, 2), None), ((-1, 0, 2), (3, 1, 0, 2, 3))):
        with capture_attention(AttentionRequest(layers, heads=heads), prefix, model.attention_stacks()) as looked:
            model.prefill(prefix)
        found.append(looked.sample(1)["prefix"])
    assert (found[1].layers, found[1].heads) == ((2, 0), (3, 1, 0, 2))
    np.testing.assert_array_equal(found[1].maps, found[0].maps[[1, 0]][:, [3, 1, 0, 2]])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (AttentionRequest((0, 3), ("suffix",)), r"layer 3: the action expert has layers 0 to 2 \(3 layers\)"),
        (AttentionRequest((0,), heads=(0, 4)), r"head 4: the layers have heads 0 to 3 \(4 heads\)"),
        (AttentionRequest((0,), ("prefx",)), "unknown attention phase 'prefx'; did you mean 'prefix'"),
        (AttentionRequest((0,), steps="all"), "unknown attention steps 'all'"),
        (AttentionRequest(()), "name at least one layer"),
    ],
)
def test_what_is_not_there_is_named_before_anything_runs(request_, said) -> None:
    model = make_model()
    with torch.no_grad():
        prefix = pack(model.embed_prefix(make_inputs()))
    with pytest.raises(FoveateError, match=said):
        with capture_attention(request_, prefix, model.attention_stacks(), 4):
            raise AssertionError
    assert all(layer.self_attn.observer is None for layer in (*model.llm.layers, *model.expert.layers))


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_prefill_is_watched_too() -> None:
    """Rows are computed beside the compiled kernels, without a break of the graph; a new context compiles no more."""
    from torch._dynamo.utils import counters

    model, inputs = make_model(), make_inputs(2, [[True, False], [True, True]])
    whole = model.embed_prefix(inputs)

    def prefill(embeds: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor) -> list:
        return model.prefill(Prefix(embeds, mask, position_ids, whole.layout)).keys_values

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(prefill, fullgraph=True, backend="aot_eager")
    request = AttentionRequest((0, 2), heads=(0, 3))
    for dropped in (1, 2, 5):  # of the sample whose cameras are both there: the shapes stay
        keep = torch.ones_like(whole.mask)
        keep[1, dropped] = False
        prefix = pack(whole, keep)
        found = []
        for run in (prefill, compiled):
            with capture_attention(request, prefix, model.attention_stacks()) as looked:
                run(prefix.embeds, prefix.mask, prefix.position_ids)
            found.append(looked.sample(1)["prefix"])
        np.testing.assert_allclose(found[0].maps, found[1].maps, atol=1e-3)
        assert not found[1].valid.ravel()[dropped] and found[1].valid.sum() == 7
        assert (found[1].maps.reshape(2, 2, -1)[..., dropped] == 0).all()
    assert counters["stats"]["unique_graphs"] == 1
    assert all(layer.self_attn.observer is None for layer in model.llm.layers)


@pytest.mark.slow
@pytest.mark.parametrize("pi05", [True, False])
@torch.no_grad()
def test_compiled_denoising_steps_are_watched_too(pi05: bool) -> None:
    """All steps and all contexts share one graph."""
    from torch._dynamo.utils import counters

    model, inputs = make_model(pi05), make_inputs(2, [[True, False], [True, True]])
    prefix = pack(model.embed_prefix(inputs))
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    counters.clear()
    request = AttentionRequest((0, 2), ("suffix",), steps="each")
    found = []
    for flow in (
        model.flow,
        compiled := torch.compile(model.flow, fullgraph=True, backend="aot_eager"),
        compiled,
    ):
        model.flow = flow
        with capture_attention(request, prefix, model.attention_stacks(), 4, 10) as looked:
            model.denoise(model.prefill(prefix), inputs.state, noise, 10)
        found.append(looked.sample(0)["suffix"].maps)
    assert found[0].shape == (10, 2, 4, 2, 2, 2) and (found[0][0] != found[0][9]).any()
    for maps in found[1:]:
        np.testing.assert_allclose(maps, found[0], atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
