"""Bar plots of value-of-vision tables: action ratios, where answers go wrong, the cheapest right action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.util.stats import wilson
from foveate.viz.value.canvas import Row, heading, labels_of, new_figure, save

FIXED = ("always_full", "always_coarse", "no_vision", "oracle")
ACTION_COLORS = {"no": "#BBBBBB", "coarse": "#56B4E9", "full": "#0072B2"}
ORACLE_COLORS = {"NO": "#BBBBBB", "COARSE": "#56B4E9", "FULL": "#0072B2", "none": "#D55E00"}


def plot_actions(rows: Sequence[Row], path: Path, labels: Mapping[str, str], title: str) -> Path:
    """Shares of NO, COARSE and FULL, one bar per row that `_selected` keeps.

    The ends of NO and of FULL have intervals: their deviation over seeds, or what a bootstrap over the questions gives
    (of a share p of n questions: 1.96 sqrt(p (1 - p) / n)).
    """
    rows = _selected(rows)
    bars = [(row["row"], {level: row[f"action_rate_{level}"] or 0.0 for level in ACTION_COLORS}) for row in rows]
    seeds = any(row.get("accuracy_std") is not None for row in rows)
    spreads = [
        [row.get(f"action_rate_{level}_std") or 0.0 if seeds else _binomial(shares[level], row.get("samples"))
         for level in ("no", "full")]
        for row, (_, shares) in zip(rows, bars, strict=True)
    ]  # fmt: skip
    note = labels["deviation" if seeds else "over_questions"]
    return save(_stacked(bars, ACTION_COLORS, spreads, labels, labels["share"], heading(rows, title, note)), path)


def _selected(rows: Sequence[Row]) -> list[Row]:
    """Rows worth a bar; the table of a run has all. A pruned look is always FULL and left out.

    Beside learned rows: the fixed rules, the matched random twins of the row whose lambda was chosen (or the middle
    one) and those of given ratios, and one threshold and one cascade nearest to its cost.
    """
    rows = [row for row in rows if not row.get("pruning_mode")] or list(rows)
    learned = sorted((r for r in rows if not r["baseline_name"]), key=lambda r: r["avg_cost"])
    if not learned:
        return rows
    anchor = next((r for r in learned if r.get("chosen")), learned[len(learned) // 2])
    near = []
    for name in ("uncertainty_threshold", "cascade"):
        family = [r for r in rows if r["baseline_name"] == name]
        near += sorted(family, key=lambda r: abs(r["avg_cost"] - anchor["avg_cost"]))[:1]

    def twin(row: Row) -> bool:
        own = tuple(row.get(key) for key in ("lambda_cost", "checkpoint"))
        given = row.get("lambda_cost") is None
        return row["baseline_name"] == "random_policy_matched" and (
            given or own == (anchor.get("lambda_cost"), anchor.get("checkpoint"))
        )

    return [r for r in rows if not r["baseline_name"] or r["baseline_name"] in FIXED or twin(r) or r in near]


def plot_errors(slices: Sequence[Row], path: Path, language: str = "en") -> Path:
    """Share of wrong answers per action of each rule, with Wilson intervals; rows of `error_slices.csv`."""
    labels = labels_of(language)
    mine = [s for s in slices if s["category"] == "all" and s["action"] != "all"]
    figure, axes = new_figure(7.2, 0.8 + 0.22 * len(mine))
    for place, item in enumerate(mine):
        rate = item["wrong"] / item["samples"]
        low, high = wilson(item["wrong"], item["samples"])
        whiskers = [[100 * max(0.0, rate - low)], [100 * max(0.0, high - rate)]]
        colour = ACTION_COLORS[item["action"].lower()]
        axes.barh(place, 100 * rate, xerr=whiskers, color=colour, ecolor="#444444", capsize=2, height=0.75)
    names = [f"{item['dataset']}: {item['row']}, {item['action']} (n={item['samples']})" for item in mine]
    axes.set_yticks(range(len(mine)), names, fontsize=7)
    axes.set_ylim(len(mine) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(labels["wrong"])
    axes.set_title(f"{labels['errors']} · {labels['wilson']}", fontsize=10, loc="left")
    return save(figure, path)


def plot_oracle(found: Mapping[str, Mapping[str, Any]], path: Path, language: str = "en") -> Path:
    """The cheapest right action per data set and category, stacked; the content of `analysis_oracle.json`."""
    labels = labels_of(language)
    rows: list[tuple[str, Mapping[str, float], int]] = []
    for dataset, analysis in found.items():
        rows.append((dataset, analysis["cheapest_right"], analysis["samples"]))
        categories = analysis["by_category"].items()
        rows += [(f"{dataset}: {name}", shares, shares["samples"]) for name, shares in categories]
    bars = [(f"{name} (n={count})", shares) for name, shares, count in rows]
    spreads = [[_binomial(shares[level], count) for level in ("NO", "none")] for _, shares, count in rows]
    title = f"{labels['oracle_title']} · {labels['over_questions']}"
    return save(_stacked(bars, ORACLE_COLORS, spreads, labels, labels["cheapest"], title), path)


def _stacked(
    bars: Sequence[tuple[str, Mapping[str, float]]],
    colours: Mapping[str, str],
    spreads: Sequence[Sequence[float]],
    labels: Mapping[str, str],
    label: str,
    title: str,
) -> Any:
    """Bars of shares that sum to 1, with whiskers at the ends of the first and the last."""
    figure, axes = new_figure(7.2, 1.2 + 0.24 * len(bars))
    left = [0.0] * len(bars)
    for level, colour in colours.items():
        widths = [100 * shares[level] for _, shares in bars]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=labels[level.lower()], height=0.75)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    first, *_, last = colours
    for place, ((_, shares), (low, high)) in enumerate(zip(bars, spreads, strict=True)):
        for end, spread in ((100 * shares[first], 100 * low), (100 * (1 - shares[last]), 100 * high)):
            if spread:
                axes.errorbar(end, place, xerr=spread, color="#333333", elinewidth=0.8, capsize=2)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)
    axes.grid(False)
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _binomial(share: float, count: Any) -> float:
    """Half of the 95 % interval of a share."""
    return 1.96 * (share * (1 - share) / count) ** 0.5 if count else 0.0
