"""Numbers by hand for the measures, and a policy whose actions are known to hang on one corner of one view."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.attention.fidelity import area_below, distances, rank, summarise, summarise_curves
from foveate.attention.fidelity_pruner import study_pruner, summarise_pruner
from foveate.attention.occlude import Cover, areas_of, choose
from foveate.errors import FoveateError
from foveate.geometry import patch_axes
from foveate.studies.attention.fidelity_run import Frame, Plan, Sight, choose_views, layer_maps, study_frame
from foveate.types import ActionChunk, AttentionMaps, Observation


def test_distances_by_hand():
    a, b = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 0.0], [0.0, 8.0]])
    d = distances(a, b)
    assert d["mse"] == pytest.approx((9 + 16) / 4)
    # <a, b> = 32, <b, b> = 64: s = 1/2, what is left is the 3.
    assert d["si_mse"] == pytest.approx(9 / 4)
    assert d["scale"] == pytest.approx(8 / 5 - 1)
    assert d["direction"] == pytest.approx(1 - 32 / (5 * 8))
    per = distances(a, b, per_dim=True)
    np.testing.assert_allclose(per["mse"], [4.5, 8.0])
    np.testing.assert_allclose(per["si_mse"], [4.5, 0.0])
    np.testing.assert_allclose(per["direction"], [1.0, 0.0])
    np.testing.assert_allclose(per["scale"], [1.0, 1.0])


def test_distances_at_zero():
    zero, one = np.zeros((2, 1)), np.ones((2, 1))
    assert all(v == 0 for v in distances(zero, zero).values())
    assert distances(zero, one)["direction"] == 1 and math.isnan(distances(zero, one)["scale"])
    assert distances(one, zero)["si_mse"] == 1 and distances(one, zero)["scale"] == 1


def test_area_below():
    assert area_below(np.array([0, 0.5, 1]), np.array([0.0, 1, 1])) == pytest.approx(0.75)


def test_choose_takes_area_not_numbers():
    areas = np.array([[2, 4], [0, 4]])
    assert choose(np.array([[9, 5], [99, 1]]), areas, 0.2).tolist() == [[True, False], [False, False]]
    assert choose(np.array([[9, 5], [99, 1]]), areas, 0.6).tolist() == [[True, True], [False, False]]
    assert choose(np.array([[-np.inf, 5], [99, 1]]), areas, 0.4).tolist() == [[False, True], [False, False]]
    assert choose(np.ones((2, 2)), areas, 0.01).sum() == 1, "at least one"


def test_covering_is_right_to_the_pixel_under_padding():
    # 40 x 20 into 28 x 28: 14 rows of picture with 7 rows of padding above and below; patches of 7 pixels.
    axes = patch_axes((4, 4), (20, 40), (28, 28))
    areas = areas_of(axes, (4, 4))
    assert areas.tolist() == [[0] * 4, [100] * 4, [100] * 4, [0] * 4]
    image = np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)
    marked = np.zeros((4, 4), bool)
    marked[1, 2] = marked[0, 0] = True
    covered = Cover(image, axes, "mean", 0)(marked)
    changed = (covered != image).any(-1)
    expected = np.zeros((20, 40), bool)
    expected[:10, 20:30] = True
    assert not changed[~expected].any() and changed[expected].mean() > 0.95
    assert (covered[expected] == image.reshape(-1, 3).mean(0).round()).all()


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_fill_without_effect_is_an_error(fill):
    plain = np.full((8, 8, 3), 90, np.uint8)
    axes = patch_axes((2, 2), (8, 8), (8, 8))
    with pytest.raises(FoveateError, match=r"leaves the picture as it was.*--fill noise"):
        Cover(plain, axes, fill, 0, "frame 3")(np.ones((2, 2), bool))
    assert (Cover(plain, axes, "noise", 0)(np.ones((2, 2), bool)) != plain).any()


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

    config = SimpleNamespace(action_dim=2, vision=SimpleNamespace(image_size=16))
    spec = SimpleNamespace(action_horizon=3)
    processor = SimpleNamespace(robot=SimpleNamespace(views={"side": ("cam",), "wrist": ("hand",)}))

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


def study(plan, frames=2):
    policy = CornerPolicy()
    rows, curves = [], []
    for index in range(frames):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        image[:8, :8] += 180
        observation = Observation({"cam": image, "hand": image[::-1].copy()}, np.zeros(2), "go")
        done = study_frame(policy, Sight.of(policy), Frame(f"e{index}", 8 * index, observation), plan)
        rows += [{"episode": f"e{index}", **row} for row in done.effects]
        curves += [{"episode": f"e{index}", **row} for row in done.curves]
    return policy, rows, curves, done


def test_the_true_layer_is_found():
    policy, rows, curves, last = study(Plan(layers=(0, 1), percentile=75, draws=4, batch=5), frames=5)
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
    _, _, curves, _ = study(Plan(layers=(0,), views=("side",), draws=1, curve_points=5), frames=1)
    for row in curves:
        assert row["shares"] == [0, 0.25, 0.5, 0.75, 1]
        assert row["deletion"][0] == row["insertion"][-1] == 0
        assert row["deletion"][-1] == row["insertion"][0] > 0
    true = next(row for row in curves if row["layer"] == 0)
    # All that counts is the first quarter.
    assert true["deletion"][1] == pytest.approx(true["deletion"][-1])
    assert true["insertion"][1] == 0


def test_plan_rejects_nonsense():
    with pytest.raises(FoveateError, match="percentile"):
        Plan(layers=(0,), percentile=100)
    with pytest.raises(FoveateError, match="did you mean 'noise'"):
        Plan(layers=(0,), fill="nois")


def test_pruner():
    weights = np.array([5.0, 1, 0, 0, 0, 0])

    def keep(observation, noise, masks):
        return [np.full((2, 1), (weights * mask).sum()) for mask in masks]

    valid = np.array([True] * 5 + [False])
    kept = np.array([True, True, False, False, False, False])
    row = study_pruner(keep, None, np.zeros((2, 1)), kept, valid, 6, [0])
    assert (row["kept"], row["patches"]) == (2, 5)
    assert row["drop_kept"]["mse"] == 36 and row["drop_dropped"]["mse"] == 0
    means = {k: v["mean"] for k, v in summarise_pruner([{"episode": "a", **row}])["metrics"]["mse"].items()}
    assert means["kept_matters"] > 0 > means["dropped_matters"]
    with pytest.raises(FoveateError, match="keeps 5 of 5"):
        study_pruner(keep, None, np.zeros((2, 1)), valid, valid, 1, [0])
