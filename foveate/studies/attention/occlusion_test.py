"""A policy whose actions are known to hang on one corner of one view."""

from types import SimpleNamespace

import numpy as np
import pytest

from foveate.attention.fidelity import rank, summarise, summarise_curves
from foveate.errors import FoveateError
from foveate.studies.attention.occlusion import Frame, OcclusionConfig, choose_views, layer_maps, occlude
from foveate.types import ActionChunk, AttentionMaps, Observation


def test_choice_of_views():
    views = ("base_0_rgb", "left_wrist_0_rgb")
    assert choose_views("both", views) == views
    assert choose_views("side", views) == views[:1] and choose_views("wrist", views) == views[1:]
    assert choose_views("base_0_rgb", views) == views[:1]
    with pytest.raises(FoveateError, match="no wrist view"):
        choose_views("wrist", ("corner",))
    with pytest.raises(FoveateError, match="did you mean"):
        choose_views("sied", views)


def maps_of(values, valid=None):
    """AttentionMaps of [layer, head, view, h, w]."""
    values = np.asarray(values, np.float16)
    layers, heads, views = range(values.shape[0]), range(values.shape[1]), ("side", "wrist")[: values.shape[2]]
    there = np.ones(values.shape[2:], bool) if valid is None else valid
    return AttentionMaps("prefix", tuple(layers), tuple(heads), tuple(views), values, there)


def test_active_head_is_the_one_of_the_greatest_variance():
    values = np.zeros((1, 2, 1, 2, 2))
    values[0, 0], values[0, 1, 0, 0, 0] = 0.25, 1.0
    assert layer_maps(maps_of(values), "active")[0]["side"].tolist() == [[1, 0], [0, 0]]
    assert layer_maps(maps_of(values), "mean")[0]["side"].tolist() == [[0.625, 0.125], [0.125, 0.125]]


class CornerPolicy:
    """Its actions are the mean brightness of the side view's upper left quarter; layer 0 says so, layer 1 lies."""

    spec = SimpleNamespace(noise_shape=(3, 2), image_size=16, crop=None, cameras={"side": ("cam",), "wrist": ("hand",)})

    def __init__(self):
        self.noises = []

    def infer_batch(self, observations, noise=None):
        self.noises += list(noise)
        means = [float(o.images["cam"][:8, :8].mean()) for o in observations]
        return [ActionChunk(np.tile([m, 100.0], (3, 1)).astype(np.float32)) for m in means]

    def attend(self, observations, request, noise=None):
        truth = np.zeros((2, 1, 2, 4, 4))
        truth[0, 0, :, :2, :2] = truth[1, 0, :, 2:, 2:] = 0.25
        truth += np.arange(16).reshape(4, 4) * 1e-4
        return [(self.infer_batch(observations, noise)[0], {"prefix": maps_of(truth)})]


def study(config, frames=2):
    policy = CornerPolicy()
    rows, curves = [], []
    for index in range(frames):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        image[:8, :8] += 180
        observation = Observation({"cam": image, "hand": image[::-1].copy()}, np.zeros(2), "go")
        done = occlude(policy, Frame(f"e{index}", 8 * index, observation), config)
        rows += [{"episode": f"e{index}", **row} for row in done.effects]
        curves += [{"episode": f"e{index}", **row} for row in done.curves]
    return policy, rows, curves, done


def test_the_true_layer_is_found():
    policy, rows, curves, last = study(OcclusionConfig(layers=(0, 1), percentile=75, draws=4, batch=5), frames=5)
    summary = summarise(rows)
    assert [(r["views"], r["layer"]) for r in summary] == [(v, n) for v in ("both", "side", "wrist") for n in (0, 1)]
    ranking = rank(summary, "side")
    assert [r["layer"] for r in ranking] == [0, 1] and ranking[0]["proven"] and not ranking[1]["proven"]
    assert ranking[0]["wins"] == 1.0
    by = {(r["views"], r["layer"]): r for r in summary}
    # Covering the wrist view changes nothing, whatever the map says; a quarter of the area is covered.
    assert by["wrist", 0]["metrics"]["mse"]["high"]["mean"] == 0
    assert by["side", 0]["area"] == {"high": 0.25, "low": 0.25, "random": 0.25}
    # The first action dimension moves, the second is constant.
    dims = by["side", 0]["dims"]["mse"]
    assert dims["high"][0] > 1000 and dims["high"][1] == 0
    high = last.covered["side", 0]["high"]["side"]
    assert high[:2, :2].all() and high.sum() == 4
    assert not (high & last.covered["side", 0]["random"]["side"]).any()
    gaps = {c["layer"]: c["gap"]["mean"] for c in summarise_curves(curves)}
    assert gaps[0] > gaps[None] > gaps[1]
    per_frame = len(policy.noises) // 5
    assert all((n == policy.noises[0]).all() for n in policy.noises[:per_frame]), "matched noise"
    assert (policy.noises[0] != policy.noises[per_frame]).any()


def test_deletion_and_insertion_meet_at_their_ends():
    _, _, curves, _ = study(OcclusionConfig(layers=(0,), views=("side",), draws=1, curve_points=5), frames=1)
    for row in curves:
        assert row["shares"] == [0, 0.25, 0.5, 0.75, 1]
        assert row["deletion"][0] == row["insertion"][-1] == 0
        assert row["deletion"][-1] == row["insertion"][0] > 0
    true = next(row for row in curves if row["layer"] == 0)
    # All that counts is the first quarter.
    assert true["deletion"][1] == pytest.approx(true["deletion"][-1])
    assert true["insertion"][1] == 0


def test_the_config_rejects_nonsense():
    with pytest.raises(FoveateError, match="percentile"):
        OcclusionConfig(layers=(0,), percentile=100)
    with pytest.raises(FoveateError, match="did you mean 'noise'"):
        OcclusionConfig(layers=(0,), fill="nois")
