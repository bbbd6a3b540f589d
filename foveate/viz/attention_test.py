import numpy as np
import pytest
from PIL import Image, ImageDraw

from foveate.errors import FoveateError
from foveate.geometry import ResizeGeometry, patch_axes
from foveate.viz.attention import Sheet, Style, opacity, render_views, save_jpeg, visible
from foveate.viz.drawing import font, palette, shorten, wrap

BARE = Style(names=False, colorbar=False, smooth=False, size=(640, 480))


def grey(height=480, width=640, level=100):
    return np.full((height, width, 3), level, np.uint8)


def test_colours_grow_opaque_with_the_value_over_the_grey_picture():
    grid = np.linspace(0, 1, 12).reshape(3, 4)
    colored = np.full((480, 640, 3), (30, 200, 90), np.uint8)  # of the brightness 137
    picture = render_views({"v": colored}, {"v": grid}, style=BARE)
    assert picture.shape == (480, 640, 3) and picture.dtype == np.uint8
    level = (grid * 255).round().astype(int)
    share = 0.5**0.25 * level[..., None] / 255
    expected = share * palette("turbo")[level] + (1 - share) * 137
    for row in range(3):
        for column in range(4):
            middle = picture[80 + 160 * row, 80 + 160 * column]
            np.testing.assert_allclose(middle, expected[row, column], atol=1.01)


def test_the_hottest_patch_has_its_own_colour_on_any_picture():
    """At half opacity over a green picture turbo's red turned olive."""
    for paint in ((30, 200, 90), (20, 40, 220), (255, 255, 255)):
        image = np.full((480, 640, 3), paint, np.uint8)
        red, green, blue = render_views({"v": image}, {"v": np.eye(2)}, style=BARE)[10, 10].astype(int)
        assert red > 2 * green and red > 2 * blue


def test_the_scale_shows_the_colours_of_the_picture():
    style = Style(names=False, smooth=False, colormap="viridis", size=(640, 480))
    sheet = Sheet({"v": grey(level=128)}, style=style)
    picture = np.asarray(sheet.draw({"v": np.array([[1.0, 0.5], [0.25, 0.0]])}), int)
    left, top, width, height = sheet.places["v"]
    bar = picture[top : top + height, left + width + 14]
    for (y, x), share in {(0.25, 0.25): 0.0, (0.25, 0.75): 0.5, (0.75, 0.25): 0.75, (0.75, 0.75): 1.0}.items():
        patch = picture[top + int(y * height), left + int(x * width)]
        assert np.abs(patch - bar[round(share * (height - 1))]).max() <= 3


def test_differences_are_opaque_at_both_ends_of_their_scale():
    cover = opacity(0.5, -2.0, 2.0)
    assert cover[0] == cover[-1] == round(255 * 0.5**0.25) and cover[127:129].max() <= 1
    assert (opacity(1.0, 0.0, 1.0) == 255).all() and (opacity(0.0, 0.0, 1.0) == 0).all()


def test_two_wide_cameras_are_at_least_480_pixels_wide_each():
    sheet = Sheet({"a": grey(720, 1280), "b": grey(720, 1280)}, (224, 224), title="place the cube into the bowl")
    assert all(width >= 480 for _, _, width, _ in sheet.places.values())
    assert sheet.size[0] <= 1280


@pytest.mark.parametrize("size", [None, (640, 480)])
@pytest.mark.parametrize("words", [1, 9, 40])
def test_a_title_is_wrapped_and_not_cut(size, words, monkeypatch):
    drawn = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, *a, **k: drawn.append((at, text)) or write(self, at, text, *a, **k),
    )
    title = " ".join(f"word{i}" for i in range(words))
    sheet = Sheet({"a": grey(120, 160), "b": grey(120, 160)}, title=title, style=Style(size=size, names=False))
    sheet.draw({}, label="prefix L10 H7, most active")
    lines = [(at, text) for at, text in drawn if "word" in text]
    assert " ".join(text for _, text in lines) == title
    assert all(at[0] + font(14).getlength(text) <= sheet.size[0] for at, text in lines)
    top = min(place[1] for place in sheet.places.values())
    (label_at, label), (last_at, last) = drawn[-1], lines[-1]
    assert label_at[1] + 6 < top and label_at[1] >= last_at[1] - 1
    beside = label_at[1] - last_at[1] < 10
    assert not beside or last_at[0] + font(14).getlength(last) < label_at[0] - font(13).getlength(label)


def test_smooth_maps_run_through_the_patch_centres():
    style = Style(names=False, colorbar=False, alpha=1.0, colormap="gray")
    grid = np.array([[0.0, 1.0], [0.0, 1.0]])
    row = render_views({"v": grey()}, {"v": grid}, style=style)[240, :, 0]
    # Bilinear between the centres at x = 160 and x = 480, constant beyond them.
    np.testing.assert_allclose(row, 255 * ((np.arange(640) + 0.5 - 160) / 320).clip(0, 1), atol=2)


