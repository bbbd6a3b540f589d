"""Charts of the report pages: matplotlib's SVG, made to stand inside a page.

    chart = Chart((0, 55), (0, 128), x_label="step", y_label="patches kept")
    chart.line(Line("full, mean", 0, [0, 5, 10], [128, 120, 96]))
    svg = chart.svg("patches kept over time")

Colours are the page's own (`var(--c0)` ...), so that its light and dark schemes hold; text stays text, in the page's
font. A mark's tooltip is the `<title>` of its group. Equal data give equal bytes. Lengths are in
points, one to a unit of the `viewBox`; the page scales the picture.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

PALETTE = {
    "ink": ("#1d2126", "#e8e6e1"),
    "soft": ("#626a73", "#9aa3ad"),
    "line": ("#e3e0da", "#30363e"),
    "grid": ("#ecebe6", "#282d34"),
    # Series.
    "c0": ("#2f6db5", "#6fa8e8"),
    "c1": ("#d9731a", "#f09a4e"),
    "c2": ("#2a9476", "#5cc4a5"),
    "c3": ("#9b59a8", "#c58bd2"),
    "c4": ("#b8932b", "#dcbc5c"),
    "c5": ("#5b6670", "#a0abb5"),
    # Stages of an inference.
    "s0": ("#44679c", "#5d83bd"),
    "s1": ("#d9822b", "#d98a3d"),
    "s2": ("#3c9a86", "#3f9f8b"),
    "s3": ("#8f6fae", "#9a7cb8"),
    "s4": ("#a5abb2", "#6b737c"),
}
"""CSS variable of the pages -> its colour in the light scheme, which no other variable has, and in the dark one."""
COLORS = 6
"""Number of series colours."""
TOOLTIP = "tooltip: "
"""Begins the `gid` of a mark that has one."""
SMALL, LARGE = (360, 230), (560, 300)
"""Width and height of a chart."""

INK, SOFT, LINE, GRID = (PALETTE[name][0] for name in ("ink", "soft", "line", "grid"))
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "text.parse_math": False,  # a dollar in the name of a task is a dollar
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
}


def color(index: int) -> str:
    """The page's colour of a series."""
    return f"var(--c{index % COLORS})"


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


