"""The seams of the engine: selection before the backbone and behind a layer, history per session, evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.bench.trace import observations
from foveate.engine.registry import make_engine
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs, pack
from foveate.models.openvla_oft import model_test as oft
from foveate.models.pi0.model_test import make_inputs, make_model
from foveate.policy_test import TINY
from foveate.pruning.base import TokenPruner, find_patches, keep_tokens
from foveate.training.policy.untrained import random_policy
from foveate.types import AttentionRequest, KeepSet, Prefix, Selection


class EveryOther(TokenPruner):
    """Behind a backbone layer, every other patch that is there."""

    def __init__(self, layer: int | None) -> None:
        super().__init__()
        self.layer = layer

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        keep = valid & (torch.arange(valid.shape[1]) % 2 == 0)
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))


def three_samples(family: str) -> tuple[Any, ModelInputs, Tensor | None]:
    """A small model (pi0, pi05 or openvla_oft), three observations of which one lacks a camera, and noise where it is
    asked for."""
    seen = [[True, True], [True, False], [True, True]]
    if family == "openvla_oft":
        model, inputs, noise = oft.make_model(), oft.make_inputs(seen=seen), None
    else:
        model, inputs = make_model(family == "pi05"), make_inputs(3, seen)
        noise = model.draw_noise(3, "cpu", torch.Generator().manual_seed(0))
    return model, inputs, noise


def batch_of(inputs: ModelInputs, stop: int) -> ModelInputs:
    return ModelInputs(**{name: value[:stop] for name, value in vars(inputs).items() if value is not None})


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_dropping_behind_a_layer_is_masking_in_all_later_ones(pi05: bool, layer: int) -> None:
    """Rows of unequal length, an absent camera: the packed computation against one that keeps all slots and masks."""
    model, inputs = make_model(pi05), make_inputs(2, [[True, False], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    method, whole = EveryOther(layer), model.embed_prefix(inputs)

    def mask_only(prefix: Prefix) -> Prefix:
        keep = method.select(prefix).keep.keep_mask
        return dataclasses.replace(prefix, mask=prefix.mask & keep_tokens(prefix, keep), full=False)

    masked = model.denoise(model.prefill(whole, after={layer: mask_only}), inputs.state, noise)
    everything = model.denoise(model.prefill(whole), inputs.state, noise)
    request = AttentionRequest((0, 1, 2), ("prefix", "suffix"))
    result = make_engine(model).run(inputs, noise, pruner=method, attention=request)
    torch.testing.assert_close(result.actions, masked, rtol=1e-4, atol=1e-5)
    assert (result.actions - everything).abs().max() > 1e-4
    assert result.keep is not None and result.attention is not None
    kept, there = result.keep.keep_mask, whole.mask[:, : whole.layout.num_patches]
    assert torch.equal(kept, there & (torch.arange(there.shape[1]) % 2 == 0))
    assert torch.equal(result.post_lengths, whole.mask.sum(1) - (there & ~kept).sum(1))
    for number in (0, 1, 2):
        looked_at = (result.attention.prefix[number] > 0).any(1)
        assert torch.equal(looked_at, kept if number > layer else there), f"layer {number}"
        by_actions = (result.attention.suffix[number][0] > 0).any(1)
        # The actions read a layer's own keys: those that layer k computed are of all tokens that it saw.
        assert torch.equal(by_actions, kept if number > layer else there), f"suffix, layer {number}"


@torch.no_grad()
def test_a_layer_that_cannot_be_pruned_behind_is_named() -> None:
    model, inputs = make_model(True), make_inputs(1, [[True, True]])
    noise = model.draw_noise(1, "cpu")
    with pytest.raises(FoveateError, match="after backbone layer 9: choose one of 0 to"):
        make_engine(model).run(inputs, noise, pruner=EveryOther(9))


def test_patches_are_found_in_a_packed_prefix() -> None:
    whole = make_model(True).embed_prefix(make_inputs(2, [[True, False], [True, True]]))
    for prefix in (whole, pack(whole)):
        slots, there = find_patches(prefix)
        assert torch.equal(there, whole.mask[:, : whole.layout.num_patches])
        found = prefix.embeds.gather(1, slots[..., None].expand(-1, -1, prefix.embeds.shape[-1]))
        expected = whole.embeds[:, : whole.layout.num_patches]
        assert torch.equal(found[there], expected[there])
        keep = torch.zeros_like(there)
        keep[:, 1] = True
        left = pack(dataclasses.replace(prefix, mask=prefix.mask & keep_tokens(prefix, keep), full=False))
        assert left.mask.sum(1).tolist() == (1 + whole.mask[:, whole.layout.num_patches :].sum(1)).tolist()


class Counting(TokenPruner):
    """Keeps one patch more at every inference of a session."""

    has_history = True

    def select(self, prefix: Prefix, queries: Tensor | None = None, *, state: Any = None, **_: Any) -> Selection:
        valid = self.valid_patches(prefix)
        for remembered in state:
            remembered["seen"] = remembered.get("seen", 0) + 1
        counts = torch.tensor([remembered["seen"] for remembered in state])
        keep = valid & (torch.arange(valid.shape[1]) < counts[:, None])
        return self.selection(prefix, KeepSet(keep, prefix.layout, valid=valid))


def test_a_history_is_kept_by_session_and_forgotten_on_reset() -> None:
    with random_policy(TINY, None) as policy:
        policy.pruner = Counting()
        frames = observations(policy, 2)

        def kept(*sessions: str) -> list[int]:
            policy.infer_batch(frames[: len(sessions)], sessions=sessions)
            return policy.get_token_pruning_stats()["last_kept_per_sample"]

        assert [kept("a"), kept("a", "b"), kept("b", "a")] == [[1], [2, 1], [2, 3]]
        policy.reset("a")
        assert kept("a", "b") == [1, 3]
        policy.reset()
        assert kept("b", "c") == [1, 1]
        with pytest.raises(FoveateError, match=r"Counting chooses by what it saw before: pass session="):
            policy.infer(frames[0])


def test_given_patches_leave_the_policy_as_it_was() -> None:
    with random_policy(TINY, "lightvla") as policy:
        # The gates of the adaptive norms start at 0, and then the actions do not look at the picture at all.
        with torch.no_grad():
            for values in policy.engine.model.parameters():
                values += 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
        frame, noise = observations(policy, 1)[0], np.zeros(policy.spec.noise_shape, np.float32)
        own, before = policy.pruner, policy.infer(frame, noise).actions
        keep = np.zeros(policy.spec.patches, bool)
        keep[:3] = True
        with_three = policy.infer(frame, noise, keep=keep)
        assert policy.pruner is own and np.abs(with_three.actions - before).max() > 0
        np.testing.assert_array_equal(policy.infer(frame, noise).actions, before)
