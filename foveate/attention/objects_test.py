"""Every number worked out by hand; the picture and its padding to the pixel."""

import math

import numpy as np
import pytest

from foveate.attention.objects import (
    ANY,
    Cells,
    centre_map,
    choose_objects,
    count_cells,
    episode_means,
    measure,
    shuffled,
    study_picture,
)  # fmt: skip
from foveate.attention.objects_aggregate import aggregate
from foveate.errors import FoveateError
from foveate.geometry import patch_axes
from foveate.types import AttentionMaps


def test_metrics_by_hand():
    # Four patches of 10, 10, 10, 5 pixels; the mask holds 10 of the first, 2 of the second.
    cells = Cells(np.array([10, 10, 10, 5]), np.array([10, 2, 0, 0]))
    m = np.array([0.4, 0.2, 0.1, 0.2])
    got = measure(m, cells)
    mass, on = 4 + 2 + 1 + 1, 4 + 0.4
    assert got["overlap"] == pytest.approx(on / mass)
    assert got["concentration"] == pytest.approx((on / 12) / ((mass - on) / 23))
    # 0.3 * 0.4 = 0.12: all but the third patch is bright, 25 pixels, 12 of them in the mask of 12.
    assert got["iou"] == pytest.approx(12 / 25)
    stacked = measure(np.stack([m, 2 * m, m[::-1]]), cells)
    assert stacked["iou"].shape == (3,) and stacked["overlap"][1] == pytest.approx(on / mass)


def test_what_has_no_value_is_nan():
    cells = Cells(np.array([4, 4]), np.array([4, 0]))
    assert all(math.isnan(v) for v in measure(np.zeros(2), cells).values())
    assert all(math.isnan(v) for v in measure(np.ones(2), Cells(np.array([4, 4]), np.zeros(2, int))).values())
    whole = measure(np.ones(2), Cells(np.array([4, 4]), np.array([4, 4])))
    assert whole["overlap"] == whole["iou"] == 1 and math.isnan(whole["concentration"])
    only = measure(np.array([1.0, 0.0]), cells)
    assert only["overlap"] == only["iou"] == 1 and math.isnan(only["concentration"])


def test_padding_has_no_pixels_and_no_say():
    # 40 x 20 into 28 x 28: rows 1 and 2 of four hold the picture, 10 x 10 source pixels per patch.
    axes = patch_axes((4, 4), (20, 40), (28, 28))
    mask = np.zeros((20, 40), bool)
    mask[5:15, 8:13] = True
    cells = count_cells(mask, axes, (4, 4))
    assert cells.total.reshape(4, 4).tolist() == [[0] * 4, [100] * 4, [100] * 4, [0] * 4]
    assert cells.inside.reshape(4, 4).tolist() == [[0] * 4, [10, 15, 0, 0], [10, 15, 0, 0], [0] * 4]
    m = np.full((4, 4), 9.0)  # much attention on the padding
    m[1:3] = 1.0
    got = measure(m.ravel(), cells)
    assert got["overlap"] == pytest.approx(50 / 800) and got["concentration"] == pytest.approx(1.0)
    assert got["iou"] == pytest.approx(50 / 800), "the maximum is taken on the picture"


def test_metrics_equal_those_of_the_enlarged_map():
    """The same numbers pixel by pixel, in float64, at a size that does not divide evenly."""
    rng = np.random.default_rng(0)
    hw, grid = (37, 61), (5, 4)
    row, column = axes = patch_axes(grid, hw, (56, 56))
    m, mask = rng.random(grid), rng.random(hw) < 0.3
    big = m[row[:, None], column[None]]
    got = measure(m.ravel(), count_cells(mask, axes, grid))
    assert got["overlap"] == pytest.approx(big[mask].sum() / big.sum())
    assert got["concentration"] == pytest.approx(big[mask].mean() / big[~mask].mean())
    bright = big >= 0.3 * big.max()
    assert got["iou"] == pytest.approx((bright & mask).sum() / (bright | mask).sum())


def test_shuffling_gives_chance():
    cells = Cells(np.full(16, 4), np.array([4] * 4 + [0] * 12))
    peaked = np.zeros(16)
    peaked[:4] = 1.0
    assert measure(peaked, cells)["overlap"] == 1
    valid = np.ones(16, bool)
    null = shuffled(peaked, cells, valid, 500, np.random.default_rng(0))
    assert null["overlap"] == pytest.approx(4 / 16, abs=0.02)
    valid[8:] = False  # values stay among the first eight patches: half of those are the object
    null = shuffled(peaked, cells, valid, 500, np.random.default_rng(0))
    assert null["overlap"] == pytest.approx(4 / 8, abs=0.03)


