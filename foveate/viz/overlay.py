"""What the pruner and the backbone looked at, drawn onto the source picture, pixel by pixel.

    picture = heatmap(image, record.scores[view.part], view, scale=(0.0, 1.0))
    picture = mask(image, record.keep_mask[view.part], view)

Each source pixel takes the value of the patch that holds its centre, by the geometry of the model's resize and
padding, so the patch grid is right to the pixel at any resolution. NumPy and Pillow; no figure objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from foveate.geometry import at_pixels, patch_axes, source_points
from foveate.tracing.record import Record, View
from foveate.viz.drawing import INK, PAPER, font, palette, shorten

Colors = Literal["viridis", "inferno", "magma"]
SCORE_COLORS: Colors = "viridis"
ATTN_COLORS: Colors = "inferno"

STRENGTH = 0.55
"""Share of the colour in a heat map; the rest is the grey picture."""
DIM = 0.22
"""Brightness left to a dropped patch."""
RING = (255, 176, 0)
"""Colour of the places where tokens were sampled."""


def per_pixel(values: np.ndarray, view: View, hw: tuple[int, int]) -> np.ndarray:
    """Values of a view's patches [rows * columns, ...] -> [H, W, ...] on its source picture; 0 where the model saw
    nothing of it."""
    axes = patch_axes(view.grid, hw, view.model_hw, view.flips, view.crop)
    return at_pixels(values.reshape(*view.grid, *values.shape[1:]), axes)


def value_range(values: np.ndarray, *, from_zero: bool = False) -> tuple[float, float]:
    """Least and largest finite value, for the colour scale; all views of an inference share one."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (0.0 if from_zero else float(finite.min())), float(finite.max())
    return low, high if high > low else low + 1.0


