import numpy as np

from foveate.data.masks.source import open_masks
from foveate.data.masks.writer import MaskWriter


def test_what_is_written_comes_back(tmp_path):
    writer, image = MaskWriter(tmp_path / "masks"), np.zeros((4, 6, 3), np.uint8)
    cube, bowl = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    cube[1, 1:3], bowl[3] = True, True
    writer.add({"hand": {"cube": cube}, "side": {}}, {"hand": image, "side": image})
    writer.add({"hand": {"bowl": bowl, "cube": cube}}, {"hand": image})
    writer.finish()
    source = open_masks(tmp_path / "masks")
    np.testing.assert_array_equal(source.at("hand", 0, image)["cube"], cube)
    assert source.at("side", 0, image) == {}, "known to hold nothing"
    second = source.at("hand", 1, image)
    np.testing.assert_array_equal(second["bowl"], bowl)
    np.testing.assert_array_equal(second["cube"], cube)
    assert source.at("hand", 2, image) is None
