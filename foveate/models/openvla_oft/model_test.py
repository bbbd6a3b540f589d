"""The network by itself: batches, absent cameras, pruning at both seams, and the mask that makes the difference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from foveate.engine.registry import make_engine
from foveate.errors import FoveateError
from foveate.golden.openvla_oft import with_heads
from foveate.models.base import ModelInputs, ModelOptions, pack
from foveate.models.openvla_oft.config import LlamaConfig, OFTConfig, TowerConfig
from foveate.models.openvla_oft.detect import detect
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.models.openvla_oft.processing import pad_prompts
from foveate.models.openvla_oft.weights import load_weights, places_of
from foveate.pruning import make_pruner
from foveate.pruning.base import keep_tokens
from foveate.testing.golden import golden_dir

CONFIG = OFTConfig(
    dino=TowerConfig(16, 3, 2, 32, registers=5, layer_scale=True),
    siglip=TowerConfig(24, 2, 2, 48),
    llm=LlamaConfig(width=32, depth=3, mlp_dim=64, num_heads=4, num_kv_heads=2, vocab_size=100),
    image_size=56,
    action_horizon=4,
    action_dim=3,
    state_dim=5,
)
PROMPTS = [[1, 5, 6, 7], [1, 9, 8, 7, 6, 5, 4], [1, 3, 4]]


def make_model() -> OpenVLAOFT:
    torch.manual_seed(0)
    return OpenVLAOFT(CONFIG).eval()


def make_inputs(rows: slice = slice(None), seen: list[list[bool]] | None = None) -> ModelInputs:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 2, 3, 56, 56, generator=generator) * 2 - 1
    state = torch.randn(3, 5, generator=generator)
    present = torch.tensor(seen or [[True, True]] * 3)
    tokens, masks = pad_prompts(PROMPTS[rows])
    return ModelInputs(images[rows], present[rows], tokens, masks, state[rows])


@pytest.mark.parametrize("pruner", [None, "lightvla", {"name": "stride", "keep_ratio": 0.25}])
@pytest.mark.parametrize("seen", [None, [[True, True], [True, False], [False, True]]])
def test_rows_of_a_batch_act_as_they_do_alone(pruner, seen) -> None:
    """Prompts of unequal length, absent cameras: where the reference mixes the samples of a batch."""
    engine, method = make_engine(make_model()), make_pruner(pruner)
    together = engine.run(make_inputs(seen=seen), None, pruner=method).actions
    assert together.shape == (3, 4, 3) and together.isfinite().all()
    for i in range(3):
        alone = engine.run(make_inputs(slice(i, i + 1), seen), None, pruner=method).actions
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_packing_changes_no_action_and_every_token_sees_every_other() -> None:
    model, inputs = make_model(), make_inputs(seen=[[True, True], [True, False], [True, True]])
    prefix = model.embed_prefix(inputs)
    padded, packed = (model.decode(model.prefill(p), inputs, None) for p in (prefix, pack(prefix)))
    torch.testing.assert_close(padded, packed, rtol=1e-4, atol=1e-5)
    seen = []
    attention = model.llm.layers[1].self_attn
    attention.observer = lambda q, k, mask: seen.append(mask)
    model.prefill(pack(model.embed_prefix(make_inputs(slice(0, 1)))))
    attention.observer = None
    assert seen == [None], "one row without padding needs no mask: nothing is causal"


@torch.no_grad()
def test_actions_do_not_hang_on_which_layer_drops_what_is_masked_anyway() -> None:
    """Behind a layer: dropping equals masking in all later ones."""
    model, inputs = make_model(), make_inputs()
    whole = model.embed_prefix(inputs)
    keep = torch.zeros(3, whole.layout.num_patches, dtype=torch.bool)
    keep[:, ::3] = True

    def left(prefix):
        return dataclasses.replace(prefix, mask=prefix.mask & keep_tokens(prefix, keep), full=False)

    masked = model.decode(model.prefill(whole, after={1: left}), inputs, None)
    dropped = model.decode(model.prefill(pack(whole), after={1: lambda prefix: pack(left(prefix))}), inputs, None)
    torch.testing.assert_close(dropped, masked, rtol=1e-4, atol=1e-5)
    assert (dropped - model.decode(model.prefill(whole), inputs, None)).abs().max() > 1e-5
    with pytest.raises(FoveateError, match="after backbone layer 2: choose one of 0 to 1"):
        model.prefill(whole, after={2: left})


def test_it_takes_no_noise_and_no_steps() -> None:
    model, inputs = make_model(), make_inputs()
    with pytest.raises(FoveateError, match="neither noise nor a number of steps"), torch.no_grad():
        model.decode(model.prefill(model.embed_prefix(inputs)), inputs, None, 10)


@torch.no_grad()
def test_a_causal_backbone_gives_another_policy() -> None:
    """What users lost 46 points by: under a causal mask the same weights are the reference's causal run."""
    folder = golden_dir("openvla_oft", "outputs_fp32.safetensors")
    info = detect(folder / "checkpoint", ModelOptions())
    assert info is not None
    model = load_weights(info.path, info.weights, with_heads(info.config))
    golden = load_file(folder / "outputs_fp32.safetensors")
    prefix = golden["unpruned.tokens"]
    causal = torch.ones(1, 1, prefix.shape[1], prefix.shape[1], dtype=torch.bool).tril()
    rope = model._places(pack(_as_prefix(model, prefix)))[1]
    hidden = {}
    for name, mask in (("free", None), ("causal", causal)):
        x = prefix
        for layer in model.llm.layers:
            x, _ = layer(x, rope, mask)
        hidden[name] = model.llm.norm(x)
    assert (hidden["free"] - golden["unpruned.hidden_states.3"]).abs().max() < 2e-4
    assert (hidden["causal"] - golden["unpruned.last_hidden_causal_for_contrast"]).abs().max() < 2e-4
    assert (hidden["causal"] - hidden["free"]).abs().max() > 1


def _as_prefix(model: OpenVLAOFT, embeds: torch.Tensor):
    from foveate.types import Prefix

    length = embeds.shape[1]
    layout = model.layout(length - len(model.layout(0)))
    mask = torch.ones(1, length, dtype=torch.bool)
    return Prefix(embeds, mask, torch.arange(length)[None], layout)


def test_the_published_size_has_the_published_names() -> None:
    with torch.device("meta"):
        model = OpenVLAOFT(OFTConfig(dtype="bfloat16"))
    keys = {place for name, _ in model.named_parameters() for place in places_of(name)}
    names = {key for part, key in keys if part == "model"}
    assert {
        "vision_backbone.featurizer.blocks.22.ls2.scale_factor",
        "vision_backbone.fused_featurizer.blocks.25.attn.qkv.bias",
        "projector.fc3.weight",
        "language_model.model.layers.31.self_attn.k_proj.weight",
        "language_model.model.embed_tokens.weight",
    } <= names
    assert "language_model.lm_head.weight" not in names
    assert ("head", "model.mlp_resnet_blocks.1.ffn.1.weight") in keys and ("proprio", "fc2.bias") in keys
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 7.3e9 < count < 7.8e9
    assert model.spec.grids == ((16, 16), (16, 16)) and len(model.layout(34)) == 605
