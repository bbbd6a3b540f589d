"""Overlays to the pixel: the patch of each source pixel, colours, dimming; and the files of a run."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.record import View, read_record
from foveate.tracing.store import dump_paths
from foveate.viz import overlay
from foveate.viz.plots import load_images, plot_run, spread


def view(grid=(4, 4), model=None, flips=(False, False)) -> View:
    return View("corner", 0, grid, slice(0, grid[0] * grid[1]), model_hw=model, flips=flips)


def test_heatmap_colours():
    image = np.full((4, 4, 3), 100, np.uint8)
    drawn = overlay.heatmap(image, np.array([0.0, 0.5, 1.0, np.nan]), view((2, 2)), (0.0, 1.0))
    lut = overlay.palette("viridis").astype(float)
    for (y, x), level in {(0, 0): 0, (0, 2): 128, (2, 0): 255, (3, 3): 0}.items():
        expected = overlay.STRENGTH * lut[level] + (1 - overlay.STRENGTH) * 100
        assert np.abs(drawn[y, x] - expected).max() <= 1


def test_palette_gets_brighter_from_end_to_end():
    for colors in ("viridis", "inferno", "magma"):
        luminance = overlay.palette(colors) @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(luminance) > -1).all() and luminance[-1] - luminance[0] > 150


def test_mask_keeps_dims_and_draws_the_border_inside():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    keep = np.zeros(16, bool)
    keep[5] = True
    drawn = overlay.mask(image, keep, view())
    assert np.array_equal(drawn[5:7, 5:7], image[5:7, 5:7])
    assert (drawn[4, 4:8] >= 165).all() and (drawn[7, 4:8] >= 165).all()
    dropped = np.ones((16, 16), bool)
    dropped[4:8, 4:8] = False
    assert drawn[dropped].max() <= overlay.DIM * 255
    assert np.array_equal(overlay.mask(image, np.ones(16, bool), view()), image)


def test_rings_mark_where_tokens_were_sampled():
    """Two places of a 4 x 4 grid on a picture twice as wide as high: the model saw it between borders."""
    image = np.zeros((32, 64, 3), np.uint8)
    keep = np.zeros(16, bool)
    keep[[5, 10]] = True
    places = np.zeros((16, 2))
    places[5], places[10] = (1.5, 1.5), (2.25, 2.75)
    drawn = overlay.mask(image, keep, view(model=(32, 32)), places)
    ring = (drawn == overlay.RING).all(-1)
    # Rows 1 to 3 of the grid hold the picture: a patch is 16 pixels wide and high.
    for y, x in ((8, 24), (20, 44)):
        rows, columns = ring[y - 4 : y + 4, x - 4 : x + 4].nonzero()
        assert len(rows) > 8 and (rows + 0.5).mean() == (columns + 0.5).mean() == 4
        ring[y - 4 : y + 4, x - 4 : x + 4] = False
    assert not ring.any()


def test_colorbar_leaves_the_picture_alone():
    image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    drawn = overlay.with_colorbar(image, (0.0, 2.5), "viridis")
    assert drawn.shape[0] == 120 and drawn.shape[1] > 90
    assert np.array_equal(drawn[:, :90], image)
    assert (drawn[5, 96] == overlay.palette("viridis")[-1]).all()


def test_value_range_of_odd_values():
    assert overlay.value_range(np.array([1.0, -np.inf, 3.0, np.nan])) == (1.0, 3.0)
    assert overlay.value_range(np.array([2.0, 2.0])) == (2.0, 3.0)
    assert overlay.value_range(np.array([np.nan])) == (0.0, 1.0)


def test_captioned_row_cuts_a_long_title():
    picture = np.zeros((50, 80, 3), np.uint8)
    drawn = overlay.captioned_row({"corner": picture, "wrist": picture}, "word " * 200, height=100)
    assert drawn.shape == (164, 2 * 160 + 30, 3)


def test_spread_keeps_both_ends():
    assert spread(range(10), None) == list(range(10))
    assert spread(range(10), 3) == [0, 4, 9]
    assert spread([1], 3) == [1]


def test_plots_of_a_run(tmp_path):
    run = write_run(tmp_path, tasks=("reach",), episodes=1, queries=3, side=(60, 80))
    damaged = dump_paths(run)[1]
    damaged.write_bytes(b"x")
    ticks: list[int] = []
    plotted = plot_run(run, on_inference=lambda: ticks.append(1))
    assert (plotted.inferences, plotted.files, len(ticks)) == (2, 2 * 2 * 4, 3)
    assert "step00005.pt: not a readable dump" in plotted.unreadable[0]
    record = read_record(dump_paths(run)[2], run)
    images = load_images(record)
    with Image.open(run / "plots/mask_heatmap/task000_ep000_step00010__img1.png") as drawn:
        expected = overlay.mask(images["gripperPOV"], record.keep_mask[64:], record.views[1])
        assert np.array_equal(np.asarray(drawn), expected)
    assert (run / "plots/score_heatmap/task000_ep000_step00000__img0.png").exists()
    with Image.open(run / "plots/attn_task_to_vis/layer02/task000_ep000_step00000__img0.png") as drawn:
        assert drawn.size[1] == 60 and drawn.size[0] > 80
    assert plot_run(run, limit=1).left_out == 2


def test_a_run_without_pictures_says_so_and_a_damaged_picture_is_named(tmp_path):
    run = write_run(tmp_path, tasks=("reach",), episodes=1, queries=2, side=(60, 80))
    pictures = sorted((run / "images").rglob("*.png"))
    pictures[0].write_bytes(b"x")
    for picture in pictures[2:]:
        picture.unlink()
    plotted = plot_run(run)
    assert "step00000__img0.png: not a readable picture" in plotted.unreadable[0]
    assert plotted.without_pictures == 1


def test_plots_that_cannot_be_written_stop(tmp_path):
    run = write_run(tmp_path, tasks=("reach",), episodes=1, queries=2, side=(60, 80))
    (run / "plots").write_text("in the way")
    with pytest.raises(FoveateError, match="overlays cannot be written"):
        plot_run(run)
