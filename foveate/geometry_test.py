import numpy as np
import pytest

from foveate.geometry import ResizeGeometry, at_pixels, patch_axes


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


def test_patch_axes_by_hand():
    row, column = patch_axes((2, 4), (4, 8))
    assert row.tolist() == [0, 0, 1, 1]
    assert column.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # 4 x 8 pixels in a square of 8: two rows of padding above and below, one patch row each.
    row, column = patch_axes((4, 4), (4, 8), (8, 8))
    assert row.tolist() == [1, 1, 2, 2]
    assert column.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    row, column = patch_axes((4, 4), (4, 8), (8, 8), (True, True))
    assert row.tolist() == [2, 2, 1, 1]
    assert column.tolist() == [3, 3, 2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("source", [(224, 224), (480, 640), (640, 480), (97, 301), (180, 320), (15, 20)])
@pytest.mark.parametrize(("model", "grid"), [(224, 16), (112, 8), (224, 7)])
def test_patch_of_every_pixel_against_the_plain_formula(source, model, grid):
    ratio = max(source[1] / model, source[0] / model)
    inside = [int(source[0] / ratio), int(source[1] / ratio)]
    expected = []
    for size, part in zip(source, inside, strict=True):
        position = (np.arange(size) + 0.5) * part / size + (model - part) // 2
        expected.append(np.floor((position / (model / grid)).round(9)).astype(int))
    row, column = patch_axes((grid, grid), source, (model, model))
    assert row.tolist() == expected[0].tolist()
    assert column.tolist() == expected[1].tolist()


def test_of_a_cropped_picture_the_rim_is_nobodys():
    row, column = patch_axes((2, 4), (8, 16), crop=0.5)
    assert row.tolist() == [-1, -1, 0, 0, 1, 1, -1, -1]
    assert column.tolist() == [-1] * 4 + [0, 0, 1, 1, 2, 2, 3, 3] + [-1] * 4
    row, column = patch_axes((2, 2), (8, 4), flips=(True, False), crop=0.5)
    assert row.tolist() == [-1, -1, 1, 1, 0, 0, -1, -1] and column.tolist() == [-1, 0, 1, -1]
    assert at_pixels(np.array([[3, 4], [5, 6]]), (np.array([1, -1]), np.array([-1, 0, 1]))).tolist() == [
        [0, 5, 6],
        [0, 0, 0],
    ]
