"""The reports of `foveate attn fidelity`: Markdown, and one self-contained HTML file. Reads numbers and pictures alone.

write_reports(result, pictures, Path("runs/fidelity"))     # `result` is the content of fidelity.json
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.util.files import write_text
from foveate.util.words import percent, plural
from foveate.viz.report import charts
from foveate.viz.report.render import render
from foveate.viz.report.tables import Table, markdown, number, with_ci

Row = dict[str, Any]
KINDS = ("high", "random", "low")
NAMES = {
    "mse": "MSE",
    "si_mse": "scale-invariant MSE",
    "scale": "change of scale",
    "direction": "change of direction (1 − cosine)",
}
PRUNER_NAMES = {
    "drop_kept": "without what it keeps",
    "random_kept": "without as many at random",
    "drop_dropped": "without what it drops",
    "random_dropped": "without as many at random",
    "kept_matters": "difference, kept",
    "dropped_matters": "difference, dropped",
}


def write_reports(result: Mapping[str, Any], pictures: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Write `fidelity.md` and `index.html`, each whole or not at all, and return their paths.

    Args:
        result: content of `fidelity.json`; what could not be computed is None in it.
        pictures: of what was covered, below `out`.
    """
    markdown, html = out / "fidelity.md", out / "index.html"
    for path, text in ((markdown, to_markdown(result, pictures, out)), (html, to_html(result, pictures))):
        write_text(path, text, "the report")
    return markdown, html


def to_markdown(result: Mapping[str, Any], pictures: Sequence[Path], out: Path) -> str:
    """The report as Markdown, pictures linked."""
    lines = [f"# Fidelity of the attention maps of {result['policy']}", "", _what(result), ""]
    for choice in result["rankings"]:
        lines += [f"## Layers by what covering {_view_words(choice)} does", ""]
        lines += markdown(ranking_table(result, choice))
        lines.append("")
    metric = result["metric"]
    lines += [f"## All measures, {_view_words(result['views'][0])}", ""]
    for name in (m for m in NAMES if m != metric):
        lines += [f"{NAMES[name]}:", "", *markdown(_measures(result, result["views"][0], name)), ""]
    lines += [f"## Action by action: {NAMES[metric]}, high − random", "", *markdown(_dims(result)), ""]
    if result["curves"]:
        lines += ["## Deletion and insertion", "", *markdown(_curve_table(result)), ""]
    if result["pruner"]:
        lines += ["## The pruner", "", _pruner_words(result), "", *markdown(_pruner_table(result)), ""]
    if pictures:
        lines += ["## What was covered", ""]
        lines += [f"![{p.stem}]({p.relative_to(out).as_posix()})" for p in pictures]
        lines.append("")
    return "\n".join(lines)


