"""Attention maps over the pictures a policy saw: many pictures of one moment, drawn fast.

    sheet = Sheet({"corner": image, "gripperPOV": other}, model_hw=(224, 224), title="open the drawer")
    for head, maps in enumerate(heads):                       # maps: view -> float [grid_h, grid_w]
        save_jpeg(folder / f"head_{head:02d}.jpg", sheet.draw(maps, label=f"L5 H{head:02d}"))

An episode is a thousand pictures of some twenty moments, so whatever the pictures of one moment share (resized and
dimmed views, names, title, colour ramp) is made once, in `Sheet`. What is left runs inside Pillow, in whole bytes and
without Python's lock: enlarge the grid, look its colours up in a table of 256, add them to the dimmed picture, encode.

The grid covers the model's padded input. Padding is cut away, so that a patch lies on the source picture where the
model saw it. Knows nothing of policies or files of episodes; NumPy and Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from foveate.errors import FoveateError, unknown
from foveate.geometry import ResizeGeometry
from foveate.util.files import draft
from foveate.viz.drawing import INK, PAPER, font, palette, shorten

GAP, LINE = 8, 20
"""Pixels between things, and of a line of text."""
BAR, NUMBER = 12, 46
"""Width of the colour bar, and of the numbers beside it."""
LABEL = 100
"""Room that the title leaves to the label."""
SMALLEST = 96
"""Least width and height of a picture, in pixels."""


@dataclass(frozen=True)
class Style:
    """How attention pictures look."""

    colormap: str = "turbo"
    """Any of matplotlib's colour maps; turbo runs from blue (low) to red (high)."""
    alpha: float = 0.5
    """Share of the colour, 0 to 1; the rest is the picture."""
    size: tuple[int, int] = (640, 480)
    """Width and height that a picture has at most; it is as large as its views, side by side, can be in there."""
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
        if len(self.size) != 2 or min(self.size) < SMALLEST:
            raise FoveateError(f"size: expected width x height of at least {SMALLEST} pixels, got {self.size}")


@dataclass(frozen=True)
class _View:
    """One picture on the sheet."""

    at: tuple[int, int]
    """Left, top."""
    plain: Image.Image
    dimmed: Image.Image
    """The picture's share of the mixture."""
    geometry: ResizeGeometry


