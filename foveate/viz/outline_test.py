import numpy as np
from PIL import Image

from foveate.viz.outline import COLORS, SHADE, draw_outlines


def test_a_line_by_hand():
    """A square of 3 x 3: its line leaves the middle pixel, the dark one around it the corners."""
    picture = Image.new("RGB", (5, 5), (100, 100, 100))
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    draw_outlines(picture, {"": (0, 0, 5, 5)}, {"": {" ": mask}})
    pixels = np.asarray(picture)
    light, dark = ((pixels == color).all(-1) for color in (COLORS[0], SHADE))
    assert light.sum() == 8 and (pixels[2, 2] == 100).all()
    assert dark.sum() == 12 and not dark[0, 0] and not dark[4, 4]


def test_the_border_of_the_picture_is_outside():
    picture = Image.new("RGB", (5, 5), (100, 100, 100))
    draw_outlines(picture, {"": (0, 0, 5, 5)}, {"": {" ": np.ones((5, 5), bool)}})
    plain = (np.asarray(picture) == 100).all(-1)
    assert plain[1:4, 1:4].all() and plain.sum() == 9


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
