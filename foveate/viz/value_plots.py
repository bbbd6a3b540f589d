"""Plots of value-of-vision tables: accuracy against cost, action ratios, vision tokens kept, where answers go wrong.

    plot_rows(read_rows(Path("outputs/pareto/results.csv")), Path("outputs/plots"), language="zh")

Needs the rows of a table alone (columns of `results.csv`). Every point has its interval: over questions
(`accuracy_low`, `accuracy_high`), or over seeds (`accuracy_std`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError, unknown
from foveate.viz.value_labels import LABELS

Row = Mapping[str, Any]
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
FIXED = ("always_full", "always_coarse", "no_vision", "oracle")
ACTION_COLORS = {"no": "#BBBBBB", "coarse": "#56B4E9", "full": "#0072B2"}
ORACLE_COLORS = {"NO": "#BBBBBB", "COARSE": "#56B4E9", "FULL": "#0072B2", "none": "#D55E00"}
MODES = {
    "stride": ("#0072B2", "o"),
    "topk_norm": ("#D55E00", "v"),
    "random": ("#999999", "s"),
    "downsample": ("#009E73", "D"),
    "pool": ("#CC79A7", "^"),
    "lightvla": ("#E69F00", "P"),
}
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Microsoft YaHei", "PingFang SC", "Heiti SC",
    "AR PL UMing CN", "Droid Sans Fallback",
)  # fmt: skip


def plot_rows(rows: Sequence[Row], out: Path, language: str = "en") -> list[Path]:
    """Every plot that these rows allow, per data set; the paths of the pictures.

    Raises:
        FoveateError: an unknown language, or Chinese without a font for it.
    """
    say = labels_of(language)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["accuracy"] is not None]
        if mine:
            paths.append(plot_curve(mine, out / f"pareto_{dataset}.png", say, dataset))
            paths.append(plot_actions(mine, out / f"action_ratio_{dataset}.png", say, dataset))
        if any(row.get("pruning_ratio") for row in mine):
            paths.append(plot_pruning(mine, out / f"pruning_{dataset}.png", say, dataset))
    return paths


def plot_curve(rows: Sequence[Row], path: Path, say: Mapping[str, str], title: str) -> Path:
    """Accuracy against cost, one line per family of rules, with intervals."""
    figure, axes = _figure(9.2, 5.4)
    told = {r["baseline_name"] for r in rows} - set(FIXED)
    for name, (label, *style) in FAMILIES.items():
        lines = _lines([r for r in rows if (r["baseline_name"] or "") == name], say)
        single = name in FIXED
        for number, (kind, line) in enumerate(lines.items()):
            own = KINDS.get((line[0].get("matched") or line[0].get("uncertainty"), line[0].get("vision")))
            own = own if name in ("random_policy_matched", "uncertainty_threshold") else None
            colour, marker, dashes = own or (*style, ("-", "--", "-.", ":")[number % 4])
            mixed = name == "random_policy_matched" and len({r.get("checkpoint") for r in line} - {None}) > 1
            dense = name == "uncertainty_threshold" and line[0].get("vision") == "coarse"
            axes.errorbar(
                [r["avg_cost"] for r in line],
                [100 * r["accuracy"] for r in line],
                yerr=_whiskers(line),
                label=f"{say[label]}: {kind}" if kind else say[label],
                color=colour,
                marker=marker,
                markerfacecolor="white" if dense else colour,
                markersize=9 if single else 5,
                linewidth=2.2 if name == "" else 0.8 if name == "random_policy_matched" else 1.1,
                linestyle="none" if single or mixed else dashes,
                # COARSE points lie so close that only the whiskers of the ends can be read.
                errorevery=max(1, len(line) - 1) if dense and len(told) > 1 else 1,
                elinewidth=0.8,
                capsize=2,
                zorder=3 if name == "" else 2,
            )
            for place, row in enumerate(line if told == {"uncertainty_threshold"} and not single else ()):
                axes.annotate(
                    f"{row['threshold']:.4g}",
                    (row["avg_cost"], 100 * row["accuracy"]),
                    (0, (-18, 14)[place % 2]),
                    textcoords="offset points",
                    fontsize=7,
                    ha="center",
                )
    chosen = [r for r in rows if r.get("chosen")]
    if chosen:
        costs, scores = [r["avg_cost"] for r in chosen], [100 * r["accuracy"] for r in chosen]
        ring = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "#000000", "markeredgewidth": 1.4}
        axes.plot(costs, scores, "o", label=say["chosen"], zorder=4, **ring)
    in_tokens = any(r["avg_cost"] > 3 for r in rows)
    axes.set_xlabel(say["tokens_cost" if in_tokens else "cost"])
    axes.set_ylabel(say["accuracy"])
    note = "over_seeds" if any(r.get("accuracy_std") is not None for r in rows) else "over_questions"
    axes.set_title(f"{title} · {say[note]}", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, handlelength=4, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, path)


def _lines(rows: Sequence[Row], say: Mapping[str, str]) -> dict[str, list[Row]]:
    """What makes a line of its own among the rows of one family -> its rows by cost; "" where there is one line.

    Of the ways of showing less one is enough here, the best at the shares that all have; the pruning plot has all.
    """
    random = bool(rows) and rows[0]["baseline_name"] == "random_policy_matched"
    keys = ("matched",) if random else ("checkpoint", "fallback_mode", "uncertainty", "vision", "pruning_mode")
    told = [key for key in keys if len({row.get(key) for row in rows}) > 1 or key == "pruning_mode"]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        values = {key: row[key] for key in told if row.get(key)}
        words = [say["fallback"] if key == "fallback_mode" else say.get(v, v) for key, v in values.items()]
        lines.setdefault(", ".join(words), []).append(row)
    if len(lines) > 1 and rows[0].get("pruning_mode"):
        shares = set.intersection(*({r.get("pruning_ratio") for r in line} for line in lines.values()))
        kind = max(lines, key=lambda k: sum(r["accuracy"] for r in lines[k] if r.get("pruning_ratio") in shares))
        lines = {f"{kind} ({say['best']})": lines[kind]}
    return {kind: sorted(line, key=lambda r: r["avg_cost"]) for kind, line in lines.items()}


def plot_actions(rows: Sequence[Row], path: Path, say: Mapping[str, str], title: str) -> Path:
    """Shares of NO, COARSE and FULL, one bar per row that `_telling` keeps.

    The ends of NO and of FULL have intervals: their deviation over seeds, or what a bootstrap over the questions gives
    (of a share p of n questions: 1.96 sqrt(p (1 - p) / n)).
    """
    rows = _telling(rows)
    bars = [(row["row"], {level: row[f"action_rate_{level}"] or 0.0 for level in ACTION_COLORS}) for row in rows]
    seeds = any(row.get("accuracy_std") is not None for row in rows)
    spreads = [
        [row.get(f"action_rate_{level}_std") or 0.0 if seeds else _binomial(shares[level], row.get("samples"))
         for level in ("no", "full")]
        for row, (_, shares) in zip(rows, bars, strict=True)
    ]  # fmt: skip
    note = say["over_seeds" if seeds else "over_questions"]
    return _save(_stacked(bars, ACTION_COLORS, spreads, say, say["share"], f"{title} · {note}"), path)


def _telling(rows: Sequence[Row]) -> list[Row]:
    """Rows worth a bar; the table of a run has all. A pruned look is always FULL and left out.

    Beside learned rows: the fixed rules, the matched random twins of the row whose lambda was chosen (or the middle
    one), and one threshold and one cascade nearest to its cost.
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
        keys = ("lambda_cost", "checkpoint")
        return row["baseline_name"] == "random_policy_matched" and all(row.get(k) == anchor.get(k) for k in keys)

    return [r for r in rows if not r["baseline_name"] or r["baseline_name"] in FIXED or twin(r) or r in near]


