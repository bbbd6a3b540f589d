import numpy as np
from PIL import Image

from foveate.viz.outline import COLORS, draw_outlines, grown, shrunk


def test_shrunk_and_grown_by_hand():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    assert shrunk(mask).sum() == 1 and shrunk(mask)[2, 2]
    assert grown(mask).sum() == 9 + 12
    assert not shrunk(np.ones((3, 3), bool))[0].any(), "the picture's border is outside"


def test_the_line_runs_along_the_mask_and_leaves_the_rest():
    picture = Image.new("RGB", (80, 60), (100, 100, 100))
    mask = np.zeros((20, 20), bool)
    mask[10:16, 8:14] = True
    draw_outlines(picture, {"side": (20, 10, 40, 40)}, {"side": {"cube": mask}}, ["bowl", "cube"])
    pixels = np.asarray(picture)
    # Twice as large: rows 10 + 20 .. 10 + 31, columns 20 + 16 .. 20 + 27.
    color = (pixels == COLORS[1]).all(-1)
    assert color[30, 36:48].all() and color[41, 36:48].all() and color[30:42, 36].all() and color[30:42, 47].all()
    assert (pixels[31:41, 37:47] == 100).all(), "inside it stays as it was"
    assert (pixels[44:, :] == 100).all() and (pixels[:, :20] == 100).all()
