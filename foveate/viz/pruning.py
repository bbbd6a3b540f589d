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
    """A line per method over its budgets, with Wilson's 95 % intervals; unpruned as a line across.

    Args:
        rows: with `method`, `budget`, `success_rate`, `ci95` and `gflops`, as `pruning.json` has them.
    """
    figure, axes = new_figure(8.5, 4.8)
    shown = [row for row in rows if row["success_rate"] is not None and row["gflops"] is not None]
    colours = iter(COLOURS * 3)
    for method in dict.fromkeys(row["method"] for row in shown):
        mine = sorted((row for row in shown if row["method"] == method), key=lambda row: row["gflops"])
        rates = [100 * row["success_rate"] for row in mine]
        if method == "none":
            low, high = (100 * bound for bound in mine[0]["ci95"])
            axes.axhspan(low, high, color="#000000", alpha=0.06, linewidth=0)
            axes.axhline(rates[0], color="#000000", linewidth=1, label="unpruned")
            continue
        marker, line = CONTROLS.get(method, ("o", "-"))
        colour = "#808080" if method in CONTROLS else next(colours)
        spread = [
            [max(0.0, rate - 100 * row["ci95"][0]) for rate, row in zip(rates, mine, strict=True)],
            [max(0.0, 100 * row["ci95"][1] - rate) for rate, row in zip(rates, mine, strict=True)],
        ]
        axes.errorbar(
            [row["gflops"] for row in mine], rates, spread, label=method, marker=marker, linestyle=line, color=colour,
            markersize=5, linewidth=1.2, elinewidth=0.6, capsize=2,
        )  # fmt: skip
    axes.set_xlabel("GFLOP per inference")
    axes.set_ylabel("success, %")
    axes.set_ylim(-3, 103)
    axes.set_title(f"{title} · 95 % Wilson intervals", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(figure, path)
