"""Small SVG charts for the report: text with CSS classes, so that the page's light and dark colours hold.

Series colours are `var(--c0)` ... of the page. Coordinates are of the `viewBox`; the page scales the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLORS = 6
"""Number of series colours that the page defines."""


def color(index: int) -> str:
    return f"var(--c{index % COLORS})"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two bounds, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class Line:
    """One line of a chart."""

    label: str
    index: int
    """Of its colour."""
    xs: Sequence[float]
    ys: Sequence[float]
    faint: bool = False
    dashed: bool = False


class Frame:
    """Axes with a grid; marks are added in data coordinates."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_label: str,
        y_label: str,
        title: str = "",
        size: tuple[int, int] = (360, 230),
        percent: bool = False,
    ) -> None:
        self.x_range = x if x[1] > x[0] else (x[0], x[0] + 1)
        self.y_range = y if y[1] > y[0] else (y[0], y[0] + 1)
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = 56, 12, 30 if title else 14, 40
        self.parts: list[str] = []
        base, end = self.height - self.bottom, self.width - self.right
        if title:
            self.parts.append(f'<text class="t" x="{self.left}" y="16">{escape(title)}</text>')
        for tick in ticks(*self.y_range):
            at, label = self.y(tick), f"{tick:.0%}" if percent else f"{tick:g}"
            self.parts.append(f'<line class="g" x1="{self.left}" x2="{end}" y1="{at:.1f}" y2="{at:.1f}"/>')
            self.parts.append(f'<text class="k e" x="{self.left - 7}" y="{at + 3.5:.1f}">{label}</text>')
        for tick in ticks(*self.x_range):
            self.parts.append(f'<text class="k m" x="{self.x(tick):.1f}" y="{base + 16}">{tick:g}</text>')
        self.parts.append(f'<line class="a" x1="{self.left}" x2="{end}" y1="{base}" y2="{base}"/>')
        middle = (self.left + end) / 2
        self.parts.append(f'<text class="k m" x="{middle:.0f}" y="{self.height - 6}">{escape(x_label)}</text>')
        across = (self.top + base) / 2
        self.parts.append(
            f'<text class="k m" transform="translate(11 {across:.0f}) rotate(-90)">{escape(y_label)}</text>'
        )

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        base = self.height - self.bottom
        return base - (value - low) / (high - low) * (base - self.top)

    def line(self, line: Line) -> None:
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(line.xs, line.ys, strict=True))
        kind = "l faint" if line.faint else "l"
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        title = f"<title>{escape(line.label)}</title>"
        if len(line.xs) == 1:
            self.dot(line.xs[0], line.ys[0], line.index, line.label)
            return
        self.parts.append(
            f'<polyline class="{kind}" points="{points}" stroke="{color(line.index)}"{dash}>{title}</polyline>'
        )

    def dot(self, x: float, y: float, index: int, label: str, interval: tuple[float, float] | None = None) -> None:
        """A point, with the interval of its y where one is known."""
        at = f"{self.x(x):.1f}"
        if interval:
            low, high = (f"{self.y(v):.1f}" for v in interval)
            self.parts.append(f'<line class="ci" x1="{at}" x2="{at}" y1="{low}" y2="{high}" stroke="{color(index)}"/>')
        title = f"<title>{escape(label)}</title>"
        self.parts.append(f'<circle cx="{at}" cy="{self.y(y):.1f}" r="4.5" fill="{color(index)}">{title}</circle>')

    def svg(self, label: str) -> str:
        return svg(self.parts, self.width, self.height, label)


def svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{round(width * 1.3)}px">{"".join(parts)}</svg>'
    )


def lines(
    series: Sequence[Line], *, x_label: str, y_label: str, title: str = "", y: tuple[float, float] | None = None
) -> str:
    """A line chart; the x axis covers the data, the y axis starts at 0 unless `y` says otherwise."""
    xs, ys = [v for s in series for v in s.xs], [v for s in series for v in s.ys]
    frame = Frame(
        (min(xs, default=0), max(xs, default=1)),
        y or (0, max(ys, default=1) * 1.05),
        x_label=x_label,
        y_label=y_label,
        title=title,
    )
    for item in sorted(series, key=lambda s: not s.faint):
        frame.line(item)
    return frame.svg(title or y_label)


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], unit: str) -> str:
    """One horizontal bar per row, cut into named parts of colours `--s0`, `--s1` ..."""
    width, left, bar, gap, top = 720, 130, 26, 14, 8
    longest = max((sum(values) for _, values in rows), default=0) or 1.0
    room = width - left - 70
    parts = []
    for i, (label, values) in enumerate(rows):
        y, x = top + i * (bar + gap), float(left)
        parts.append(f'<text class="k e b" x="{left - 10}" y="{y + bar / 2 + 4:.0f}">{escape(label)}</text>')
        for k, (name, value) in enumerate(zip(names, values, strict=True)):
            size = value / longest * room
            text = f"{label}, {name}: {value:.1f} {unit}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(0.0, size - 1):.1f}" height="{bar}" rx="2" fill="var(--s{k})">'
                f"<title>{escape(text)}</title></rect>"
            )
            if size > 34:
                parts.append(f'<text class="in m" x="{x + size / 2:.1f}" y="{y + bar / 2 + 4:.0f}">{value:.1f}</text>')
            x += size
        parts.append(f'<text class="k" x="{x + 8:.1f}" y="{y + bar / 2 + 4:.0f}">{sum(values):.1f} {unit}</text>')
    return svg(parts, width, top + len(rows) * (bar + gap), f"latency by stage in {unit}")
