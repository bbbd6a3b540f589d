"""Plots of value-of-vision tables: accuracy against cost, action ratios, vision tokens kept, where answers go wrong.

    plot_rows(read_rows(Path("outputs/pareto/results.csv")), Path("outputs/plots"), language="zh")

Needs the rows of a table alone (columns of `results.csv`). Every point has its 95 % intervals
(`accuracy_low`, `accuracy_high`, `cost_low`, `cost_high`): over questions, or over questions and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.viz.value.bars import FIXED, plot_actions
from foveate.viz.value.canvas import Row, frame, heading, labels_of, new_figure, save, whiskers

FAMILIES = {
    "": ("learned", "#0072B2", "o"),
    "random_policy_matched": ("random_matched", "#999999", "s"),
    "string_lookup": ("string_lookup", "#E69F00", "^"),
    "uncertainty_threshold": ("threshold", "#CC79A7", "D"),
    "cascade": ("cascade", "#D55E00", "v"),
    "vision_token_pruning_proxy": ("pruning", "#56B4E9", "P"),
    "always_full": ("always_full", "#000000", "*"),
    "always_coarse": ("always_coarse", "#666666", "*"),
    "no_vision": ("no_vision", "#AAAAAA", "*"),
    "oracle": ("oracle", "#009E73", "X"),
}
"""`baseline_name` -> key of its label, colour (told apart by colour-blind eyes too), marker."""
KINDS: dict[tuple[Any, Any], tuple[str, str, str]] = {
    ("global", None): ("#777777", "s", ":"),
    ("entropy_buckets", None): ("#A6A6A6", "h", ":"),
    ("entropy", "full"): ("#CC79A7", "D", "-"),
    ("margin", "full"): ("#882255", "p", "-."),
    ("entropy", "coarse"): ("#CC79A7", "<", "--"),
    ("margin", "coarse"): ("#882255", ">", "--"),
}
"""Within a family, (`matched` or `uncertainty`, `vision`) -> colour, marker, line."""
PRUNED = (("#56B4E9", "P", "-"), ("#332288", "o", "--"))
"""Colour, marker, line of the pruned looks: of the mode that was asked for, or the best; and of the best other one."""
MOST = 8
"""Entries of a legend that can still be read."""
MODES = {
    "stride": ("#0072B2", "o"),
    "topk_norm": ("#D55E00", "v"),
    "random": ("#999999", "s"),
    "downsample": ("#009E73", "D"),
    "pool": ("#CC79A7", "^"),
    "lightvla": ("#E69F00", "P"),
    "divprune": ("#332288", "X"),
    "cdpruner": ("#882255", "p"),
    "dart": ("#117733", "h"),
}


def plot_rows(rows: Sequence[Row], out: Path, language: str = "en", mode: str | None = None) -> list[Path]:
    """Every plot that these rows allow, per data set; the paths of the pictures.

    Args:
        mode: the way of showing less that was asked for, which the curve has beside the best other one.
    Raises:
        FoveateError: an unknown language, or Chinese without a font for it.
    """
    labels = labels_of(language)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["accuracy"] is not None]
        if mine:
            paths.append(plot_curve(mine, out / f"pareto_{dataset}.png", labels, dataset, mode))
            paths.append(plot_actions(mine, out / f"action_ratio_{dataset}.png", labels, dataset))
        if any(row.get("pruning_ratio") for row in mine):
            paths.append(plot_pruning(mine, out / f"pruning_{dataset}.png", labels, dataset))
    return paths


def plot_curve(rows: Sequence[Row], path: Path, labels: Mapping[str, str], title: str, mode: str | None = None) -> Path:
    """Accuracy against cost with intervals of both; a line per kind of rule, the fixed rules and oracles by name.

    At most `MOST` lines are drawn: of the families with several kinds the least accurate ones are left to the table.
    Of the ways of showing less there are `mode` and the best other one.
    """
    figure, axes = new_figure(9.2, 5.4)
    families = {r["baseline_name"] for r in rows} - set(FIXED)
    chosen = [r for r in rows if r.get("chosen")]
    lines, left_out = _fewer(
        {name: _lines([r for r in rows if (r["baseline_name"] or "") == name], labels, mode) for name in FAMILIES
         if name not in FIXED}, MOST - bool(chosen),
    )  # fmt: skip
    for name, number, kind, line in lines:
        label, *style = FAMILIES[name]
        own = KINDS.get((line[0].get("matched") or line[0].get("uncertainty"), line[0].get("vision")))
        own = own if name in ("random_policy_matched", "uncertainty_threshold") else None
        own = PRUNED[number] if line[0].get("pruning_mode") else own
        behind = own is PRUNED[1]  # a large hollow marker, so that equal points of both are seen
        colour, marker, dashes = own or (*style, ("-", "--", "-.", ":")[number % 4])
        mixed = name == "random_policy_matched" and len({r.get("checkpoint") for r in line} - {None}) > 1
        dense = len(line) > 12 or (name == "uncertainty_threshold" and line[0].get("vision") == "coarse")
        axes.errorbar(
            [r["avg_cost"] for r in line],
            [100 * r["accuracy"] for r in line],
            xerr=whiskers(line, "avg_cost", "cost"),
            yerr=whiskers(line),
            label=(f"{labels[label]}: {kind}" if kind else labels[label]) + _mark(line),
            color=colour,
            marker=marker,
            markerfacecolor="white" if dense or behind else colour,
            markersize=9 if behind else 3 if len(line) > 12 else 5,
            linewidth=2.2 if name == "" else 0.8 if name == "random_policy_matched" else 1.1,
            linestyle="none" if mixed else dashes,
            # Points that lie close: only the whiskers of some can be read.
            errorevery=max(1, (len(line) - 1) // 4) if dense and len(families) > 1 else 1,
            elinewidth=0.8,
            capsize=2,
            zorder=3 if name == "" else 1.9 if behind else 2,
        )
        for place, row in enumerate(line if families == {"uncertainty_threshold"} else ()):
            axes.annotate(
                f"{row['threshold']:.4g}",
                (row["avg_cost"], 100 * row["accuracy"]),
                (0, (-18, 14)[place % 2]),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
    _name_points([r for r in rows if r["baseline_name"] in FIXED], axes, labels)
    if chosen:
        costs, scores = [r["avg_cost"] for r in chosen], [100 * r["accuracy"] for r in chosen]
        ring = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "#000000", "markeredgewidth": 1.4}
        axes.plot(costs, scores, "o", label=labels["chosen"], zorder=4, **ring)
    in_tokens = any(r["avg_cost"] > 3 for r in rows)
    axes.set_xlabel(labels["tokens_cost" if in_tokens else "cost"])
    axes.set_ylabel(labels["accuracy"])
    note = labels["over_seeds" if any(r.get("accuracy_std") is not None for r in rows) else "over_questions"]
    more = f" · {labels['more'].format(left_out)}" if left_out else ""
    unseen = f"\n† {labels['unseen']}" if any(_mark(line) for *_, line in lines) else ""
    axes.set_title(heading(rows, title, note) + more + unseen, fontsize=10, loc="left")
    frame(axes, handlelength=4)
    return save(figure, path)


def _mark(line: Sequence[Row]) -> str:
    """Behind the name of a line whose rows have a note."""
    return " †" if any(row.get("note") for row in line) else ""


def _fewer(
    families: Mapping[str, Mapping[str, list[Row]]], most: int
) -> tuple[list[tuple[str, int, str, list[Row]]], int]:
    """Family, number in it, kind and rows of each line that is drawn; and how many more there were."""
    kept = {name: list(lines.items()) for name, lines in families.items() if lines}
    count = left_out = sum(map(len, kept.values()))
    while count > most and (crowded := max(kept, key=lambda name: len(kept[name]))) and len(kept[crowded]) > 1:
        scores = [sum(r["accuracy"] for r in line) / len(line) for _, line in kept[crowded]]
        del kept[crowded][scores.index(min(scores))]
        count -= 1
    found = [(name, number, *line) for name, lines in kept.items() for number, line in enumerate(lines)][:most]
    return found, left_out - len(found)


def _name_points(rows: Sequence[Row], axes: Any, labels: Mapping[str, str]) -> None:
    """Rules that are one point each: their names stand beside them, not in the legend."""
    dearest = max([*(row["avg_cost"] for row in rows), axes.dataLim.x1 if axes.has_data() else 0.0])
    for row in rows:
        label, colour, marker = FAMILIES[row["baseline_name"]]
        point = row["avg_cost"], 100 * row["accuracy"]
        bars = {"xerr": whiskers([row], "avg_cost", "cost"), "yerr": whiskers([row]), "elinewidth": 0.8, "capsize": 2}
        hollow = "white" if row.get("corrected") else colour
        axes.errorbar(*point, **bars, color=colour, marker=marker, markersize=9, markerfacecolor=hollow, zorder=2)
        words = labels["fair_oracle" if row.get("corrected") else label]
        plain = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        last = point[0] > 0.8 * dearest  # to the right there is the legend
        place = {"xytext": (-7 if last else 7, -11), "textcoords": "offset points", "ha": "right" if last else "left"}
        axes.annotate(words, point, **place, fontsize=8, bbox=plain, zorder=5)


def _lines(rows: Sequence[Row], labels: Mapping[str, str], mode: str | None = None) -> dict[str, list[Row]]:
    """What makes a line of its own among the rows of one family -> its rows by cost; "" where there is one line.

    Of the ways of showing less `mode` is enough here, and the best other one at the shares that all have; the pruning
    plot has all.
    """
    random = bool(rows) and rows[0]["baseline_name"] == "random_policy_matched"
    keys = ("matched",) if random else ("checkpoint", "fallback_mode", "uncertainty", "vision", "pruning_mode")
    varying = [key for key in keys if len({row.get(key) for row in rows}) > 1 or key == "pruning_mode"]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        values = {key: row[key] for key in varying if row.get(key)}
        words = [labels["fallback"] if key == "fallback_mode" else labels.get(v, v) for key, v in values.items()]
        lines.setdefault(", ".join(words), []).append(row)
    if len(lines) > 1 and rows[0].get("pruning_mode"):
        shares = set.intersection(*({r.get("pruning_ratio") for r in line} for line in lines.values()))
        asked = {kind: line for kind, line in lines.items() if line[0]["pruning_mode"] == mode}
        scores = {
            kind: sum(r["accuracy"] for r in line if r.get("pruning_ratio") in shares)
            for kind, line in lines.items()
            if kind not in asked
        }
        kind = max(scores, key=lambda k: scores[k])
        lines = asked | {f"{kind} ({labels['best_other' if asked else 'best']})": lines[kind]}
    return {kind: sorted(line, key=lambda r: r["avg_cost"]) for kind, line in lines.items()}


def plot_pruning(rows: Sequence[Row], path: Path, labels: Mapping[str, str], title: str) -> Path:
    """Accuracy against the vision tokens that are left, one line per way of showing less."""
    figure, axes = new_figure(7.8, 4.2)
    whole = [r for r in rows if r["baseline_name"] == "always_full"]
    shown = {r.get("pruning_mode") for r in rows}
    for number, mode in enumerate(mode for mode in MODES if mode in shown):
        mine = [r for r in rows if r.get("pruning_mode") == mode]
        full = [] if any(r["pruning_ratio"] == 1 for r in mine) else whole
        # A smaller picture of two shares can have the same tokens: one point, of the first share.
        mine = list({r["remaining_vision_tokens"]: r for r in reversed([*mine, *full])}.values())
        mine = sorted(mine, key=lambda r: r["remaining_vision_tokens"])
        axes.errorbar(
            [r["remaining_vision_tokens"] for r in mine],
            [100 * r["accuracy"] for r in mine],
            yerr=whiskers(mine),
            label=labels[mode] + _mark(mine),
            color=MODES[mode][0],
            marker=MODES[mode][1],
            markersize=10 - 1.2 * number,  # equal points of several are seen
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xlabel(labels["kept"])
    axes.set_ylabel(labels["accuracy"])
    unseen = f"\n† {labels['unseen']}" if _mark(rows) else ""
    axes.set_title(heading(rows, title, labels["over_questions"]) + unseen, fontsize=10, loc="left")
    frame(axes)
    return save(figure, path)


def plot_ablation(rows: Sequence[Row], out: Path, language: str = "en") -> list[Path]:
    """Accuracy against cost per ablation and data set, one line per variant; rows of `ablation.csv`."""
    labels, paths = labels_of(language), []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["accuracy"] is not None]
        names = sorted({row["ablation"] for row in mine} - {""})
        if not names:
            continue
        figure, panels = new_figure(12.0, 6.4, (2, (len(names) + 1) // 2))
        for axes, name in zip(panels.flat, names, strict=False):
            variants = dict.fromkeys(row["checkpoint"] for row in mine if row["ablation"] == name)
            for number, variant in enumerate(variants):
                line = sorted((r for r in mine if r["checkpoint"] == variant), key=lambda r: r["avg_cost"])
                axes.errorbar(
                    [r["avg_cost"] for r in line],
                    [100 * r["accuracy"] for r in line],
                    xerr=whiskers(line, "avg_cost", "cost"),
                    yerr=whiskers(line),
                    label=variant.removeprefix(f"{name} "),
                    color=f"C{number}",
                    marker="osD^"[number % 4],
                    elinewidth=0.8,
                    capsize=2,
                )
            # Always COARSE and no vision lie so far below that the variants would fall on one another.
            for row in (r for r in mine if r["baseline_name"] == "always_full"):
                axes.plot(row["avg_cost"], 100 * row["accuracy"], "k*", ms=9, label=labels["always_full"])
            axes.set_title(heading(mine, name, dataset), fontsize=10, loc="left")
            axes.set_xlabel(labels["cost"])
            axes.set_ylabel(labels["accuracy"])
            frame(axes)
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        figure.suptitle(labels["over_questions"], fontsize=10)
        paths.append(save(figure, out / f"ablation_{dataset}.png"))
    return paths