@pytest.mark.parametrize("hw", [(720, 1280), (1280, 720), (480, 640), (224, 224), (97, 131)])
def test_patches_lie_where_the_model_saw_them(hw):
    """The same source pixels, patch by patch, as the pixel-exact overlays give."""
    rows, columns = patch_axes((16, 16), hw, (224, 224))
    rng = np.random.default_rng(0)
    grid = rng.permutation(256).reshape(16, 16) / 255
    style = Style(names=False, colorbar=False, smooth=False, alpha=1.0, colormap="gray", size=(hw[1], hw[0]))
    picture = Sheet({"v": grey(*hw)}, (224, 224), style=style).draw({"v": grid}, scale=(0, 1))
    drawn = np.asarray(picture)[: hw[0], : hw[1], 0].astype(int)
    expected = (grid[rows[:, None], columns[None, :]] * 255).round().astype(int)
    assert (drawn == expected).mean() > 0.99


def test_padding_is_cut_away():
    # 1280x720 into 224: 126 rows of picture, 49 of padding above and below, patches of 14 pixels: 3.5 patches each.
    grid = np.zeros((16, 16))
    grid[:3] = 5.0
    grid[13:] = 7.0
    part, box = visible(grid, ResizeGeometry((720, 1280), (224, 224)))
    assert part.shape == (10, 16) and part.max() == 0.0
    np.testing.assert_allclose(box, (0, 0.5, 16, 9.5))
    # What the padding got neither colours the picture nor sets the scale.
    picture = render_views({"v": grey(720, 1280)}, {"v": grid}, model_hw=(224, 224), style=BARE)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_patches_that_were_not_there_stay_uncoloured():
    grid = np.array([[0.2, np.nan], [1.0, 0.5]])
    picture = render_views({"v": grey()}, {"v": grid}, style=BARE)
    assert picture[100, 500].tolist() == [100, 100, 100]
    assert picture[100, 100].tolist() != [100, 100, 100]
    assert render_views({"v": grey()}, {"v": np.full((2, 2), np.nan)}, style=BARE).max() == 100


def test_views_stand_side_by_side_and_share_one_scale():
    images = {"a": grey(200, 200), "b": grey(200, 400)}
    style = Style(names=False, colorbar=False, smooth=False, alpha=1.0, colormap="gray")
    sheet = Sheet(images, style=style)
    picture = np.asarray(sheet.draw({"a": np.full((2, 2), 0.5), "b": np.full((2, 2), 1.0)}))
    assert picture.shape[1] <= 640 and picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0
    middle = picture[picture.shape[0] // 2, :, 0]
    assert middle[100] in (127, 128) and middle[400] == 255  # half and all of the common largest value
    # A map of one view leaves the other alone.
    alone = np.asarray(sheet.draw({"a": np.ones((2, 2))}))
    assert alone[picture.shape[0] // 2, 400].tolist() == [100, 100, 100]


def test_a_constant_and_a_zero_map_are_drawn():
    for grid in (np.zeros((2, 2)), np.full((2, 2), 1e-6, np.float16)):
        assert render_views({"v": grey()}, {"v": grid}).shape == render_views({"v": grey()}, {}).shape


def test_title_names_and_bar_do_not_touch_the_views():
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    with_text = Sheet({"corner": image}, title="open the drawer " * 20, style=Style())
    text = np.asarray(with_text.draw({}, label="L5 H03"))
    assert text.shape[1] <= 640 and text.shape[0] <= 480
    dark = (text < 90).all(-1)
    assert dark[:20].any() and dark[-20:].any()  # the title above, the name below


def test_jpegs_are_whole(tmp_path):
    picture = render_views({"v": grey()}, {"v": np.eye(4)})
    save_jpeg(tmp_path / "a.jpg", picture)
    with Image.open(tmp_path / "a.jpg") as back:
        assert np.abs(np.asarray(back, int) - picture).mean() < 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    with pytest.raises(FoveateError, match="cannot be written"):
        save_jpeg(tmp_path / "no" / "a.jpg", picture)


def test_errors_name_what_is_wrong():
    with pytest.raises(FoveateError, match="did you mean 'viridis'"):
        Style(colormap="viridi")
    with pytest.raises(FoveateError, match="alpha"):
        Style(alpha=1.5)
    with pytest.raises(FoveateError, match="size"):
        Style(size=(10, 10))
    with pytest.raises(FoveateError, match=r"unknown view.*'corner'"):
        render_views({"corner": grey()}, {"corne": np.eye(2)})
    with pytest.raises(FoveateError, match="no picture"):
        Sheet({})


def test_shorten():
    assert shorten("push", 200) == "push"
    assert shorten("push the puck along the table", 80).endswith("…")


def test_wrap():
    assert wrap("push", 200) == ["push"] and wrap("", 200) == [""]
    assert " ".join(wrap("push the puck along the table", 80)) == "push the puck along the table"
    assert "".join(wrap("x" * 100, 80)) == "x" * 100
    assert all(font(14).getlength(line) <= 80 for line in wrap("push " + "x" * 100 + " now", 80))
