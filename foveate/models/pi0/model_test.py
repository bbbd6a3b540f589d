"""π0 and π0.5 on tiny random weights and on golden inputs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.models.common.real_time import GivenActions
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import ModelInputs, Pi0
from foveate.models.pi0.weights import load_weights
from foveate.testing.golden import golden_dir

STACK = GemmaConfig(width=32, depth=3, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=8)
TINY = Pi0Config(
    action_dim=5,
    action_horizon=4,
    max_token_len=7,
    vocab_size=40,
    llm=STACK,
    expert=dataclasses.replace(STACK, width=16),
    vision=VisionConfig(16, 2, 2, 32, 14, 28, 32),
    views=("front", "wrist"),
)


def make_model(pi05: bool = True, **changes) -> Pi0:
    torch.manual_seed(0)
    model = Pi0(dataclasses.replace(TINY, pi05=pi05, **changes))
    for parameter in model.parameters():  # adaptive norms start at zero, which would hide them
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_inputs(batch: int = 2, image_masks: list[list[bool]] | None = None) -> ModelInputs:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(batch)[:, None] % 3 + 3
    token_masks = torch.arange(7)[None] < lengths
    return ModelInputs(
        images=torch.rand(batch, 2, 3, 28, 28, generator=generator) * 2 - 1,
        image_masks=torch.ones(batch, 2, dtype=torch.bool) if image_masks is None else torch.tensor(image_masks),
        tokens=torch.randint(0, 40, (batch, 7), generator=generator).masked_fill(~token_masks, 0),
        token_masks=token_masks,
        state=torch.randn(batch, 5, generator=generator),
    )


def golden_inputs(folder: Path, size: str) -> tuple[ModelInputs, torch.Tensor]:
    given, pictures = load_file(folder / f"{size}.inputs.safetensors"), load_file(folder / "images.safetensors")
    images = torch.stack([pictures[f"image{i}_u8"] for i in range(3)], 1).float() / 255 * 2 - 1
    keys = ("img_masks", "lang_tokens", "lang_masks", "state")
    return ModelInputs(images, *(given[key] for key in keys)), given["noise"]


@pytest.mark.parametrize("tag", ["tiny_pi05", "tiny_pi0", "gqa_pi05"])
@torch.no_grad()
def test_exact_packing_changes_no_action_on_golden_inputs(tag: str) -> None:
    """Tiny masks the last camera of one sample, gqa the middle one of the other; the batch is 2."""
    folder = golden_dir("pi0", f"{tag}.model.safetensors")
    config = Pi0Config.from_dict(json.loads((folder / "pi0_index.json").read_text())[tag]["config"])
    model = load_weights(folder / f"{tag}.model.safetensors", config)
    inputs, noise = golden_inputs(folder, tag.split("_")[0])
    assert not inputs.image_masks.all()
    for masks in (inputs.image_masks, torch.ones_like(inputs.image_masks)):
        these = dataclasses.replace(inputs, image_masks=masks)
        packed = model.sample_actions(these, noise, num_steps=3)
        padded = model.sample_actions(these, noise, num_steps=3, packed=False)
        assert (packed - padded).abs().max() < 2e-5
        # A sample alone packs tighter than beside a longer one.
        one = ModelInputs(**{name: value[:1] for name, value in vars(these).items() if value is not None})
        assert (model.sample_actions(one, noise[:1], num_steps=3) - padded[:1]).abs().max() < 2e-5


@pytest.mark.parametrize("pi05", [True, False])
@torch.no_grad()
def test_masked_content_is_never_read(pi05: bool) -> None:
    """What stands in an absent camera or in prompt padding changes not a bit."""
    model, inputs = make_model(pi05), make_inputs(2, [[True, False], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(3))
    before = model.sample_actions(inputs, noise, num_steps=2)
    images, tokens = inputs.images.clone(), inputs.tokens.clone()
    images[0, 1] = 0.7
    tokens[~inputs.token_masks] = 11
    after = model.sample_actions(dataclasses.replace(inputs, images=images, tokens=tokens), noise, num_steps=2)
    assert torch.equal(before, after)


def test_packing_drops_exactly_the_masked_tokens() -> None:
    model, inputs = make_model(), make_inputs(2, [[True, False], [True, True]])
    whole = model.embed_prefix(inputs)
    packed = pack(whole)
    assert packed.mask.sum(1).tolist() == whole.mask.sum(1).tolist() == [4 + 3, 8 + 4]
    assert packed.embeds.shape[1] == 12 and not packed.full
    assert packed.source is not None
    for row in range(2):
        slots = packed.mask[row]
        source = packed.source[row, slots]
        assert source.tolist() == whole.mask[row].nonzero().flatten().tolist()
        assert torch.equal(packed.embeds[row, slots], whole.embeds[row, source])
        assert torch.equal(packed.position_ids[row, slots], whole.position_ids[row, source])
    assert (packed.source[~packed.mask] == -1).all()


@pytest.mark.parametrize("pi05", [True, False])
def test_flow_samples_that_share_a_prefix_equal_separate_ones(pi05: bool) -> None:
    model, inputs = make_model(pi05), make_inputs(2, [[True, False], [True, True]])
    generator = torch.Generator().manual_seed(5)
    actions = torch.randn(2, 4, 5, generator=generator)
    noise, time = torch.randn(2, 3, 4, 5, generator=generator), torch.rand(2, 3, generator=generator)
    together = model(inputs, actions, noise, time)
    assert together.shape == noise.shape
    for f in range(3):
        alone = model(inputs, actions, noise[:, f], time[:, f])
        torch.testing.assert_close(together[:, f], alone, atol=1e-5, rtol=1e-5)
    together.mean().backward()
    shared = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.stack([model(inputs, actions, noise[:, f], time[:, f]) for f in range(3)]).mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(shared[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_time_grids() -> None:
    """openpi adds -1/n in float32; the exact grid does not drift."""
    model = make_model()
    accumulated = model.times(10)
    assert len(accumulated) == 10
    assert accumulated[0] == 1.0 and accumulated[-1] != 0.1
    exact = make_model(time_grid="exact").times(10)
    assert exact == [1.0 - k / 10 for k in range(10)]
    torch.testing.assert_close(torch.tensor(accumulated), torch.tensor(exact), atol=1e-6, rtol=0)
    for n in range(1, 33):
        assert len(model.times(n)) == n


def test_last_prefix_layer_is_cut_short_without_changing_the_cache() -> None:
    model, inputs = make_model(), make_inputs()
    with torch.no_grad():
        prefix = pack(model.embed_prefix(inputs))
        short, whole = model.prefill(prefix), model.prefill(prefix, return_hidden=True)
    for (k1, v1), (k2, v2) in zip(short.keys_values, whole.keys_values, strict=True):
        torch.testing.assert_close(k1, k2, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(v1, v2, atol=1e-6, rtol=1e-6)
    assert short.last_hidden is None and whole.last_hidden is not None


def test_wrong_number_of_views_is_named() -> None:
    inputs = make_inputs()
    with pytest.raises(FoveateError, match=r"expected 2 views \('front', 'wrist'\), got 1"):
        make_model().embed_prefix(dataclasses.replace(inputs, images=inputs.images[:, :1]))


def test_the_mid_size_has_the_parameters_it_claims() -> None:
    config = {
        "vocab_size": 2048,
        "llm": {"width": 512, "depth": 8, "mlp_dim": 2048, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64},
        "expert": {"width": 256, "depth": 8, "mlp_dim": 1024, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64},
        "vision": {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "patch_size": 14,
            "image_size": 224,
            "projection_dim": 512,
        },
    }
    with torch.device("meta"):
        model = Pi0(Pi0Config.from_dict(config))
    # 65.4 million, as the reference's, whose count includes the unused head of the expert.
    unused = 2048 * 256
    assert round((sum(p.numel() for p in model.parameters()) + unused) / 1e6, 1) == 65.4


def test_real_sizes_on_the_meta_device() -> None:
    for pi05, millions in ((True, 3616.757520), (False, 3501.372176)):
        with torch.device("meta"):
            model = Pi0(Pi0Config(pi05=pi05))
        unused = 257_152 * 1024
        assert sum(p.numel() for p in model.parameters()) + unused == round(millions * 1e6)


def test_config_round_trip_and_bad_keys() -> None:
    assert Pi0Config.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(FoveateError, match=r"action_horizn.*action_horizon"):
        Pi0Config.from_dict({"action_horizn": 3})
    with pytest.raises(FoveateError, match=r"llm\.depth 3 differs from expert\.depth 2"):
        dataclasses.replace(TINY, expert=dataclasses.replace(TINY.expert, depth=2))


@pytest.mark.parametrize("pi05", [True, False])
@torch.no_grad()
def test_given_actions_are_kept_and_seen_at_the_last_time(pi05: bool) -> None:
    model, inputs = make_model(pi05), make_inputs()
    noise, actions = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(2))
    cache = model.prefill(pack(model.embed_prefix(inputs)))

    def decoded(counts: list[int], actions: torch.Tensor = actions) -> torch.Tensor:
        given = GivenActions(actions, torch.arange(4) < torch.tensor(counts)[:, None])
        return model.decode_after(cache, inputs, noise, 3, given)

    free, held = model.decode(cache, inputs, noise, 3), decoded([2, 0])
    torch.testing.assert_close(decoded([0, 0]), free)
    torch.testing.assert_close(held[1], free[1])
    assert torch.equal(held[0, :2], actions[0, :2])
    assert (decoded([2, 0], actions + 1)[0, 2:] - held[0, 2:]).abs().max() > 1e-3, "the rest sees what is given"
    torch.testing.assert_close(decoded([2, 0], actions.index_fill(1, torch.tensor([2, 3]), 9.0)), held)
    # All given is the flow at time 0, and a mixture lies at both of its times.
    time, x_t = torch.tensor([0.7, 0.7]), noise
    every = torch.ones(2, 4, dtype=torch.bool)
    ended = model.velocity(cache, inputs.state, x_t, torch.zeros(2))
    torch.testing.assert_close(model.velocity(cache, inputs.state, x_t, time, every), ended)
    some = model.velocity(cache, inputs.state, x_t, time, torch.arange(4) < torch.tensor([[2], [2]]))
    assert min((some - other).abs().max() for other in (ended, model.velocity(cache, inputs.state, x_t, time))) > 1e-3


@pytest.mark.parametrize("pi05", [True, False])
def test_the_loss_sees_given_actions_without_noise(pi05: bool) -> None:
    """Two flow samples of each row, against the velocity at what should enter, one flow sample at a time."""
    model, inputs, rng = make_model(pi05), make_inputs(), torch.Generator().manual_seed(3)
    actions, noise = torch.randn(2, 4, 5, generator=rng), torch.randn(2, 2, 4, 5, generator=rng)
    time = torch.tensor([[0.2, 0.9], [0.5, 0.4]])
    given = torch.arange(4) < torch.tensor([[[1], [0]], [[3], [2]]])
    found = model(inputs, actions, noise, time, given=given)
    cache = model.prefill(pack(model.embed_prefix(inputs)))
    for flow in range(2):
        t = time[:, flow, None, None]
        x_t = torch.where(given[:, flow, :, None], actions, t * noise[:, flow] + (1 - t) * actions)
        v_t = model.velocity(cache, inputs.state, x_t, time[:, flow], given[:, flow])
        error = (noise[:, flow] - actions - v_t) ** 2
        torch.testing.assert_close(found[:, flow], error, rtol=1e-4, atol=1e-5)