def test_centre_map_is_a_gaussian_of_the_picture():
    axes = patch_axes((4, 4), (20, 40), (28, 28))
    m = centre_map(axes, (4, 4)).reshape(4, 4)
    assert (m[0] == 0).all() and (m[3] == 0).all()
    # Patch middles lie at 1/8, 3/8 ... of the width and at 1/4, 3/4 of the height.
    assert m[1, 0] == pytest.approx(math.exp(-(1.5**2) / 2) * math.exp(-(1.0**2) / 2))
    assert m[1, 1] == pytest.approx(math.exp(-(0.5**2) / 2) * math.exp(-(1.0**2) / 2))


def maps():
    values = np.zeros((2, 2, 1, 2, 2), np.float16)
    values[0, :, 0, 0, 0] = 0.5  # layer 0 looks at the upper left
    values[1] = 0.25
    return AttentionMaps("prefix", (1, 5), (0, 1), ("side",), values, np.ones((1, 2, 2), bool))


def test_study_of_a_picture():
    mask, other = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    mask[:4, :4], other[4:, 4:] = True, True
    rows = study_picture(maps(), "side", {"cube": mask, "bowl": other}, (8, 8), (8, 8), 50, np.random.default_rng(0))
    by = {row["object"]: row for row in rows}
    assert list(by) == ["cube", "bowl", ANY]
    assert by["cube"]["overlap"]["layer"] == [1.0, 0.25] and by["bowl"]["overlap"]["layer"] == [0.0, 0.25]
    assert by[ANY]["area"] == 0.5 and by[ANY]["overlap"]["layer"] == [1.0, 0.5]
    assert by["cube"]["overlap"]["heads"] == [[1.0, 1.0], [0.25, 0.25]]
    assert by["cube"]["overlap"]["shuffled"][1] == pytest.approx(0.25)
    assert by["cube"]["overlap"]["centre"] == pytest.approx(0.25)
    assert by["cube"]["iou"]["layer"] == [1.0, 0.25]
    with pytest.raises(FoveateError, match="only side"):
        study_picture(maps(), "wrist", {}, (8, 8), (8, 8), 1, np.random.default_rng(0))
    empty = study_picture(maps(), "side", {"cube": ~mask & mask}, (8, 8), (8, 8), 1, np.random.default_rng(0))
    (mean, _) = episode_means([rows[0], empty[0], rows[2]])
    assert mean["pictures"] == 2 and mean["overlap"]["layer"] == [1.0, 0.25], "an empty mask counts for nothing"


def test_choice_of_objects():
    masks = {"cube": None, "robot": None}
    assert choose_objects(masks, (), ("robot",)) == ["cube"]
    assert choose_objects(masks, ("robot", "cup"), ("robot",)) == ["robot"]


def episode(name, outcome, overlap):
    metric = {"layer": overlap, "heads": [[v] for v in overlap], "shuffled": [0.1] * len(overlap), "centre": 0.2}
    row = {"view": "wrist", "object": ANY, "overlap": metric, "concentration": metric, "iou": metric}
    return {"episode": name, "outcome": outcome, "layers": [1, 5], "means": [row]}


def test_aggregate_by_hand():
    high = [episode(f"s{i}", "success", [0.5 + i / 100, 0.3]) for i in range(3)]
    low = [episode(f"f{i}", "failure", [0.2 + i / 100, 0.3]) for i in range(3)]
    rows = {(r["metric"], r["layer"]): r for r in aggregate([*high, *low])}
    first, second = rows["overlap", 1], rows["overlap", 5]
    assert first["count"] == 6 and first["mean"] == pytest.approx((0.51 + 0.21) / 2)
    assert first["success"]["mean"] == pytest.approx(0.51) and first["success"]["std"] == pytest.approx(0.01)
    assert first["shuffled"] == pytest.approx(0.1) and first["gain"] == pytest.approx(0.26)
    assert first["p"] == pytest.approx(2 / 20) and first["p_holm"] == pytest.approx(4 / 20)
    assert second["p"] == 1.0 and second["p_holm"] == 1.0
    only = aggregate(high)[0]
    assert math.isnan(only["p"]) and only["failure"]["count"] == 0
    with pytest.raises(FoveateError, match="'cup' is in no picture"):
        aggregate(high, "cup")
    with pytest.raises(FoveateError, match="different layers"):
        aggregate([high[0], {**low[0], "layers": [1]}])
