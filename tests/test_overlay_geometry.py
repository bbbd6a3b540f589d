"""Overlay and model input agree on where a patch lies."""

from __future__ import annotations

import numpy as np

from foveate.models.common.images import resize_with_pad_pil
from foveate.tracing.record import View
from foveate.viz import overlay


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
