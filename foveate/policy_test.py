"""The joint of the rooms: shapes, evidence, determinism, and what happens when something does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.bench.trace import observations
from foveate.engine.reuse import PrefixReuse
from foveate.errors import ActionsNotFinite, FoveateError
from foveate.policy import Policy, TraceOptions, load_policy
from foveate.pruning import make_pruner
from foveate.training.policy import untrained
from foveate.training.policy.untrained import random_policy
from foveate.types import AttentionRequest, LeftOver, Observation

TINY = replace(untrained.TINY, action_horizon=6)


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    with random_policy(TINY, "lightvla") as built:
        yield built


@pytest.fixture(autouse=True)
def _as_loaded(policy: Policy) -> Iterator[None]:
    pruner = policy.pruner
    yield
    policy.pruner = pruner


def test_a_chunk_and_the_time_of_every_stage(policy):
    chunk = policy.infer(observations(policy, 1)[0])
    assert chunk.actions.shape == (6, 4)
    assert chunk.actions.dtype == np.float32
    assert chunk.trace is None
    assert list(chunk.timings_ms) == ["vision", "prune", "prefill", "denoise", "total"]
    assert chunk.timings_ms["total"] >= sum(v for k, v in chunk.timings_ms.items() if k != "total")


def test_a_batch_gives_what_its_samples_give_alone(policy):
    frames = observations(policy, 3)
    frames[1] = replace(frames[1], prompt="open the drawer")  # a shorter prompt: rows of unequal length
    noise = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    together = policy.infer_batch(frames, noise)
    for frame, x, chunk in zip(frames, noise, together, strict=True):
        np.testing.assert_allclose(policy.infer(frame, x).actions, chunk.actions, atol=2e-5)


def test_evidence_is_in_original_coordinates_and_changes_no_action(policy):
    frame = observations(policy, 1)[0]
    noise = np.zeros((6, 4), np.float32)
    plain = policy.infer(frame, noise)
    traced = policy.infer(frame, noise, evidence=TraceOptions(attn_layers=(0, -1), images=True, raw_score=True))
    np.testing.assert_array_equal(plain.actions, traced.actions)
    trace = traced.trace
    keep = trace.keep["keep_mask"]
    assert keep.shape == (32,)
    assert 0 < keep.sum() < 32
    kept = int(keep.sum())
    assert trace.seq_lens["pre_seq_len"] - trace.seq_lens["post_seq_len"] == 32 - kept
    assert trace.seq_lens["padded_seq_len"] == 32 + TINY.max_token_len
    assert trace.keep["raw_score"].shape == (32, 32)
    # The largest score that any query gives a patch, recomputed from the whole matrix.
    np.testing.assert_allclose(trace.keep["raw_score"].max(0), trace.keep["router_scores"], atol=1e-6)
    assert set(trace.attn) == {0, 1}
    for maps in trace.attn.values():
        assert maps.shape == (2, 32)
        assert (maps[:, ~keep] == 0).all()
        assert (maps.sum(1) <= 1 + 1e-5).all()
        assert (maps[:, keep] > 0).all()
    assert trace.model_images["corner"].shape == (56, 56, 3)


def test_actions_that_are_not_finite_are_an_error(policy):
    frames = observations(policy, 3)
    noise = np.zeros((3, 6, 4), np.float32)
    noise[1] = np.nan
    with pytest.raises(ActionsNotFinite, match="1 of 3 answers with actions that are not finite") as caught:
        policy.infer_batch(frames, noise)
    assert [bool(np.isfinite(chunk.actions).all()) for chunk in caught.value.chunks] == [True, False, True]
    with pytest.raises(FoveateError, match="not finite"):
        policy.infer(frames[1], noise[1])
    with pytest.raises(FoveateError, match="not finite"):
        policy.attend(frames[1:2], AttentionRequest(layers=(0,)), noise[1:2])


def test_without_pruning_everything_present_counts_as_kept(policy):
    policy.pruner = None
    trace = policy.infer(observations(policy, 1)[0], evidence=TraceOptions()).trace
    assert trace.keep["keep_mask"].all()
    assert "router_scores" not in trace.keep


def test_statistics_of_the_last_inference(policy):
    policy.pruner = make_pruner({"name": "stride", "keep_ratio": 0.25})
    policy.infer_batch(observations(policy, 2))
    stats = policy.get_token_pruning_stats()
    assert stats == {
        "enabled": True,
        "noise_scale": None,
        "last_kept_per_sample": [8, 8],
        "last_kept_per_view": {"corner": [4, 4], "gripperPOV": [4, 4]},
    }


def test_what_does_not_fit_is_named(policy, tmp_path):
    frame = observations(policy, 1)[0]
    with pytest.raises(FoveateError, match=r"noise: expected shape \(1, 6, 4\), got \(1, 5, 4\)"):
        policy.infer(frame, np.zeros((5, 4), np.float32))
    with pytest.raises(FoveateError, match="gripperPOV"):
        policy.infer(Observation({"corner": frame.images["corner"]}, frame.state, frame.prompt))
    with pytest.raises(FoveateError, match="no such checkpoint folder"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(FoveateError, match="attention layer 7: the backbone has layers 0 to 1"):
        policy.infer(frame, evidence=TraceOptions(attn_layers=(7,)))
    with pytest.raises(FoveateError, match=r"option of load_policy.*numsteps.*did you mean.*num_steps"):
        load_policy("metaworld_tiny", numsteps=3)


def test_the_same_generator_state_gives_the_same_actions(policy):
    frame = observations(policy, 1)[0]
    torch.manual_seed(3)
    first = policy.infer(frame).actions
    torch.manual_seed(3)
    np.testing.assert_array_equal(first, policy.infer(frame).actions)


def test_attention_maps_beside_the_actions(policy):
    """Pruned patches are not valid and hold nothing; the actions are those of an inference that nobody watches."""
    frames = observations(policy, 2)
    frames[1] = replace(frames[1], prompt="open the drawer")
    noise = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    plain = policy.infer_batch(frames, noise)
    traced = policy.infer_batch(frames, noise, evidence=TraceOptions(attn_layers=(1,)))
    both = policy.attend(frames, AttentionRequest((0, 1), ("prefix", "suffix")), noise)
    for b, (chunk, maps) in enumerate(both):
        np.testing.assert_allclose(chunk.actions, plain[b].actions, atol=1e-5)
        keep = traced[b].trace.keep["keep_mask"]
        assert 0 < keep.sum() < 32
        assert set(maps) == {"prefix", "suffix"}
        for phase, found in maps.items():
            assert (found.phase, found.layers, found.heads) == (phase, (0, 1), (0, 1))
            assert found.views == ("corner", "gripperPOV")
            np.testing.assert_array_equal(found.valid.ravel(), keep)
            assert found.maps.shape == (2, 2, 2, 4, 4) and found.maps.dtype == np.float16
            assert (found.maps[..., ~found.valid] == 0).all() and (found.maps[..., found.valid] > 0).all()
            assert (found.maps.astype(np.float32).sum((2, 3, 4)) < 1).all()
        expected = traced[b].trace.attn[1].reshape(2, 2, 4, 4).astype(np.float16)
        np.testing.assert_array_equal(maps["prefix"].maps[1], expected)
    (_, alone) = policy.attend(frames[:1], AttentionRequest((-1,), heads=(1,), tokens=True), noise[:1])[0]
    tokens = alone["prefix"].tokens
    assert "".join(tokens).startswith("<s>▁Task:▁push▁the▁puck") and len(tokens) == len(alone["prefix"].maps)
    np.testing.assert_allclose(alone["prefix"].maps.mean(0)[0, 0], both[0][1]["prefix"].maps[1, 1], atol=1e-3)


def test_the_borders_around_a_wide_picture_are_no_patches(policy):
    """40 x 80 pixels become 28 x 56 in the model's 56 x 56: of four rows of patches the outer two are black."""
    policy.pruner = None
    frame = observations(policy, 1)[0]
    wide = {**frame.images, "corner": np.full((40, 80, 3), 200, np.uint8)}
    maps = policy.attend([replace(frame, images=wide)], AttentionRequest((0,), ("prefix", "suffix")))[0][1]
    for found in maps.values():
        assert found.valid[0].all(1).tolist() == [False, True, True, False] and found.valid[1].all()
        assert (found.maps[..., 0, [0, 3], :] == 0).all() and (found.maps[..., 0, 1:3, :] > 0).all()
        assert found.maps.dtype == np.float16


