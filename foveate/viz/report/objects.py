"""Curves and Markdown of `foveate attn objects` over many episodes; reads the content of `objects.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.attention.objects import METRICS
from foveate.util.files import draft
from foveate.util.words import plural
from foveate.viz.report.tables import Table, markdown, number, with_ci

Row = dict[str, Any]
LABELS = {
    "overlap": "attention on objects",
    "concentration": "mean inside / mean outside",
    "iou": "IoU at 0.3 of the maximum",
}
SIDES = ("success", "failure")
COLORS = {"all": "#2f6db5", "success": "#2a9476", "failure": "#c4472f"}


def draw_curves(result: Mapping[str, Any], path: Path) -> None:
    """A row of charts per view, a column per metric: means over layers with 95 % bands, success and failure apart where
    both are there, and the nulls as dashed lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    views = list(dict.fromkeys(row["view"] for row in result["rows"]))
    figure = Figure(figsize=(4.6 * len(METRICS), 3.3 * len(views) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(views), len(METRICS), squeeze=False)
    both = all(any(row[side]["count"] > 0 for row in result["rows"]) for side in SIDES)
    for i, view in enumerate(views):
        for j, metric in enumerate(METRICS):
            axes, rows = grid[i][j], [r for r in result["rows"] if r["view"] == view and r["metric"] == metric]
            layers = [row["layer"] for row in rows]
            for side in SIDES if both else ["all"]:
                known = rows if side == "all" else [row[side] for row in rows]
                low, high = (_column([row["ci95"] for row in known], k) for k in (0, 1))
                axes.fill_between(layers, low, high, color=COLORS[side], alpha=0.18, linewidth=0)
                count = max(row["count"] for row in known)
                mean = _numbers([row["mean"] for row in known])
                axes.plot(layers, mean, "o-", color=COLORS[side], label=f"{side} ({count})", markersize=3.5)
            for null, style in (("shuffled", "--"), ("centre", ":")):
                axes.plot(layers, _numbers([row[null] for row in rows]), style, color="#6b737c", label=null)
            axes.set_title(f"{view}: {metric}", fontsize=11)
            axes.set_xlabel("layer")
            axes.set_ylabel(LABELS[metric])
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#ecebe6")
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with draft(path, "the plot") as begun:
        figure.savefig(begun, format="png", dpi=130)


def to_markdown(result: Mapping[str, Any]) -> str:
    """The aggregate as tables."""
    wins = {side: sum(e["outcome"] == side for e in result["episodes"]) for side in SIDES}
    lines = [
        f"# Attention on {result['target']}: {result['policy']}",
        "",
        f"{plural(len(result['episodes']), 'episode')} ({plural(wins['success'], 'success', 'successes')}, "
        f"{plural(wins['failure'], 'failure')}), {result['phase']} maps, mean over heads, of each episode the mean "
        "over its pictures. ± is the standard deviation over episodes, brackets are 95 % bootstrap intervals. "
        "Shuffled: the same map, its values exchanged between patches; centre: a Gaussian in the picture's middle. p: "
        "two-sided permutation test of success against failure; Holm: corrected for the layers of the table.",
        "",
        "![curves](objects.png)",
        "",
    ]
    for view in dict.fromkeys(row["view"] for row in result["rows"]):
        for metric in METRICS:
            lines += [f"## {view}: {metric}", "", *markdown(table_of(result, view, metric)), ""]
    return "\n".join(lines)


def table_of(result: Mapping[str, Any], view: str, metric: str) -> Table:
    """Head and rows, a row per layer."""
    rows = []
    for row in result["rows"]:
        if (row["view"], row["metric"]) == (view, metric):
            sides = [_spread(row[side]) for side in SIDES]
            gain = with_ci({"mean": row["gain"], "ci95": row["gain_ci95"]})
            cells = [str(row["layer"]), _spread(row)]
            cells += [number(row["shuffled"]), number(row["centre"]), gain]
            rows.append([*cells, *sides, number(row["p"]), number(row["p_holm"])])
    return ["layer", "all", "shuffled", "centre", "above shuffled", *SIDES, "p", "p (Holm)"], rows


def _spread(row: Row) -> str:
    """Mean ± standard deviation (count)."""
    if row["count"] < 2:
        return f"{number(row['mean'])} ({row['count']})" if row["count"] else "–"
    return f"{number(row['mean'])} ± {number(row['std'])} ({row['count']})"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, np.float64)


def _column(intervals: Sequence[Sequence[float | None]], k: int) -> np.ndarray:
    return _numbers([ci[k] for ci in intervals])
