"""Masks from files in every documented form. The compressed texts were made with pycocotools 2.0.11."""

import json

import numpy as np
import pytest
from PIL import Image

from foveate.data.masks.rle import decode_counts, decode_polygons, decode_rle
from foveate.data.masks.source import open_masks
from foveate.errors import FoveateError

IMAGE = np.zeros((5, 7, 3), np.uint8)
RING = np.zeros((5, 7), bool)
RING[1:4, 2:5] = True
RING[2, 3] = False
RING_TEXT = ";32NO0129"
ELLIPSE_TEXT = "U3c0U3000[h0f0gVO`0B<F8I6J6K4L4M2O00000001N3L4L5J6J7H:D>@hP1"


def test_rle_of_a_ring_by_hand():
    # Column by column: 11 out, 3 in, 2 out, 1 in, 1 out, 1 in, 2 out, 3 in, 11 out.
    counts = [11, 3, 2, 1, 1, 1, 2, 3, 11]
    assert decode_counts(RING_TEXT) == counts
    for said in (counts, RING_TEXT):
        np.testing.assert_array_equal(decode_rle({"size": [5, 7], "counts": said}), RING)


def test_rle_of_a_large_mask():
    y, x = np.mgrid[:120, :40]
    mask = ((y - 60) ** 2 / 50**2 + (x - 20) ** 2 / 11**2 < 1) | ((y > 100) & (x < 3))
    np.testing.assert_array_equal(decode_rle({"size": [120, 40], "counts": ELLIPSE_TEXT}), mask)


def test_rle_that_does_not_fit():
    for rle, said in (
        ({"size": [5, 8], "counts": RING_TEXT}, "5 x 8 has 40"),
        ({"size": [5, 7], "counts": [1, 2]}, "cover 3 pixels"),
        ({"counts": [1]}, "expected"),
        ({"size": [5, 7], "counts": "é"}, "cannot stand"),
        ({"size": [5, 7], "counts": "X"}, "middle of a number"),
    ):
        with pytest.raises(FoveateError, match=said):
            decode_rle(rle)


def test_polygons_take_pixel_centres():
    square = decode_polygons([[2, 1, 5, 1, 5, 4, 2, 4]], (5, 7))
    assert square.sum() == 9 and square[1:4, 2:5].all()
    np.testing.assert_array_equal(decode_polygons([[1.4, 0, 3.6, 0, 3.6, 5, 1.4, 5]], (5, 7))[0], [0, 1, 1, 1, 0, 0, 0])
    triangle = decode_polygons([[0, 0, 4, 0, 0, 4]], (4, 4))
    assert triangle.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(FoveateError, match="three corners"):
        decode_polygons([[0, 0, 1, 1]], (4, 4))


def test_folder_in_every_form(tmp_path):
    for name in ("labels", "plain", "arrays", "apart/cube", "service"):
        (tmp_path / name).mkdir(parents=True)
    labels = RING.astype(np.uint8) * 3
    labels[0, 0] = 8
    Image.fromarray(labels).save(tmp_path / "labels/00008.png")
    (tmp_path / "objects.json").write_text('\ufeff{"3": "cube", "8": "bowl", "9": "cup"}', encoding="utf-8")
    np.savez(tmp_path / "arrays/00008.npz", cube=RING)
    Image.fromarray(RING.astype(np.uint8) * 255).save(tmp_path / "apart/cube/00008.png")
    answer = [
        {"category": "cube", "mask": {"size": [5, 7], "counts": RING_TEXT, "format": "coco_rle"}, "bbox": [0, 0, 9, 9]},
        {"category": "bowl", "bbox": [0.2, 0, 1.0, 1], "score": 0.5},
    ]
    (tmp_path / "service/00008.json").write_text(json.dumps({"objects": answer}))
    cut_out = np.full((*RING.shape, 4), 255, np.uint8)
    cut_out[..., 3] *= RING
    (tmp_path / "cut_out/cube").mkdir(parents=True)
    Image.fromarray(cut_out).save(tmp_path / "cut_out/cube/00008.png")
    source = open_masks(tmp_path)
    np.testing.assert_array_equal(source.at("cut_out", 8, IMAGE)["cube"], RING)  # what is transparent is outside
    for camera in ("labels", "arrays", "apart", "service"):
        found = source.at(camera, 8, IMAGE)
        np.testing.assert_array_equal(found["cube"], RING, camera)
        assert source.at(camera, 9, IMAGE) is None
    assert set(source.at("labels", 8, IMAGE)) == {"cube", "bowl"}, "an object that is not in the picture is not there"
    assert source.at("service", 8, IMAGE)["bowl"].sum() == 1
    with pytest.raises(FoveateError, match=r"'cube' has 5 x 7 pixels.*the frame 10 x 14"):
        source.at("arrays", 8, np.zeros((10, 14, 3), np.uint8))
    (tmp_path / "objects.json").write_text('{"3": "cube"}')
    with pytest.raises(FoveateError, match=r"labels \[8\]"):
        open_masks(tmp_path).at("labels", 8, IMAGE)
    (tmp_path / "objects.json").unlink()
    assert open_masks(tmp_path).at("labels", 8, IMAGE)["object"].sum() == RING.sum() + 1


def coco(**changes):
    document = {
        "images": [
            {"id": 1, "file_name": "e1/recordings/frames/hand_camera/00008.jpg", "height": 5, "width": 7},
            {"id": 2, "file_name": "hand_camera/00016.jpg"},
        ],
        "categories": [{"id": 4, "name": "cube"}, {"id": 5, "name": "bowl"}],
        "annotations": [
            {"image_id": 1, "category_id": 4, "segmentation": {"size": [5, 7], "counts": RING_TEXT}},
            {"image_id": 1, "category_id": 4, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]},
            {"image_id": 1, "category_id": 5, "bbox": [5, 0, 2, 1]},
        ],
    }
    return {**document, **changes}


def test_coco(tmp_path):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(coco()))
    source = open_masks(path)
    found = source.at("hand_camera", 8, IMAGE)
    assert found["cube"].sum() == 9 and found["cube"][0, 0], "two of one name are one mask"
    assert found["bowl"].sum() == 2 and found["bowl"][0, 5:].all()
    assert source.at("hand_camera", 16, IMAGE) == {}, "a picture without objects"
    assert source.at("hand_camera", 24, IMAGE) is None
    with pytest.raises(FoveateError, match=r"hand_camera, frame 8 .*the frame 6 x 7"):
        source.at("hand_camera", 8, np.zeros((6, 7, 3), np.uint8))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected COCO"),
        (coco(categories=[]), "expected COCO"),
        (coco(images=[{"id": 1, "file_name": "00008.jpg"}]), "tells no camera"),
    ],
)
def test_what_is_no_coco_file(tmp_path, document, said):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FoveateError, match=said):
        open_masks(path)


def test_no_masks_at_all(tmp_path):
    with pytest.raises(FoveateError, match="no such folder or"):
        open_masks(tmp_path / "none")
