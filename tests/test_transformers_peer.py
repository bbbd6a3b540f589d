"""A second opinion: our π0 against transformers' PI0ForConditionalGeneration with equal weights.

One difference has a reason: transformers forms the time embedding in float32, where the angle of the shortest period
(up to 1571 radians) is 1e-4 off; openpi and foveate form it in float64. Left alone,
this moves v_t at t = 1 by 7.6e-5 and sampled actions by 2e-5; where noted, the peer is handed our embedding.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers.models.pi0", reason="transformers has PI0 from version 5 on")

from foveate.golden import peer
from foveate.golden.report import TOLERANCES, Tolerance
from foveate.models.pi0.model import ModelInputs, Pi0
from foveate.models.pi0.model_test import make_inputs, make_model

pytestmark = pytest.mark.peer

ACTION, HIDDEN = TOLERANCES["float32"]["action"], TOLERANCES["float32"]["hidden"]
MASKS = {"all cameras": [[True, True], [True, True]], "one absent": [[True, False], [True, True]]}


def assert_within(ours: torch.Tensor, theirs: torch.Tensor, tolerance: Tolerance) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance.atol, rtol=tolerance.rtol)


@pytest.fixture(scope="module")
def pair() -> tuple[Pi0, torch.nn.Module]:
    model = make_model(pi05=False, time_grid="exact")
    return model, peer.build(model)


def hand_over_time_embedding(model: Pi0, theirs: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    sinusoid = theirs.embed_action_time.sinusoid_embeds
    monkeypatch.setattr(sinusoid, "forward", lambda time: model.time_embedding(time).float())


@pytest.mark.parametrize("masks", MASKS)
@torch.no_grad()
def test_prefix_and_keys(pair, masks: str) -> None:
    model, theirs = pair
    inputs = make_inputs(2, MASKS[masks])
    given = peer.arguments(model, inputs)
    prefix = model.embed_prefix(inputs)
    valid = prefix.mask
    embeds = theirs.model.embed_prefix(given["input_ids"], given["pixel_values"], given["pixel_attention_mask"])
    assert_within(prefix.embeds[valid], embeds[valid], HIDDEN)
    out = theirs(
        noise=torch.zeros(2, 4, 5), timestep=torch.ones(2), **given
    )  # prefills; its cache also holds the suffix's keys
    for (k, v), layer in zip(model.prefill(prefix).keys_values, out.past_key_values.layers, strict=True):
        length = valid.shape[1]
        for ours, cached in ((k, layer.keys), (v, layer.values)):
            assert_within(ours[:, 0][valid], cached[:, 0, :length][valid], HIDDEN)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("time", [1.0, 0.5, 0.1, 0.003])
@torch.no_grad()
def test_velocity(pair, masks: str, time: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = pair
    hand_over_time_embedding(model, theirs, monkeypatch)
    inputs = make_inputs(2, MASKS[masks])
    x_t = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(4))
    t = torch.tensor([time, time / 2])
    ours = model.velocity(model.prefill(model.embed_prefix(inputs)), inputs.state, x_t, t)
    assert ours.abs().max() > 0.1
    assert_within(ours, theirs(noise=x_t, timestep=t, **peer.arguments(model, inputs)).logits, ACTION)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_actions(pair, masks: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = pair
    hand_over_time_embedding(model, theirs, monkeypatch)
    inputs = make_inputs(2, MASKS[masks])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(3))
    ours = model.sample_actions(inputs, noise, packed=packed)
    assert_within(ours, theirs.sample_actions(noise=noise, **peer.arguments(model, inputs)), ACTION)


@torch.no_grad()
def test_actions_with_a_camera_left_out(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' own processor feeds it: an absent camera has no tokens at all."""
    model, theirs = pair
    hand_over_time_embedding(model, theirs, monkeypatch)
    inputs = make_inputs(1, [[True, False]])
    noise = model.draw_noise(1, "cpu", torch.Generator().manual_seed(3))
    alone = peer.leave_out_absent(peer.arguments(model, inputs))
    assert alone["pixel_values"].shape[1] == 1 and alone["attention_mask"].all()
    assert_within(model.sample_actions(inputs, noise), theirs.sample_actions(noise=noise, **alone), ACTION)


def test_loss_and_gradients(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = pair
    hand_over_time_embedding(model, theirs, monkeypatch)
    inputs: ModelInputs = make_inputs(2, MASKS["one absent"])
    generator = torch.Generator().manual_seed(6)
    actions, noise = torch.randn(2, 2, 4, 5, generator=generator)
    time = torch.tensor([0.7, 0.2])
    loss = model(inputs, actions, noise, time).mean()
    other = theirs(noise=noise, timestep=time, actions=actions, **peer.arguments(model, inputs)).loss
    assert_within(loss, other, HIDDEN)
    loss.backward()
    other.backward()
    mine, yours = model.expert.layers[1].self_attn.o_proj.weight.grad, theirs.model.dit.layers[1].self_attn.o_proj
    assert_within(mine, yours.weight.grad, TOLERANCES["float32"]["gradient"])
    mine, yours = model.vision.layers[0].fc1.weight.grad, theirs.model.vlm.vision_tower.encoder.layers[0].mlp.fc1
    assert_within(mine, yours.weight.grad, TOLERANCES["float32"]["gradient"])


@torch.no_grad()
def test_actions_agree_with_their_own_time_embedding_too(pair) -> None:
    model, theirs = pair
    time = torch.linspace(0.05, 1.0, 16)
    exact = model.time_embedding(time)
    error = (theirs.embed_action_time.sinusoid_embeds(time).double() - exact).abs().max().item()
    assert 1e-6 < error < 5e-4
    inputs = make_inputs(2)
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(3))
    ours = model.sample_actions(inputs, noise)
    assert_within(ours, theirs.sample_actions(noise=noise, **peer.arguments(model, inputs)), ACTION)