def plot_pruning(rows: Sequence[Row], path: Path, say: Mapping[str, str], title: str) -> Path:
    """Accuracy against the vision tokens that are left, one line per way of showing less."""
    figure, axes = _figure(6.4, 4.2)
    whole = [r for r in rows if r["baseline_name"] == "always_full"]
    for mode, (colour, marker) in MODES.items():
        mine = [r for r in rows if r.get("pruning_mode") == mode]
        if not mine:
            continue
        full = [] if any(r["pruning_ratio"] == 1 for r in mine) else whole
        # A smaller picture of two shares can have the same tokens: one point, of the first share.
        mine = list({r["remaining_vision_tokens"]: r for r in reversed([*mine, *full])}.values())
        mine = sorted(mine, key=lambda r: r["remaining_vision_tokens"])
        axes.errorbar(
            [r["remaining_vision_tokens"] for r in mine],
            [100 * r["accuracy"] for r in mine],
            yerr=_whiskers(mine),
            label=say[mode],
            color=colour,
            marker=marker,
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xlabel(say["kept"])
    axes.set_ylabel(say["accuracy"])
    axes.set_title(f"{title} · {say['over_questions']}", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def plot_errors(slices: Sequence[Row], path: Path, language: str = "en") -> Path:
    """Share of wrong answers per action of each rule, with Wilson intervals; rows of `error_slices.csv`."""
    say, z2 = labels_of(language), 1.96**2
    mine = [s for s in slices if s["category"] == "all" and s["action"] != "all"]
    figure, axes = _figure(7.2, 0.8 + 0.22 * len(mine))
    for place, item in enumerate(mine):
        n, rate = item["samples"], item["wrong"] / item["samples"]
        centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
        half = (z2 * rate * (1 - rate) / n + z2 * z2 / (4 * n * n)) ** 0.5 / (1 + z2 / n)
        whiskers = [[100 * max(0.0, rate - centre + half)], [100 * max(0.0, centre + half - rate)]]
        colour = ACTION_COLORS[item["action"].lower()]
        axes.barh(place, 100 * rate, xerr=whiskers, color=colour, ecolor="#444444", capsize=2, height=0.75)
    names = [f"{item['dataset']}: {item['row']}, {item['action']} (n={item['samples']})" for item in mine]
    axes.set_yticks(range(len(mine)), names, fontsize=7)
    axes.set_ylim(len(mine) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(say["wrong"])
    axes.set_title(f"{say['errors']} · {say['wilson']}", fontsize=10, loc="left")
    return _save(figure, path)


def plot_oracle(found: Mapping[str, Mapping[str, Any]], path: Path, language: str = "en") -> Path:
    """The cheapest right action per data set and category, stacked; the content of `analysis_oracle.json`."""
    say = labels_of(language)
    rows: list[tuple[str, Mapping[str, float], int]] = []
    for dataset, analysis in found.items():
        rows.append((dataset, analysis["cheapest_right"], analysis["samples"]))
        categories = analysis["by_category"].items()
        rows += [(f"{dataset}: {name}", shares, shares["samples"]) for name, shares in categories]
    bars = [(f"{name} (n={count})", shares) for name, shares, count in rows]
    spreads = [[_binomial(shares[level], count) for level in ("NO", "none")] for _, shares, count in rows]
    title = f"{say['oracle_title']} · {say['over_questions']}"
    return _save(_stacked(bars, ORACLE_COLORS, spreads, say, say["cheapest"], title), path)


def plot_ablation(rows: Sequence[Row], out: Path, language: str = "en") -> list[Path]:
    """Accuracy against cost per ablation and data set, one line per variant; rows of `ablation.csv`."""
    say, paths = labels_of(language), []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["accuracy"] is not None]
        names = sorted({row["ablation"] for row in mine} - {""})
        if not names:
            continue
        figure, panels = _figure(9.0, 6.4, (2, (len(names) + 1) // 2))
        for axes, name in zip(panels.flat, names, strict=False):
            variants = dict.fromkeys(row["checkpoint"] for row in mine if row["ablation"] == name)
            for number, variant in enumerate(variants):
                line = sorted((r for r in mine if r["checkpoint"] == variant), key=lambda r: r["avg_cost"])
                axes.errorbar(
                    [r["avg_cost"] for r in line],
                    [100 * r["accuracy"] for r in line],
                    yerr=_whiskers(line),
                    label=variant.removeprefix(f"{name} "),
                    color=f"C{number}",
                    marker="osD^"[number % 4],
                    elinewidth=0.8,
                    capsize=2,
                )
            for row in (r for r in mine if r["baseline_name"] in ("always_full", "always_coarse", "no_vision")):
                axes.plot(row["avg_cost"], 100 * row["accuracy"], "*", color=FAMILIES[row["baseline_name"]][1], ms=9)
            axes.set_title(f"{name} · {dataset}", fontsize=10, loc="left")
            axes.set_xlabel(say["cost"])
            axes.set_ylabel(say["accuracy"])
            axes.legend(fontsize=8, frameon=False, loc="lower right")
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        figure.suptitle(say["over_questions"], fontsize=10)
        paths.append(_save(figure, out / f"ablation_{dataset}.png"))
    return paths


def _stacked(
    bars: Sequence[tuple[str, Mapping[str, float]]],
    colours: Mapping[str, str],
    spreads: Sequence[Sequence[float]],
    say: Mapping[str, str],
    label: str,
    title: str,
) -> Any:
    """Bars of shares that sum to 1, with whiskers at the ends of the first and the last."""
    figure, axes = _figure(7.2, 1.2 + 0.24 * len(bars))
    left = [0.0] * len(bars)
    for level, colour in colours.items():
        widths = [100 * shares[level] for _, shares in bars]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=say[level.lower()], height=0.75)
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


def _whiskers(rows: Sequence[Row]) -> list[list[float]]:
    """Lengths below and above each accuracy, in points."""
    below, above = [], []
    for row in rows:
        spread = row.get("accuracy_std")
        low = row["accuracy"] - spread if spread is not None else row.get("accuracy_low")
        high = row["accuracy"] + spread if spread is not None else row.get("accuracy_high")
        below.append(100 * max(0.0, row["accuracy"] - (row["accuracy"] if low is None else low)))
        above.append(100 * max(0.0, (row["accuracy"] if high is None else high) - row["accuracy"]))
    return [below, above]


def _figure(width: float, height: float, panels: tuple[int, int] = (1, 1)) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(*panels, squeeze=False)
    for axes in grid.flat:
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, grid if panels != (1, 1) else grid[0, 0]


def _save(figure: Any, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.partial.png")
    for text in figure.findobj(match=lambda artist: hasattr(artist, "set_fontfamily")):
        if any(ord(c) > 0x2E7F for c in text.get_text()):
            text.set_fontfamily(["DejaVu Sans", *_cjk_fonts()[:1]])
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns where a font has one weight only
    try:
        figure.savefig(partial, bbox_inches="tight")  # a long title, too
        partial.replace(path)
    except OSError as error:
        raise FoveateError(f"{path}: the plot cannot be written ({error.strerror}); choose another folder") from error
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
