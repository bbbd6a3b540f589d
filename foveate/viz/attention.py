"""Attention maps over the pictures a policy saw: many pictures of one moment, drawn fast.

    sheet = Sheet({"corner": image, "gripperPOV": other}, model_hw=(224, 224), title="open the drawer")
    for head, maps in enumerate(heads):                       # maps: view -> float [grid_h, grid_w]
        save_jpeg(folder / f"head_{head:02d}.jpg", sheet.draw(maps, label=f"L5 H{head:02d}"))

A picture turns grey where a map lies on it, and the colours grow opaque with the value, so that a colour is the same on
any camera's picture and what got nothing stays visible.

An episode is a thousand pictures of some twenty moments, so whatever the pictures of one moment share (resized and
grey views, names, title) is made once, in `Sheet`. What is left runs inside Pillow, in whole bytes and
without Python's lock: enlarge the grid, look colour and opacity up in tables of 256, mix with the grey picture, encode.

The grid covers the model's padded input. Padding is cut away, so that a patch lies on the source picture where the
model saw it. Knows nothing of policies or files of episodes; NumPy and Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from foveate.errors import FoveateError, unknown
from foveate.geometry import ResizeGeometry
from foveate.util.files import draft
from foveate.viz.drawing import INK, PAPER, font, palette, wrap

GAP, LINE = 8, 20
"""Pixels between things, and of a line of text."""
BAR, NUMBER = 12, 46
"""Width of the colour bar, and of the numbers beside it."""
LABEL = 210
"""Room for a label beside the last line of the title."""
SMALLEST = 96
"""Least width and height of a picture, in pixels."""
LARGE, SMALL = (1280, 720), (640, 480)
"""Width and height at most where no size is asked for; small pictures are enlarged to the second one alone."""
GREY = 128
"""Brightness under the colours of the scale."""


@dataclass(frozen=True)
class Style:
    """How attention pictures look."""

    colormap: str = "turbo"
    """Any of matplotlib's colour maps; turbo runs from blue (low) to red (high)."""
    alpha: float = 0.5
    """How much the colours cover: 0 nothing, 1 everything; between, the more the larger the value."""
    size: tuple[int, int] | None = None
    """Width and height of a picture, at most; without one 1280x720, and small camera pictures enlarged to 640x480."""
    names: bool = True
    """Write each view's name below it."""
    colorbar: bool = True
    """Draw the colour scale with its numbers."""
    smooth: bool = True
    """Interpolate between patch centres; False, or where patches are missing: one colour per patch."""

    def __post_init__(self) -> None:
        from matplotlib import colormaps

        if self.colormap not in colormaps:
            raise unknown("colour map", self.colormap, colormaps)
        if not 0 <= self.alpha <= 1:
            raise FoveateError(f"alpha: expected 0 (picture alone) to 1 (colours alone), got {self.alpha}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < SMALLEST):
            raise FoveateError(f"size: expected width x height of at least {SMALLEST} pixels, got {self.size}")


@dataclass(frozen=True)
class _View:
    """One picture on the sheet."""

    at: tuple[int, int]
    """Left, top."""
    plain: Image.Image
    grey: Image.Image
    geometry: ResizeGeometry
    crop: float | None


class Sheet:
    """The pictures of one moment, ready to take maps. Safe to use from several threads.

    Args:
        images: view -> uint8 [H, W, 3], drawn side by side in this order.
        model_hw: the model's input, into which each picture was resized with padding; None: the grid covers the
            picture exactly.
        title: stands above the views, in as many lines as it takes.
        crop: side of the middle of each picture that the model saw, stretched to its input, as a share of the
            picture's; what lies outside stays uncoloured. None: it saw all of it.
    """

    def __init__(
        self,
        images: Mapping[str, np.ndarray],
        model_hw: tuple[int, int] | None = None,
        *,
        title: str = "",
        style: Style | None = None,
        crop: float | None = None,
    ) -> None:
        if not images:
            raise FoveateError("no picture to draw on: expected at least one view")
        self.style = style or Style()
        self._foot = LINE if self.style.names else 0
        self._side = GAP + BAR + NUMBER if self.style.colorbar else 0
        self._edge = GAP if title or self._foot or self._side or len(images) > 1 else 0
        height, lines, label = self._arrange([(i.shape[0], i.shape[1]) for i in images.values()], title)
        widths = [max(1, round(height * i.shape[1] / i.shape[0])) for i in images.values()]
        # The label stands beside the last line where there is room, or else below it.
        head = LINE * (len(lines) + (label == "below")) + GAP // 2 if title else 0
        self._label_at = head - LINE / 2 - 1 if title else None
        # Whole multiples of two: videos of these pictures keep every pixel.
        total_w, total_h = self._width(widths), self._height(height, head)
        self._base = Image.new("RGB", (total_w + total_w % 2, total_h + total_h % 2), PAPER)
        draw = ImageDraw.Draw(self._base)
        self._views: dict[str, _View] = {}
        x, y = self._edge, head + self._edge
        for (name, image), width in zip(images.items(), widths, strict=True):
            plain = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            self._base.paste(plain, (x, y))
            hw = (image.shape[0], image.shape[1])
            self._views[name] = _View(
                (x, y), plain, plain.convert("L").convert("RGB"), ResizeGeometry(hw, model_hw or hw), crop
            )
            if self.style.names:
                draw.text((x + width / 2, y + height + LINE / 2 + 1), name, INK, font(12), anchor="mm")
            x += width + self._edge
        self._bar = (x, y, height)
        for k, line in enumerate(lines):
            draw.text((GAP, LINE * k + LINE / 2 + 3), line, INK, font(14), anchor="lm")

    def _arrange(self, shapes: Sequence[tuple[int, int]], title: str) -> tuple[int, list[str], str]:
        """Height of the views, lines of the title, and where its label stands: "beside" or "below"."""
        aspect = sum(w / h for h, w in shapes)

        def fit(size: tuple[int, int], head: int) -> int:
            across = int((size[0] - self._width([0] * len(shapes))) / aspect)
            return min(size[1] - self._height(0, head), across)

        lines, label = [title] if title else [], "beside"
        for _ in range(3):  # the title's lines take from the height, and the height sets their width
            head = LINE * (len(lines) + (label == "below")) + GAP // 2 if title else 0
            if self.style.size is None:
                height = min(fit(LARGE, head), max(max(h for h, _ in shapes), fit(SMALL, head)))
            else:
                height = fit(self.style.size, head)
            if height < 16:
                raise FoveateError(f"size {self.style.size}: too small for {len(shapes)} views and title; enlarge it")
            room = int(height * aspect) + self._width([0] * len(shapes)) - 2 * GAP
            lines = wrap(title, room) if title else []
            label = "beside" if lines and font(14).getlength(lines[-1]) <= room - LABEL else "below"
        return height, lines, label

    def _width(self, widths: Sequence[int]) -> int:
        return sum(widths) + self._edge * (len(widths) + 1) + self._side

    def _height(self, height: int, head: int) -> int:
        return height + head + self._foot + 2 * self._edge

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every picture of this sheet."""
        return self._base.size

    @property
    def places(self) -> dict[str, tuple[int, int, int, int]]:
        """View -> left, top, width, height of its picture on the sheet."""
        return {name: (*view.at, *view.plain.size) for name, view in self._views.items()}

    def draw(
        self, maps: Mapping[str, np.ndarray], label: str = "", scale: tuple[float, float] | None = None
    ) -> Image.Image:
        """One picture: the maps' colours over the views.

        Args:
            maps: view -> float [grid_h, grid_w]; NaN where the model had no token, which leaves the picture uncoloured.
                A view without a map stays as it is.
            label: stands at the right end of the title's last line.
            scale: values of the first and the last colour; None: 0 and the largest value on any view. Opacity grows
                with the distance from 0.
        """
        for name in maps:
            if name not in self._views:
                raise unknown("view of the picture", name, self._views)
        placed = {name: _place(np.asarray(grid, np.float32), self._views[name]) for name, grid in maps.items()}
        low, high = scale or (0.0, max((_largest(values) for values, _ in placed.values()), default=0.0))
        picture, cover = self._base.copy(), opacity(self.style.alpha, low, high)
        for name, (values, box) in placed.items():
            view = self._views[name]
            picture.paste(self._mix(view, values, box, low, high, cover), view.at)
        if self.style.colorbar and maps:
            self._scale(picture, low, high, cover)
        if label:
            self._label(picture, label)
        return picture

    def _mix(
        self,
        view: _View,
        values: np.ndarray,
        box: tuple[float, float, float, float],
        low: float,
        high: float,
        cover: np.ndarray,
    ) -> Image.Image:
        level = ((values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)).clip(0, 255)
        here = np.isfinite(values)
        grid = Image.fromarray(np.where(here, level, 0).round().astype(np.uint8))
        # Beside a hole there is nothing to interpolate with.
        how = Image.Resampling.BILINEAR if self.style.smooth and here.all() else Image.Resampling.NEAREST
        levels = grid.resize(view.plain.size, how, box=box)
        mask = levels.point(cover.tolist())
        if view.crop is not None:
            here = np.pad(here[1:-1, 1:-1], 1)
        if not here.all():
            seen = Image.fromarray(here.astype(np.uint8) * 255).resize(mask.size, Image.Resampling.NEAREST, box=box)
            mask = ImageChops.multiply(mask, seen)
        levels.putpalette(_colors(self.style.colormap))
        return Image.composite(levels.convert("RGB"), view.grey, mask)

    def _scale(self, picture: Image.Image, low: float, high: float, cover: np.ndarray) -> None:
        """The colours as they look over mid-grey, and the numbers of their ends."""
        draw, (x, y, height) = ImageDraw.Draw(picture), self._bar
        ramp = over_grey(self.style.colormap, cover)[np.linspace(255, 0, height).round().astype(int)]
        picture.paste(Image.fromarray(np.repeat(ramp[:, None], BAR, 1)), (x, y))
        left = x + BAR + 4
        draw.text((left, y), _number(high), INK, font(11), anchor="lt")
        draw.text((left, y + height), _number(low), INK, font(11), anchor="lb")

    def _label(self, picture: Image.Image, label: str) -> None:
        """At the right end of the title; without a title on paper of its own, in the upper left corner."""
        draw = ImageDraw.Draw(picture)
        if self._label_at is not None:
            draw.text((picture.width - GAP, self._label_at), label, INK, font(13), anchor="rm")
            return
        draw.rectangle((0, 0, font(13).getlength(label) + 2 * GAP, LINE), PAPER)
        draw.text((GAP, LINE / 2), label, INK, font(13), anchor="lm")


def render_views(
    images: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    *,
    model_hw: tuple[int, int] | None = None,
    title: str = "",
    label: str = "",
    style: Style | None = None,
) -> np.ndarray:
    """One picture of one moment: uint8 [H, W, 3]. Arguments as `Sheet` and `Sheet.draw` take them."""
    return np.asarray(Sheet(images, model_hw, title=title, style=style).draw(maps, label))


def save_jpeg(path: Path, picture: Image.Image | np.ndarray, quality: int = 85) -> None:
    """Write a picture, whole or not at all.

    Args:
        picture: a Pillow image or uint8 [H, W, 3].
        quality: 1 to 95.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    with draft(path, "the picture", sync=False) as begun:
        image.save(begun, "JPEG", quality=quality)


def visible(grid: np.ndarray, geometry: ResizeGeometry) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The patches that lie on the picture, at least in part, and the picture's edges among them.

    Args:
        grid: [rows, columns] over the model's whole input, padding included.
    Returns:
        the part of `grid` without patches that are padding alone, and left, top, right, bottom of the picture in
        patches of that part.
    """
    (height, width), (left, _, top, _) = geometry.resized_hw, geometry.pad
    across, down = grid.shape[1] / geometry.dst_hw[1], grid.shape[0] / geometry.dst_hw[0]
    x0, x1, y0, y1 = left * across, (left + width) * across, top * down, (top + height) * down
    # Rounded: an edge that falls between two patches must not take in the one beyond it.
    column, row = int(np.floor(round(x0, 6))), int(np.floor(round(y0, 6)))
    part = grid[row : int(np.ceil(round(y1, 6))), column : int(np.ceil(round(x1, 6)))]
    right, bottom = min(x1 - column, part.shape[1]), min(y1 - row, part.shape[0])
    return part, (max(0.0, x0 - column), max(0.0, y0 - row), right, bottom)


def _place(grid: np.ndarray, view: _View) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """As `visible`. Of a picture of which the model saw the middle, the grid gets a rim, which lies on the rest."""
    if view.crop is None:
        return visible(grid, view.geometry)
    rows, columns = grid.shape
    left, top = (parts * (1 / view.crop - 1) / 2 for parts in (columns, rows))
    if max(left, top) > 1:
        raise FoveateError(f"crop {view.crop:g}: the model's patches leave more than one patch of the picture unseen")
    return np.pad(grid, 1, mode="edge"), (1 - left, 1 - top, 1 + columns + left, 1 + rows + top)


def opacity(alpha: float, low: float, high: float) -> np.ndarray:
    """uint8 [256]: how much the colour of each level covers; nothing at the value 0, most at the one farthest from it.

    Args:
        alpha: 0 nothing is covered, 1 everything; at 0.5 opacity is in step with the value, up to 84 %.
        low, high: values of the first and the last level.
    """
    if alpha in (0, 1):
        return np.full(256, 255 * alpha, np.uint8)
    values = np.abs(np.linspace(low, high, 256))
    share = values / (values.max() or 1.0)
    return (255 * alpha**0.25 * share ** ((1 - alpha) / alpha)).round().astype(np.uint8)


def over_grey(colormap: str, cover: np.ndarray) -> np.ndarray:
    """uint8 [256, 3]: what each level looks like on a mid-grey picture."""
    share = cover[:, None] / 255
    return (palette(colormap) * share + GREY * (1 - share)).round().astype(np.uint8)


@lru_cache(maxsize=16)
def _colors(colormap: str) -> bytes:
    return palette(colormap).tobytes()


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


@lru_cache(maxsize=4096)
def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"
