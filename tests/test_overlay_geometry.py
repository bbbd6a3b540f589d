"""Overlay and model input agree on where a patch lies."""

from __future__ import annotations

import numpy as np
import pytest

import foveate
from foveate.geometry import patch_axes
from foveate.models.common.images import resize_with_pad_pil
from foveate.models.openvla_oft.config import CROP
from foveate.policy import TraceOptions
from foveate.testing.openvla_oft import oft_observation, runnable_checkpoint
from foveate.tracing.record import View, read_record
from foveate.tracing.store import TraceStore, dump_paths
from foveate.types import Observation
from foveate.viz import overlay
from foveate.viz.attention import Sheet, Style
from foveate.viz.plots import load_images


def test_the_model_sees_the_painted_patch_where_the_overlay_says_it_is():
    """Paint the source by patch, resize as the model's input is, and look at each patch there."""
    view = View("corner", 0, (8, 8), slice(0, 64), model_hw=(112, 112))
    values = np.random.default_rng(0).integers(40, 250, 64).astype(np.uint8)
    painted = overlay.per_pixel(values, view, (240, 320))
    seen = resize_with_pad_pil(np.repeat(painted[..., None], 3, 2), 112, 112)[..., 0]
    centres = seen.reshape(8, 14, 8, 14)[:, 5:9, :, 5:9].astype(int)
    # Padding of 14 rows above and below: the outer patch rows are black.
    assert (centres[[0, 7]] == 0).all()
    assert np.abs(centres[1:7] - values.reshape(8, 1, 8, 1)[1:7]).max() <= 1


@pytest.mark.parametrize("hw", [(256, 256), (224, 224), (240, 320)])
def test_openvla_oft_sees_the_painted_patch_where_the_overlay_says_it_is(hw):
    """It stretches a picture to its square and cuts the middle out: the grid lies on the crop."""
    pytest.importorskip("simplejpeg")
    from foveate.models.openvla_oft.images import policy_picture

    view = View("image", 0, (16, 16), slice(0, 256), crop=CROP)
    values = np.random.default_rng(0).integers(60, 200, 256).astype(np.uint8)
    painted = overlay.per_pixel(values, view, hw)
    rim = round(hw[0] * (1 - CROP) / 2)
    assert (painted[:rim] == 0).all() and (painted[-rim:] == 0).all() and (painted[rim + 1] > 0).any()
    centres = policy_picture(np.repeat(painted[..., None], 3, 2), 224)[..., 0].reshape(16, 14, 16, 14)[:, 6:8, :, 6:8]
    away = np.abs(centres.astype(int) - values.reshape(16, 1, 16, 1))
    assert away.max() <= 12 and away.mean() < 3  # JPEG, and Lanczos' ringing; neighbours differ by 47 in the mean


def test_a_bright_patch_is_kept_where_it_is_bright(tmp_path):
    """From observation to overlay: patch 16 * 3 + 12 of the wrist alone is bright, and alone kept."""
    policy = foveate.load_policy(runnable_checkpoint(tmp_path / "oft"))
    keep = np.zeros(512, bool)
    keep[256 + 16 * 3 + 12] = True
    row, column = patch_axes((16, 16), (256, 256), crop=CROP)
    bright = (row == 3)[:, None] & (column == 12)
    images = {"image": np.full((256, 256, 3), 40, np.uint8)}
    images["wrist_image"] = np.where(bright[..., None], np.uint8(240), images["image"])
    observation = Observation(images, oft_observation().state, "put the bowl on the plate")
    seen = policy.processor.model_images(observation)["left_wrist_0_rgb"][..., 0]
    inside = np.zeros((224, 224), bool)
    inside[42:56, 168:182] = True
    assert seen[inside].mean() > 200 and seen[~inside].mean() < 45

    chunk = policy.infer(observation, keep=keep, evidence=TraceOptions())
    with TraceStore(tmp_path / "run", views=policy.spec.cameras, model_crop=policy.spec.crop) as store:
        store.submit(chunk.trace, observation, {"task_id": 0, "episode": 0, "step": 0})
    record = read_record(dump_paths(tmp_path / "run")[0], tmp_path / "run")
    stored = load_images(record)["left_wrist_0_rgb"]
    np.testing.assert_array_equal(stored, images["wrist_image"])  # the source picture, as the environment gave it
    drawn = overlay.mask(stored, record.keep_mask[256:], record.views[1])
    assert (drawn[bright] >= 240).all() and drawn[~bright].max() < 40


@pytest.mark.parametrize("smooth", [False, True])
def test_an_attention_map_lies_on_the_crop(smooth):
    picture = np.full((256, 256, 3), 128, np.uint8)
    grid = np.zeros((16, 16), np.float32)
    grid[3, 12] = 1.0
    style = Style(names=False, colorbar=False, smooth=smooth, alpha=1.0, size=(256, 256))
    drawn = np.asarray(Sheet({"v": picture}, (224, 224), style=style, crop=CROP).draw({"v": grid})).astype(int)
    row, column = patch_axes((16, 16), (256, 256), crop=CROP)
    coloured = np.ptp(drawn, axis=-1) > 8
    assert not coloured[row < 0].any() and not coloured[:, column < 0].any()
    hot = np.abs(drawn - drawn[(row == 3).argmax() + 7, (column == 12).argmax() + 7]).sum(-1) < 30
    ys, xs = np.nonzero(hot)
    middle = np.flatnonzero(row == 3).mean(), np.flatnonzero(column == 12).mean()
    assert abs(ys.mean() - middle[0]) <= 1 and abs(xs.mean() - middle[1]) <= 1
    if not smooth:
        expected = (row == 3)[:, None] & (column == 12)
        assert (hot ^ expected).mean() < 0.001
