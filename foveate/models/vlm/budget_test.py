from __future__ import annotations

import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.models.vlm.budget import VisionBudget, resize, target_size

TINY = VisionBudget(coarse_long_side=16, full_long_side=64, patch_size=16)


def test_long_side_and_whole_tokens():
    assert target_size(64, 64, "FULL", TINY) == (64, 64)
    assert target_size(64, 64, "COARSE", TINY) == (16, 16)
    assert target_size(128, 70, "FULL", TINY) == (64, 32)  # 64 x 35 -> two rows of tokens
    assert target_size(300, 10, "FULL", TINY) == (64, 16)  # never less than one token


def test_a_small_picture_is_not_enlarged():
    assert target_size(40, 30, "FULL", VisionBudget(full_long_side=448)) == (40, 30)


def test_area_and_token_cap():
    assert target_size(1000, 1000, "FULL", VisionBudget(full_max_pixels=10_000)) == (100, 100)
    w, h = target_size(640, 480, "FULL", VisionBudget(patch_size=32, token_cap=100))
    assert (w // 32) * (h // 32) <= 100
    assert abs(w / h - 4 / 3) < 0.2
    w, h = target_size(3200, 32, "FULL", VisionBudget(full_long_side=3200, patch_size=32, token_cap=10))
    assert (w, h) == (320, 32)


def test_a_cap_says_nothing_about_pixels_where_no_patch_is_known():
    assert target_size(640, 480, "FULL", VisionBudget(token_cap=1024)) == (640, 480)


def test_resize_gives_that_size_and_leaves_equal_sizes_alone():
    image = Image.new("RGB", (64, 64), (10, 20, 30))
    assert resize(image, "FULL", TINY) is image
    small = resize(image, "COARSE", TINY)
    assert small.size == (16, 16)
    assert small.getpixel((3, 3)) == (10, 20, 30)


def test_contradictions():
    with pytest.raises(FoveateError, match="is larger than FULL"):
        VisionBudget(coarse_long_side=512, full_long_side=256)
    with pytest.raises(FoveateError, match="token_cap"):
        VisionBudget(token_cap=0)
    with pytest.raises(FoveateError, match="level NO"):
        target_size(8, 8, "NO", TINY)