def test_attention_that_cannot_be_is_named(policy):
    frame = observations(policy, 1)[:1]
    with pytest.raises(FoveateError, match="attention layer 2: the backbone has layers 0 to 1"):
        policy.attend(frame, AttentionRequest((2,)))
    with pytest.raises(FoveateError, match="attention head 2: the layers have heads 0 to 1"):
        policy.attend(frame, AttentionRequest((0,), heads=(2,)))


def test_a_device_that_is_not_here_is_one_sentence() -> None:
    with pytest.raises(FoveateError, match=r"device 'banana': .*foveate doctor"):
        load_policy("metaworld_tiny", device="banana")


def test_a_prefix_is_reused_while_the_scene_stands_still(policy: Policy) -> None:
    caching = Policy(policy.engine, policy.processor, policy.pruner, prefix_cache=PrefixReuse(pixels=0.01, state=0.1))
    frame, other = observations(policy, 2)
    noise = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)

    def reused(seen: Observation, session: str = "a") -> tuple[int, np.ndarray]:
        chunk = caching.infer(seen, noise, evidence=TraceOptions(), session=session)
        assert chunk.trace is not None and chunk.trace.keep is not None
        assert list(chunk.timings_ms) == ["vision", "prune", "prefill", "denoise", "total"]
        return chunk.trace.seq_lens["prefix_reused"], chunk.actions

    first = reused(frame)
    again = reused(frame)
    assert (first[0], again[0]) == (0, 1)
    np.testing.assert_array_equal(first[1], again[1])
    assert reused(frame, "b")[0] == 0, "another session has seen nothing"
    assert reused(other)[0] == 0, "another picture"
    assert reused(frame)[0] == 0, "the picture before the last"
    moved = replace(frame, state=frame.state + 0.2)
    assert reused(moved)[0] == 0 and reused(moved)[0] == 1
    caching.reset("a")
    assert reused(moved)[0] == 0
    assert "prefix_reused" not in policy.infer(frame, noise, evidence=TraceOptions(), session="a").trace.seq_lens
    assert caching.infer(moved, noise, session="a").timings_ms["vision"] == 0


