"""Numbers by hand for the measures."""

import math

import numpy as np
import pytest

from foveate.attention.fidelity import area_below, distances
from foveate.attention.fidelity_pruner import study_pruner, summarise_pruner
from foveate.attention.occlude import Cover, areas_of, choose
from foveate.errors import FoveateError
from foveate.geometry import patch_axes


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


def test_pruner():
    weights = np.array([5.0, 1, 0, 0, 0, 0])

    def keep(masks):
        return [np.full((2, 1), (weights * mask).sum()) for mask in masks]

    valid = np.array([True] * 5 + [False])
    kept = np.array([True, True, False, False, False, False])
    row = study_pruner(keep, kept, valid, 6, [0])
    assert (row["kept"], row["patches"]) == (2, 5)
    assert row["drop_kept"]["mse"] == 36 and row["drop_dropped"]["mse"] == 0
    means = {k: v["mean"] for k, v in summarise_pruner([{"episode": "a", **row}])["metrics"]["mse"].items()}
    assert means["kept_matters"] > 0 > means["dropped_matters"]
    with pytest.raises(FoveateError, match="keeps 5 of 5"):
        study_pruner(keep, valid, valid, 1, [0])