def to_html(result: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """The report as one page that needs no server, network or file beside it."""
    metric, first = result["metric"], result["views"][0]
    others = [name for name in NAMES if name != metric]
    frames, episodes = plural(result["frames"], "frame"), plural(result["episodes"], "episode")
    return render(
        "fidelity.html.j2",
        title=f"Are the attention maps true? {result['policy']}",
        subtitle=f"{frames} of {episodes} · {_settings(result)}",
        what=_what(result),
        kinds=KINDS,
        rankings={
            _view_words(choice): {
                "chart": _layer_chart(result, choice, metric, (460, 260)),
                "table": ranking_table(result, choice),
            }
            for choice in result["rankings"]
        },
        first_views=_view_words(first),
        measure_charts={NAMES[name]: _layer_chart(result, first, name) for name in others},
        measure_tables={NAMES[name]: _measures(result, first, name) for name in others},
        metric=NAMES[metric],
        dims=_dims(result),
        curves=result["curves"] and {"charts": _curve_charts(result), "table": _curve_table(result)},
        pruner=result["pruner"] and {"note": _pruner_words(result), "table": _pruner_table(result)},
        pictures={path.stem.replace("__", ", "): _data_uri(path) for path in pictures},
        footer=f"Made by foveate, revision {str((result['git'] or {}).get('revision', 'unknown'))[:12]}",
    )


def _what(result: Mapping[str, Any]) -> str:
    cover = 100 - result["plan"]["percentile"]
    return (
        f"In each of {plural(result['frames'], 'frame')} the {cover:g} % of the picture that a layer's map marks "
        f"highest was covered ({result['plan']['fill']}) in the source picture, and the policy was asked again with "
        f"the same noise (high). Controls: as much area elsewhere, {result['plan']['draws']} random draws (random), "
        "and the area marked lowest (low). A map is true as far as high changes the actions more than random does: "
        f"difference = high − random, in {NAMES[result['metric']]} unless said otherwise; ratio = high / random; wins: "
        "share of frames in which high changes more than the mean of the random draws. Brackets: 95 % bootstrap "
        f"intervals over {'episodes' if result['episodes'] > 1 else 'frames'}; shown: the interval lies above 0 and "
        "rests on five or more of them."
    )


def _settings(result: Mapping[str, Any]) -> str:
    plan = result["plan"]
    return f"{plan['phase']} maps, heads: {plan['heads']}, fill {plan['fill']}, seed {plan['seed']}"


def _view_words(choice: str) -> str:
    return {"both": "all views", "side": "the side view", "wrist": "the wrist view"}.get(choice, f"view {choice}")


def _row_of(result: Mapping[str, Any], choice: str, layer: int) -> Row:
    return next(r for r in result["summary"] if r["views"] == choice and r["layer"] == layer)


def ranking_table(result: Mapping[str, Any], choice: str) -> Table:
    """Head and rows: the layers of one choice of views, the most causal first."""
    rows = []
    for row in result["rankings"][choice]:
        m = _row_of(result, choice, row["layer"])["metrics"][result["metric"]]
        means = [number(m[kind]["mean"]) for kind in KINDS]
        place = [str(row["rank"]), str(row["layer"])]
        verdict = "yes" if row["proven"] else "no"
        rows.append([*place, *means, with_ci(row), number(row["ratio"]), percent(row["wins"]), verdict])
    return ["rank", "layer", *KINDS, "high − random", "ratio", "wins", "shown"], rows


def _measures(result: Mapping[str, Any], choice: str, metric: str) -> Table:
    rows = [
        [str(row["layer"]), *(with_ci(row["metrics"][metric][kind]) for kind in (*KINDS, "difference"))]
        for row in result["summary"]
        if row["views"] == choice
    ]
    return ["layer", *KINDS, "high − random"], rows


def _dims(result: Mapping[str, Any]) -> Table:
    rows = []
    for row in result["summary"]:
        if row["views"] == result["views"][0]:
            d = row["dims"][result["metric"]]
            cells = zip(d["difference"], d["difference_ci95"], strict=True)
            rows.append([str(row["layer"]), *(with_ci({"mean": m, "ci95": ci}) for m, ci in cells)])
    count = len(rows[0]) - 1
    return ["layer", *(f"action {i}" for i in range(count))], rows


def _curve_table(result: Mapping[str, Any]) -> Table:
    rows = [
        [_order(c)] + [with_ci(c[name]) for name in ("deletion_area", "insertion_area", "gap")]
        for c in result["curves"]
    ]
    return ["order", "area below deletion", "area below insertion", "gap"], rows


def _pruner_words(result: Mapping[str, Any]) -> str:
    p = result["pruner"]
    return (
        f"{p['name']} keeps {p['kept']:.1f} of {p['patches']:.0f} patches. The reference is the inference with all of "
        "them. Dropping what it keeps should change the actions more than dropping as many at random (difference, "
        "kept, above 0), and dropping what it drops less (difference, dropped, below 0)."
    )


def _pruner_table(result: Mapping[str, Any]) -> Table:
    rows = [
        [NAMES[m], *(with_ci(values[kind]) for kind in PRUNER_NAMES)]
        for m, values in result["pruner"]["metrics"].items()
    ]
    return ["", *PRUNER_NAMES.values()], rows


def _layer_chart(
    result: Mapping[str, Any], choice: str, metric: str, size: tuple[int, int] = charts.SMALL
) -> charts.Markup:
    rows = [row for row in result["summary"] if row["views"] == choice]
    layers = [row["layer"] for row in rows]
    points = [row["metrics"][metric][kind] for row in rows for kind in KINDS]
    top = max((v for p in points for v in (p["mean"], p["ci95"][1]) if v is not None), default=1)
    chart = charts.Chart(
        (min(layers) - 0.5, max(layers) + 0.5), (0, top * 1.05), x_label="layer", y_label=NAMES[metric], size=size
    )
    for row in rows:
        for i, kind in enumerate(KINDS):
            p = row["metrics"][metric][kind]
            if p["mean"] is None:
                continue
            ci = p["ci95"] if None not in p["ci95"] else None
            label = f"layer {row['layer']}, {kind}: {with_ci(p)}"
            chart.dot(row["layer"] + (i - 1) * 0.16, p["mean"], i, label, ci and (ci[0], ci[1]))
    return chart.svg(f"{NAMES[metric]} by layer, covering {_view_words(choice)}")


def _curve_charts(result: Mapping[str, Any]) -> dict[str, charts.Markup]:
    """Order of the patches -> chart."""
    reference = next(c for c in result["curves"] if c["layer"] is None)
    top = max(max(c["deletion"] + c["insertion"]) for c in result["curves"]) * 1.05
    drawn = {}
    for c in result["curves"]:
        lines = [charts.Line(k, i, c["shares"], c[k]) for i, k in enumerate(("deletion", "insertion"))]
        if c["layer"] is not None:
            lines += [
                charts.Line(f"{k}, random order", i, c["shares"], reference[k], faint=True, dashed=True)
                for i, k in enumerate(("deletion", "insertion"))
            ]
        order = _order(c)
        drawn[order] = charts.lines(lines, x_label="share of the picture", y_label="MSE", label=order, y=(0, top))
    return drawn


def _order(curve: Row) -> str:
    return "random order" if curve["layer"] is None else f"layer {curve['layer']}"


def _data_uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
