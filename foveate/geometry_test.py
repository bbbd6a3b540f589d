import numpy as np
import pytest

from foveate.geometry import ResizeGeometry


def test_wide_image_is_padded_above_and_below() -> None:
    geometry = ResizeGeometry((100, 200), (224, 224))
    assert geometry.resized_hw == (112, 224)
    assert geometry.pad == (0, 0, 56, 56)
    assert geometry.scale == pytest.approx((1.12, 1.12))
    boxes = geometry.patch_boxes((4, 4)).reshape(4, 4, 4)
    np.testing.assert_allclose(boxes[1, 0], [0, 0, 50, 50])
    np.testing.assert_allclose(boxes[2, 3], [150, 50, 200, 100])
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    assert (areas[0] == 0).all() and (areas[3] == 0).all()
    assert areas.sum() == pytest.approx(100 * 200)


def test_odd_padding_goes_right_and_below() -> None:
    assert ResizeGeometry((224, 223), (224, 224)).pad == (0, 1, 0, 0)
    assert ResizeGeometry((223, 224), (224, 224)).pad == (0, 0, 0, 1)


def test_same_size_is_the_plain_grid() -> None:
    boxes = ResizeGeometry((224, 224), (224, 224)).patch_boxes((16, 16))
    np.testing.assert_allclose(boxes[17], [14, 14, 28, 28])


@pytest.mark.parametrize("hw", [(480, 640), (720, 1280), (37, 91), (300, 7)])
def test_boxes_tile_the_source(hw: tuple[int, int]) -> None:
    boxes = ResizeGeometry(hw, (224, 224)).patch_boxes((16, 16))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(hw[0] * hw[1])


def test_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        ResizeGeometry((0, 5), (224, 224))
