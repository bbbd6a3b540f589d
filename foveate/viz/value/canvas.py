"""What every value-of-vision plot needs: the figure, its limits and whiskers, words and fonts, and its file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError, unknown
from foveate.util.files import draft
from foveate.viz.value.labels import LABELS

Row = Mapping[str, Any]
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Microsoft YaHei", "PingFang SC", "Heiti SC",
    "AR PL UMing CN", "Droid Sans Fallback",
)  # fmt: skip


def whiskers(rows: Sequence[Row], value: str = "accuracy", bound: str = "accuracy") -> list[list[float]]:
    """Lengths below and above each value, of the columns `BOUND_low` and `BOUND_high`; accuracy in points."""
    scale = 100 if value == "accuracy" else 1
    ends: tuple[list[float], list[float]] = ([], [])
    for lengths, column, sign in zip(ends, (f"{bound}_low", f"{bound}_high"), (-1, 1), strict=True):
        for row in rows:
            end = row.get(column)
            lengths.append(scale * max(0.0, sign * ((row[value] if end is None else end) - row[value])))
    return [*ends]


def heading(rows: Sequence[Row], title: str, note: str) -> str:
    """`mixed, n = 3000 · 95 % bootstrap over questions`."""
    counts = sorted({int(row["samples"]) for row in rows if row.get("samples")})
    n = f", n = {'-'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}" if counts else ""
    return f"{title}{n} · {note}"


def new_figure(width: float, height: float, panels: tuple[int, int] = (1, 1)) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(*panels, squeeze=False)
    for axes in grid.flat:
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, grid if panels != (1, 1) else grid[0, 0]


def frame(axes: Any, handlelength: float | None = None) -> None:
    """Limits of a curve, once it is drawn: accuracy within 0 to 100 %, 10 points of it at least; cost or tokens from 0.
    A margin keeps markers at the ends whole. The legend stands beside the data."""
    low, high = axes.get_ylim()
    half = min(max((high - low) / 2, 5.0), 50.0)
    middle = min(max((low + high) / 2, half), 100 - half)
    low, high, margin = middle - half, middle + half, half / 15
    axes.set_ylim(low - margin * (low <= 0), high + margin * (high >= 100))
    dearest = axes.dataLim.x1 or 1.0
    axes.set_xlim(-0.03 * dearest, 1.05 * dearest)
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, handlelength=handlelength, **beside)


def save(figure: Any, path: Path) -> Path:
    for text in figure.findobj(match=lambda artist: hasattr(artist, "set_fontfamily")):
        if any(ord(c) > 0x2E7F for c in text.get_text()):
            text.set_fontfamily(["DejaVu Sans", *_cjk_fonts()[:1]])
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns where a font has one weight only
    try:
        with draft(path, "the plot") as begun:
            figure.savefig(begun, format="png", bbox_inches="tight")  # a long title, too
    finally:
        log.setLevel(before)
    return path


def labels_of(language: str) -> Mapping[str, str]:
    """The words of a language; refuses Chinese where no font has it."""
    if language not in LABELS:
        raise unknown("language of plots", language, LABELS)
    if language == "zh" and not _cjk_fonts():
        raise FoveateError(
            "--language zh: matplotlib finds no font with Chinese characters (looked for "
            f"{', '.join(CJK_FONTS[:5])} ...); install one, as Debian's fonts-noto-cjk, or use --language en"
        )
    return LABELS[language]


def _cjk_fonts() -> list[str]:
    """Fonts of `CJK_FONTS` on this machine; those too that were installed after matplotlib wrote its list of fonts."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    if not any(font.name in CJK_FONTS for font in manager.ttflist):
        listed = {font.fname for font in manager.ttflist}
        for path in set(font_manager.findSystemFonts()) - listed:
            with contextlib.suppress(OSError, RuntimeError):  # a damaged file is no font
                manager.addfont(path)
    known = {font.name for font in manager.ttflist}
    return [name for name in CJK_FONTS if name in known]
