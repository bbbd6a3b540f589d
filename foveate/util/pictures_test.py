"""Pictures as people have them: each pixel as a viewer shows it, or a reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.util.pictures import ImageError, encoded, fault, open_picture, read_labels, read_picture

GREEN, RED, BLUE = (30, 200, 30), (200, 30, 30), (30, 30, 200)
SHOWN = np.zeros((16, 24, 3), np.uint8)
SHOWN[:, :12], SHOWN[:, 12:], SHOWN[:4] = RED, BLUE, GREEN
"""What a viewer shows: a green bar above, red left, blue right."""
BAR = np.zeros((16, 24, 4), np.uint8)
BAR[4:12, 4:20, 3] = 255
"""A black bar on transparent black."""
ON_WHITE = np.where(BAR[..., 3:] == 255, 0, 255).repeat(3, -1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""EXIF orientation -> how what is shown lies in the file."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_its_exif_says(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](SHOWN)))
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[kind]
    seen = read_picture(saved(stored, kind, exif=exif, **options))
    assert seen.shape == SHOWN.shape
    np.testing.assert_allclose(seen.astype(int), SHOWN, atol=3 if kind == "JPEG" else 0)


def test_damaged_exif_turns_nothing_and_breaks_nothing() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 30
    np.testing.assert_array_equal(read_picture(saved(Image.fromarray(SHOWN), "PNG", exif=exif)), SHOWN)


def test_what_is_transparent_is_white() -> None:
    index = Image.fromarray((BAR[..., 3] > 0).astype(np.uint8), "P")
    index.putpalette([0, 0, 0] * 256)
    grey = Image.fromarray(np.where(BAR[..., 3] > 0, 0, 77).astype(np.uint8))
    for content in (
        saved(Image.fromarray(BAR), "PNG"),
        saved(Image.fromarray(BAR), "WEBP", lossless=True, exact=True),
        saved(Image.fromarray(BAR), "TIFF"),
        saved(Image.fromarray(BAR[..., [0, 3]], "LA"), "PNG"),
        saved(index, "PNG", transparency=0),
        saved(index, "GIF", transparency=0),
        saved(grey, "PNG", transparency=77),
        saved(Image.merge("RGB", [grey] * 3), "PNG", transparency=(77, 77, 77)),
    ):
        np.testing.assert_array_equal(read_picture(content), ON_WHITE)
    half = np.full((1, 1, 4), (0, 0, 0, 51), np.uint8)  # a fifth of black over white
    assert read_picture(saved(Image.fromarray(half), "PNG")).tolist() == [[[204] * 3]]


def test_sixteen_bits_become_their_high_byte() -> None:
    ramp = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF", "JPEG2000"):
        seen = read_picture(saved(Image.fromarray(ramp), kind))
        assert seen[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)], kind
    pgm = b"P5 5 1 65535\n" + ramp.astype(">u2").tobytes()
    assert read_picture(pgm)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.2, 0.4, 0.4], [51, 102, 102]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 1e5, 2e5], [0, 128, 255]),
        ([np.nan, 0.5, np.inf], [0, 128, 0]),
    ],
)
def test_floats_are_scaled_by_their_range(values: list[float], seen: list[int]) -> None:
    read = read_picture(saved(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert read[0].tolist() == [[v] * 3 for v in seen]


def test_other_kinds() -> None:
    base = Image.fromarray(SHOWN)
    cmyk = read_picture(saved(base.convert("CMYK"), "JPEG", quality=100, subsampling=0))
    np.testing.assert_allclose(cmyk.astype(int), SHOWN, atol=4)
    np.testing.assert_array_equal(read_picture(saved(base.quantize(3), "PNG")), SHOWN)
    bits = Image.fromarray(BAR[..., 3]).convert("1")
    np.testing.assert_array_equal(read_picture(saved(bits, "PNG")), BAR[..., [3, 3, 3]])
    white = Image.new("RGB", base.size, "white")
    for kind in ("GIF", "PNG", "TIFF"):
        film = saved(base.quantize(3) if kind == "GIF" else base, kind, save_all=True, append_images=[white])
        np.testing.assert_array_equal(read_picture(film), SHOWN)
    whole = np.array([[0, 100, 255]], np.int32)
    assert read_picture(saved(Image.fromarray(whole), "TIFF"))[0, :, 1].tolist() == [0, 100, 255]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path, reason in {
        tmp_path: "a folder",
        tmp_path / "pipe": "no regular file",
        Path("/dev/zero"): "no regular file",
        tmp_path / "link": "no regular file",
        tmp_path / "nothing.png": "no such file",
        tmp_path / ("long" * 100): "name too long",
        tmp_path / "nul\0.png": "no such file|null byte",
    }.items():
        with pytest.raises(ImageError, match=reason):
            open_picture(path)
        assert encoded(path) == b"" and fault(str(path))


def test_a_picture_too_large_is_refused_by_its_header(monkeypatch) -> None:
    bomb = saved(Image.new("1", (30_000, 30_000)), "PNG")
    large = saved(Image.new("1", (10_000, 10_000)), "PNG")
    small = saved(Image.fromarray(SHOWN), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"more than 89,478,485 pixels"):
        open_picture(bomb)
    with pytest.raises(ImageError, match="10000 x 10000 are more than 89,478,485 pixels"):
        open_picture(large)
    with pytest.raises(ImageError, match="24 x 16 are more than 383 pixels"):
        open_picture(small, max_pixels=383)
    monkeypatch.undo()
    assert open_picture(small, max_pixels=384).size == (24, 16)


def test_broken_ones_have_a_reason(monkeypatch) -> None:
    jpeg = saved(Image.fromarray(SHOWN).resize((240, 160)), "JPEG")
    for content in (b"", b"nonsense", jpeg[: len(jpeg) // 2], jpeg[:30]):
        assert fault(content)
        with pytest.raises(ImageError, match=r"(?i)no known picture format|truncated"):
            open_picture(content)
    assert fault(jpeg) == ""
    with pytest.raises(ImageError, match="EPS holds drawing commands"):
        open_picture(saved(Image.fromarray(SHOWN), "EPS"))

    def surprise(self, *_):
        raise ZeroDivisionError("of a kind that nobody expects")

    monkeypatch.setattr(Image.Image, "getexif", surprise)
    np.testing.assert_array_equal(read_picture(saved(Image.fromarray(SHOWN), "PNG")), SHOWN)
    monkeypatch.setattr(Image.Image, "convert", surprise)
    with pytest.raises(ImageError, match="of a kind that nobody expects"):
        open_picture(jpeg)


def test_labels_are_the_numbers_in_the_file() -> None:
    numbers = np.array([[0, 1, 200]], np.uint8)
    index = Image.fromarray(numbers, "P")
    index.putpalette([9, 9, 9] * 256)
    assert read_labels(saved(index, "PNG")).tolist() == numbers.tolist()
    assert read_labels(saved(index, "PNG", transparency=0)).tolist() == numbers.tolist()
    assert read_labels(saved(Image.fromarray(numbers), "PNG")).tolist() == numbers.tolist()
    assert read_labels(saved(Image.fromarray(np.array([[0, 1, 1000]], np.uint16)), "PNG")).tolist() == [[0, 1, 1000]]
    cut_out = np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8)
    assert read_labels(saved(Image.fromarray(cut_out), "PNG")).tolist() == [[0, 255]]