class Chart:
    """Axes with a horizontal grid; marks are added in data coordinates.

    Args:
        x, y: least and largest value of the axes.
        percent: of the y axis, whose values are shares.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_label: str,
        y_label: str,
        size: tuple[int, int] = SMALL,
        percent: bool = False,
    ) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

        with _style():
            self._figure, self._axes = _new_figure(*size)
            xlim, ylim = ((low, high if high > low else low + 1) for low, high in (x, y))
            self._axes.set(xlabel=x_label, ylabel=y_label, xlim=xlim, ylim=ylim)
            for axis in (self._axes.xaxis, self._axes.yaxis):
                axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            if percent:
                self._axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    def line(self, line: Line) -> None:
        """A line through its points; a single point is a dot."""
        if len(line.xs) == 1:
            self.dot(line.xs[0], line.ys[0], line.index, line.label)
            return
        (drawn,) = self._axes.plot(line.xs, line.ys, color=_light(f"c{line.index % COLORS}"))
        drawn.set(linewidth=1 if line.faint else 2.4, alpha=0.38 if line.faint else None)
        drawn.set(dashes=(4, 3) if line.dashed else (None, None), gid=TOOLTIP + line.label)

    def dot(self, x: float, y: float, index: int, label: str, interval: tuple[float, float] | None = None) -> None:
        """A point, with the interval of its y where one is known."""
        from matplotlib.patches import Circle
        from matplotlib.transforms import ScaledTranslation

        shade = _light(f"c{index % COLORS}")
        if interval:
            self._axes.plot([x, x], interval, color=shade, linewidth=1.6, alpha=0.55, gid=TOOLTIP + label)
        # Of a fixed size at a place of the data.
        place = self._figure.dpi_scale_trans + ScaledTranslation(x, y, self._axes.transData)
        circle = Circle((0, 0), 4.5 / 72, transform=place, color=shade, linewidth=0, zorder=3, gid=TOOLTIP + label)
        self._axes.add_artist(circle)

    def svg(self, label: str) -> Markup:
        """The chart as an `svg` element; the label is read to those who do not see it."""
        with _style():
            return _svg(self._figure, label)


def dodge(xs: Sequence[float], width: float, between: tuple[float, float]) -> list[float]:
    """Places of marks that would lie on each other: what is closer than `width` to its neighbour stands side by side.

    Args:
        between: no place lies outside.
    """
    order, places = sorted(range(len(xs)), key=lambda i: xs[i]), list(xs)
    group: list[int] = []
    for here, following in zip(order, [*order[1:], None], strict=True):
        group.append(here)
        if following is not None and xs[following] - xs[here] < width:
            continue
        middle = sum(xs[i] for i in group) / len(group)
        reach = width * (len(group) - 1) / 2
        left = min(max(middle - reach, between[0]), max(between[1] - 2 * reach, between[0])) if reach else middle
        step = min(width, (between[1] - between[0]) / max(1, len(group) - 1))
        for k, i in enumerate(group):
            places[i] = left + k * step if len(group) > 1 else xs[i]
        group = []
    return places


def lines(
    series: Sequence[Line], *, x_label: str, y_label: str, label: str = "", y: tuple[float, float] | None = None
) -> Markup:
    """A line chart; the x axis covers the data, the y axis starts at 0 unless `y` says otherwise."""
    xs, ys = [v for s in series for v in s.xs], [v for s in series for v in s.ys]
    x = (min(xs, default=0), max(xs, default=1))
    chart = Chart(x, y or (0, max(ys, default=1) * 1.05), x_label=x_label, y_label=y_label)
    for item in sorted(series, key=lambda s: not s.faint):
        chart.line(item)
    return chart.svg(label or y_label)


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], unit: str) -> Markup:
    """One horizontal bar per row, cut into named parts of colours `--s0`, `--s1` ..."""
    longest = max((sum(values) for _, values in rows), default=0) or 1.0
    with _style():
        figure, axes = _new_figure(720, 8 + 40 * len(rows))
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set(xlim=(0, 1.12 * longest), ylim=(len(rows) - 0.5, -0.5), xticks=[])
        axes.set_yticks(range(len(rows)), [label for label, _ in rows], color=INK, fontsize=13)
        for place, (label, values) in enumerate(rows):
            left = 0.0
            for k, (name, value) in enumerate(zip(names, values, strict=True)):
                gid = f"{TOOLTIP}{label}, {name}: {value:.1f} {unit}"
                gap = min(value, longest / 500)
                axes.barh(place, value - gap, 0.65, left, color=_light(f"s{k}"), linewidth=0, gid=gid)
                if value > 0.06 * longest:
                    axes.text(
                        left + value / 2, place, f"{value:.1f}", color="#ffffff", ha="center", va="center_baseline"
                    )
                left += value
            axes.text(left + longest / 80, place, f"{left:.1f} {unit}", color=SOFT, va="center_baseline")
        return _svg(figure, f"latency by stage in {unit}")


def _light(name: str) -> str:
    return PALETTE[name][0]


def _style() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.subplots()


ATTRIBUTES = ("d", "style", "x", "y", "transform", "viewBox")
"""What is left of an element's attributes: others are of a file, or name what the whole page must not hold twice."""


def _svg(figure: Any, label: str) -> Markup:
    """A figure as an element of a page.

    Clip paths go, too: all marks lie within their axes.
    """
    file = io.StringIO()
    with warnings.catch_warnings():
        # Told of characters that matplotlib's own font lacks; the page has the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    variables = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
    for element in list(root.iter()):
        element.tag, element.tail = element.tag.rpartition("}")[2], None
        element.text = element.text if element.tag == "text" else None
        for child in [c for c in element if c.tag.endswith(("}metadata", "}defs"))]:
            element.remove(child)
        if element.get("id", "").startswith(TOOLTIP):
            title = ElementTree.Element("title")
            title.text = element.get("id", "").removeprefix(TOOLTIP)
            element.insert(0, title)
        element.attrib = {name: element.attrib[name] for name in ATTRIBUTES if name in element.attrib}
        if "style" in element.attrib:
            style = element.attrib["style"]
            element.set("style", re.sub("#[0-9a-f]{6}", lambda found: variables.get(found[0], found[0]), style))
    width = round(figure.get_figwidth() * 72 * 1.3)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": label, "style": f"max-width:{width}px"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))