def heatmap(
    image: np.ndarray, values: np.ndarray, view: View, scale: tuple[float, float], colors: Colors = SCORE_COLORS
) -> np.ndarray:
    """Colours for the values over the grey picture.

    Args:
        image: uint8 [H, W, 3].
        values: [rows * columns] of this view; what is not finite is drawn as the least.
        scale: values of the first and the last colour.
    Returns:
        uint8 [H, W, 3].
    """
    low, high = scale
    level = np.nan_to_num((values - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    color = palette(colors)[(level * 255).round().astype(np.uint8)] * np.float32(STRENGTH)
    tint = per_pixel(color, view, (image.shape[0], image.shape[1]))
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return (tint + grey * np.float32(1 - STRENGTH)).astype(np.uint8)


def over_grey(colors: Colors) -> np.ndarray:
    """uint8 [256, 3]: what `heatmap` makes of each level where the picture is mid-grey."""
    return (palette(colors) * STRENGTH + 128 * (1 - STRENGTH)).astype(np.uint8)


def mask(image: np.ndarray, keep: np.ndarray, view: View, places: np.ndarray | None = None) -> np.ndarray:
    """Kept patches as they are, dropped ones dimmed, a light line between the two.

    Args:
        image: uint8 [H, W, 3].
        keep: bool [rows * columns] of this view.
        places: [rows * columns, 2], where the tokens of kept patches were sampled (row and column, in patches); rings
            mark them.
    """
    kept = per_pixel(keep, view, (image.shape[0], image.shape[1]))
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32) * np.float32(DIM)
    picture = np.where(kept[..., None], image, grey.astype(np.uint8)[..., None])
    # The line runs inside the kept patch: its first or last pixel.
    edge = np.zeros_like(kept)
    across, down = kept[:, 1:] != kept[:, :-1], kept[1:] != kept[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    picture[edge & kept] = (picture[edge & kept] * 0.35 + 255 * 0.65).astype(np.uint8)
    return picture if places is None else _rings(picture, places[keep], view)


def _rings(picture: np.ndarray, places: np.ndarray, view: View) -> np.ndarray:
    """A ring at each place [n, 2], of a third of a patch."""
    hw = (picture.shape[0], picture.shape[1])
    points = source_points(places, view.grid, hw, view.model_hw, view.flips, view.crop)
    radius = max(2.0, min(hw[0] / view.grid[0], hw[1] / view.grid[1]) / 3)
    row, column = np.mgrid[: hw[0], : hw[1]] + 0.5
    for x, y in points:
        picture[np.abs(np.hypot(column - x, row - y) - radius) <= max(0.75, radius / 6)] = RING
    return picture


def with_colorbar(picture: np.ndarray, scale: tuple[float, float], colors: Colors, unit: str = "") -> np.ndarray:
    """The picture, untouched, with the colour scale to its right: uint8 [H, W + bar, 3]."""
    height, width = picture.shape[:2]
    letters = font(max(9, min(14, height // 18)))
    labels = [short_number(value) for value in scale]
    text = max(letters.getlength(label) for label in (*labels, unit))
    gap, bar = 5, max(8, height // 24)
    canvas = Image.new("RGB", (width + 3 * gap + bar + int(text) + 1, height), PAPER)
    canvas.paste(Image.fromarray(picture))
    top, bottom = gap, height - gap
    ramp = palette(colors)[np.linspace(255, 0, max(1, bottom - top)).round().astype(int)]
    canvas.paste(Image.fromarray(np.repeat(ramp[:, None], bar, 1)), (width + gap, top))
    draw = ImageDraw.Draw(canvas)
    x = width + 2 * gap + bar
    draw.text((x, top), labels[1], INK, letters, anchor="lt")
    draw.text((x, bottom), labels[0], INK, letters, anchor="lb")
    draw.text((x, height / 2), unit, INK, letters, anchor="lm")
    return np.asarray(canvas)


def captioned_row(pictures: Mapping[str, np.ndarray], title: str, height: int = 320) -> np.ndarray:
    """Pictures in a row, each with its name below, a title above: uint8 [*, *, 3]."""
    gap = 10
    scaled = [
        Image.fromarray(p).resize((round(p.shape[1] * height / p.shape[0]), height), Image.Resampling.LANCZOS)
        for p in pictures.values()
    ]
    width = sum(p.width for p in scaled) + gap * (len(scaled) + 1)
    canvas = Image.new("RGB", (width, height + 64), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 18), shorten(title, width - 2 * gap, 15), INK, font(15), anchor="lm")
    x = gap
    for name, picture in zip(pictures, scaled, strict=True):
        canvas.paste(picture, (x, 34))
        draw.text((x + picture.width / 2, height + 50), name, INK, font(13), anchor="mm")
        x += picture.width + gap
    return np.asarray(canvas)


@dataclass(frozen=True)
class Heat:
    """Values of all patches of an inference, as they are drawn."""

    values: np.ndarray
    scale: tuple[float, float]
    """Values of the first and the last colour."""
    colors: Colors


def heat(record: Record) -> dict[str, Heat]:
    """The heat maps of an inference: `score_heatmap` and `attn_task_to_vis/layerXX`, the mean over heads."""
    found = {}
    if record.scores is not None:
        valid = record.valid if record.valid is not None else slice(None)
        found["score_heatmap"] = Heat(record.scores, value_range(record.scores[valid]), SCORE_COLORS)
    for layer in sorted(record.attn):
        found[f"attn_task_to_vis/layer{layer:02d}"] = attention_heat(record, layer)
    return found


def attention_heat(record: Record, layer: int, head: int | None = None) -> Heat:
    """The heat map of a layer of `record.attn`, or of one of its heads; None: their mean."""
    valid = record.valid if record.valid is not None else slice(None)
    values = record.attn[layer].mean(0) if head is None else record.attn[layer][head]
    return Heat(values, value_range(values[valid], from_zero=True), ATTN_COLORS)


def layers(record: Record, images: Mapping[str, np.ndarray], *, bars: bool) -> dict[str, dict[str, np.ndarray]]:
    """All overlays of an inference: kind -> view -> picture; `mask_heatmap`, and those of `heat`.

    Args:
        images: view -> source picture, of the views that have one.
        bars: add colour scales.
    """
    views = [view for view in record.views if view.name in images]
    drawn: dict[str, dict[str, np.ndarray]] = {}
    if record.keep_mask is not None:
        at = record.coordinates
        drawn["mask_heatmap"] = {
            v.name: mask(images[v.name], record.keep_mask[v.part], v, None if at is None else at[v.part]) for v in views
        }
    for kind, h in heat(record).items():
        pictures = {v.name: heatmap(images[v.name], h.values[v.part], v, h.scale, h.colors) for v in views}
        drawn[kind] = {n: with_colorbar(p, h.scale, h.colors) for n, p in pictures.items()} if bars else pictures
    return drawn


def short_number(value: float) -> str:
    return f"{value:.2g}" if value and not 0.01 <= abs(value) < 1000 else f"{value:.2f}"
