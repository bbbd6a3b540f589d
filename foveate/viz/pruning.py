"""One picture of a sweep over pruning methods: success against arithmetic, controls in grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.viz.value.canvas import Row, new_figure, save

CONTROLS: dict[str, tuple[str, Any]] = {
    "random": ("s", "-"),
    "stride": ("^", "--"),
    "topk_norm": ("v", "-."),
    "downsample": ("D", ":"),
}
CONTROLS |= {"depth_drop": ("X", (0, (5, 1, 1, 1)))}
"""Method -> marker and line, in grey."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#117733")


def plot_sweep(rows: Sequence[Row], path: Path, title: str) -> Path:
    """A line per method over its budgets, with Wilson's 95 % intervals; unpruned as a line across, fine-tuned hollow.

    Args:
        rows: with `method`, `budget`, `tuned`, `success_rate`, `ci95` and `gflops`, as `pruning.json` has them.
    """
    figure, axes = new_figure(8.5, 4.8)
    shown = [row for row in rows if row["success_rate"] is not None and row["gflops"] is not None]
    colours = iter(COLOURS * 3)
    for method in dict.fromkeys(row["method"] for row in shown):
        mine = sorted((row for row in shown if row["method"] == method), key=lambda row: row["gflops"])
        if method == "none":
            low, high = (100 * bound for bound in mine[0]["ci95"])
            axes.axhspan(low, high, color="#000000", alpha=0.06, linewidth=0)
            axes.axhline(100 * mine[0]["success_rate"], color="#000000", linewidth=1, label="unpruned")
            continue
        marker, line = CONTROLS.get(method, ("o", "-"))
        style = {"marker": marker, "color": "#808080" if method in CONTROLS else next(colours)}
        _draw(axes, [row for row in mine if not row["tuned"]], label=method, linestyle=line, **style)
        _draw(axes, [row for row in mine if row["tuned"]], linestyle="none", markerfacecolor="#FFFFFF", **style)
    if any(row["tuned"] for row in shown):
        axes.plot([], [], "o", color="#404040", markerfacecolor="#FFFFFF", markersize=5, label="hollow: fine-tuned")
    axes.set_xlabel("GFLOP per inference")
    axes.set_ylabel("success, %")
    axes.set_ylim(-3, 103)
    axes.set_title(f"{title} · 95 % Wilson intervals", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(figure, path)


def _draw(axes: Any, rows: Sequence[Row], **style: Any) -> None:
    """One method's points with their intervals."""
    rates = [100 * row["success_rate"] for row in rows]
    spread = [
        [max(0.0, rate - 100 * row["ci95"][0]) for rate, row in zip(rates, rows, strict=True)],
        [max(0.0, 100 * row["ci95"][1] - rate) for rate, row in zip(rates, rows, strict=True)],
    ]
    axes.errorbar(
        [row["gflops"] for row in rows], rates, spread, markersize=5, linewidth=1.2, elinewidth=0.6, capsize=2, **style
    )