class Sheet:
    """The pictures of one moment, ready to take maps. Safe to use from several threads.

    Args:
        images: view -> uint8 [H, W, 3], drawn side by side in this order.
        model_hw: the model's input, into which each picture was resized with padding; None: the grid covers the
            picture exactly.
        title: stands above the views, shortened where it is too long.
    """

    def __init__(
        self,
        images: Mapping[str, np.ndarray],
        model_hw: tuple[int, int] | None = None,
        *,
        title: str = "",
        style: Style | None = None,
    ) -> None:
        if not images:
            raise FoveateError("no picture to draw on: expected at least one view")
        self.style = style or Style()
        head = LINE + GAP // 2 if title else 0
        foot = LINE if self.style.names else 0
        side = GAP + BAR + NUMBER if self.style.colorbar else 0
        edge = GAP if head or foot or side or len(images) > 1 else 0
        gaps = edge * (len(images) + 1)
        shapes = [image.shape[:2] for image in images.values()]
        room_w, room_h = self.style.size[0] - gaps - side, self.style.size[1] - head - foot - 2 * edge
        height = min(room_h, int(room_w / sum(w / h for h, w in shapes)))
        widths = [max(1, round(height * w / h)) for h, w in shapes]
        if height < 16:
            raise FoveateError(f"size {self.style.size}: too small for {len(images)} views side by side; enlarge it")
        # Whole multiples of two: videos of these pictures keep every pixel.
        total_w, total_h = sum(widths) + gaps + side, height + head + foot + 2 * edge
        self._base = Image.new("RGB", (total_w + total_w % 2, total_h + total_h % 2), PAPER)
        draw = ImageDraw.Draw(self._base)
        share = np.arange(256) * (1 - self.style.alpha)
        table = [int(value) for value in share] * 3
        self._views: dict[str, _View] = {}
        x, y = edge, head + edge
        for (name, image), width in zip(images.items(), widths, strict=True):
            plain = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            self._base.paste(plain, (x, y))
            hw = (image.shape[0], image.shape[1])
            self._views[name] = _View((x, y), plain, plain.point(table), ResizeGeometry(hw, model_hw or hw))
            if self.style.names:
                draw.text((x + width / 2, y + height + LINE / 2 + 1), name, INK, font(12), anchor="mm")
            x += width + edge
        self._bar = (x, y, height)
        if self.style.colorbar:
            ramp = palette(self.style.colormap)[np.linspace(255, 0, height).round().astype(int)]
            self._base.paste(Image.fromarray(np.repeat(ramp[:, None], BAR, 1)), (x, y))
        self._title = (title, head)
        if title:
            draw.text(
                (GAP, head / 2 + 3), shorten(title, self._base.width - 2 * GAP - LABEL), INK, font(14), anchor="lm"
            )

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
            maps: view -> float [grid_h, grid_w], at least 0; NaN where the model had no token, which leaves the
                picture uncoloured. A view without a map stays as it is.
            label: stands at the right end of the title's line.
            scale: values of the first and the last colour; None: 0 and the largest value on any view.
        """
        for name in maps:
            if name not in self._views:
                raise unknown("view of the picture", name, self._views)
        placed = {
            name: visible(np.asarray(grid, np.float32), self._views[name].geometry) for name, grid in maps.items()
        }
        low, high = scale or (0.0, max((_largest(values) for values, _ in placed.values()), default=0.0))
        picture = self._base.copy()
        for name, (values, box) in placed.items():
            view = self._views[name]
            picture.paste(self._mix(view, values, box, low, high), view.at)
        if self.style.colorbar and maps:
            self._numbers(picture, low, high)
        if label:
            self._label(picture, label)
        return picture

    def _mix(
        self, view: _View, values: np.ndarray, box: tuple[float, float, float, float], low: float, high: float
    ) -> Image.Image:
        level = ((values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)).clip(0, 255)
        here = np.isfinite(values)
        grid = Image.fromarray(np.where(here, level, 0).round().astype(np.uint8))
        # Beside a hole there is nothing to interpolate with.
        how = Image.Resampling.BILINEAR if self.style.smooth and here.all() else Image.Resampling.NEAREST
        colors = grid.resize(view.plain.size, how, box=box)
        colors.putpalette(_shares(self.style.colormap, self.style.alpha))
        mixed = ImageChops.add(view.dimmed, colors.convert("RGB"))
        if here.all():
            return mixed
        holes = Image.fromarray(here.astype(np.uint8) * 255).resize(view.plain.size, Image.Resampling.NEAREST, box=box)
        return Image.composite(mixed, view.plain, holes)

    def _numbers(self, picture: Image.Image, low: float, high: float) -> None:
        draw, (x, y, height) = ImageDraw.Draw(picture), self._bar
        left = x + BAR + 4
        draw.text((left, y), _number(high), INK, font(11), anchor="lt")
        draw.text((left, y + height), _number(low), INK, font(11), anchor="lb")

    def _label(self, picture: Image.Image, label: str) -> None:
        """At the right end of the title's line; without a title on paper of its own, in the upper left corner."""
        draw, (title, head) = ImageDraw.Draw(picture), self._title
        if title:
            draw.text((picture.width - GAP, head / 2 + 3), label, INK, font(13), anchor="rm")
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


@lru_cache(maxsize=16)
def _shares(colormap: str, alpha: float) -> bytes:
    """The colours' share of the mixture, so that mixing is one addition of bytes; the sum stays below 256."""
    return (palette(colormap) * alpha).astype(np.uint8).tobytes()


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


@lru_cache(maxsize=4096)
def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"