def test_denoising_times_of_ones_own() -> None:
    policy = load_policy("metaworld_tiny", denoising_times=(1.0, 0.5))
    even = load_policy("metaworld_tiny", num_steps=2)
    uneven = load_policy("metaworld_tiny", denoising_times=(1.0, 0.2))
    assert policy.spec.num_steps == 2
    frame, noise = observations(even, 1)[0], np.zeros(even.spec.noise_shape, np.float32)
    expected = even.infer(frame, noise).actions
    np.testing.assert_allclose(policy.infer(frame, noise).actions, expected, atol=1e-6)
    assert np.abs(uneven.infer(frame, noise).actions - expected).max() > 1e-4
    for times, told in (((0.5, 1.0), "fall from at most 1"), ((1.0, 0.0), "fall"), ((), "fall"), ((2.0,), "fall")):
        with pytest.raises(FoveateError, match=told):
            load_policy("metaworld_tiny", denoising_times=times)
    with pytest.raises(FoveateError, match="num_steps 3 and 2 denoising times"):
        load_policy("metaworld_tiny", num_steps=3, denoising_times=(1.0, 0.5))


def test_a_chunk_is_guided_towards_what_is_left_of_the_one_before(policy):
    frames = observations(policy, 2)
    noise = np.random.default_rng(1).standard_normal((3, 2, 6, 4)).astype(np.float32)
    before = policy.infer_batch(frames, noise[0])[0].actions
    free = policy.infer_batch(frames, noise[1])
    left = LeftOver(before[2:], inference_delay=2)
    held = policy.infer_batch(frames, noise[1], left_over=[left, None])
    away = [np.abs(chunk.actions[:4] - before[2:]) for chunk in (free[0], held[0])]
    assert away[1][:2].mean() < 0.5 * away[0][:2].mean()
    assert away[1].mean() < away[0].mean()
    # Who has nothing left is guided nowhere.
    np.testing.assert_allclose(held[1].actions, free[1].actions, atol=2e-5)
    nothing = policy.infer_batch(frames, noise[1], left_over=[None, None])
    np.testing.assert_array_equal(nothing[0].actions, free[0].actions)
    with pytest.raises(FoveateError, match=r"prev_chunk_left_over: expected \[n, 4\], got shape \[4, 3\]"):
        policy.infer_batch(frames, noise[1], left_over=[replace(left, actions=before[2:, :3]), None])


def test_an_engine_without_gradients_says_so(policy, monkeypatch):
    monkeypatch.setattr(policy.engine, "_runs", {**policy.engine._runs, "denoise": lambda layer, *args: layer(*args)})
    monkeypatch.setattr(policy.engine, "_backends", {"denoise": "compiled"})
    with pytest.raises(FoveateError, match=r"'compiled' has no gradients.*--engine.denoise eager"):
        policy.infer_batch(observations(policy, 1), left_over=[LeftOver(np.zeros((3, 4), np.float32))])
