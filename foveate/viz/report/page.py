"""The report: one self-contained HTML file over one or more run folders.

    build_report([Path("runs/demo/full"), Path("runs/demo/lightvla")], Path("runs/demo/report"))

Reads what the runs left (results.csv, summary.json, episodes.jsonl, report/tokens.jsonl, dumps, images), as far as it
is there. Needs no model, no GPU and, once written, no server and no network.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.tracing.record import read_record
from foveate.util.files import write_text
from foveate.viz.overlay import layers
from foveate.viz.plots import load_images
from foveate.viz.report import charts
from foveate.viz.report.data import RunData, choose, key, load_run, outcomes, percentile

TEMPLATE = Path(__file__).with_name("report.html")
STAGES = ("vision", "prune", "prefill", "denoise", "other")
GALLERY = 50
"""Inferences in the gallery at most."""
PICTURE = 320
"""Longest side of an embedded picture in pixels."""


def build_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write `out/index.html`, whole or not at all, and return its path.

    Args:
        run_dirs: run folders, shown side by side.
    Raises:
        FoveateError: a folder is missing, or the report cannot be written.
    """
    for folder in run_dirs:
        if not folder.is_dir():
            raise FoveateError(f"{folder}: no such run folder")
    runs = [load_run(Path(folder)) for folder in run_dirs]
    variants = list(dict.fromkeys(variant for run in runs for variant in run.variants))
    gallery, problems = _gallery(runs)
    warnings = [f"{run.folder.name}: {text}" for run in runs for text in run.warnings] + problems
    sections = [
        _tiles(runs, variants),
        _warnings(warnings),
        _table(runs, variants),
        _gallery_section(gallery),
        _kept_over_time(runs, variants),
        _success_against_kept(runs, variants),
        _latency(runs, variants),
        _stability(runs, variants),
    ]
    inferences = sum(len(run.inferences) for run in runs)
    episodes = sum(len(run.episodes) for run in runs)
    subtitle = f"{', '.join(variants) or 'no inferences'} · {_plural(episodes, 'episode')} · "
    page = {
        "title": f"What the policy saw: {', '.join(run.folder.resolve().name for run in runs)}",
        "subtitle": escape(subtitle + _plural(inferences, "inference")),
        "body": "\n".join(section for section in sections if section),
        "footer": _footer(runs),
        # A script element ends at the first "</", wherever it stands.
        "gallery": json.dumps(gallery, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page["title"] = escape(page["title"])
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: page[match[1]], TEMPLATE.read_text(encoding="utf-8"))
    path = out / "index.html"
    write_text(path, html, "the report")
    return path


def _tiles(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    """The headline of each variant."""
    tiles = []
    for index, variant in enumerate(variants):
        rows = [r for run in runs for r in run.inferences if r["variant"] == variant]
        results = [r for run in runs for r in run.results if r["variant"] == variant]
        totals = [run.summary.get("total", {}) for run in runs if run.variants == [variant]]
        facts: list[tuple[str, str]] = []
        kept, patches = _mean(rows, "num_kept"), _mean(rows, "num_patches")
        if kept is not None and patches:
            facts.append(("visual tokens kept", f"{kept:.1f} of {patches:.0f} ({kept / patches:.0%})"))
        p50, p95 = percentile(rows, "total_ms", 50), percentile(rows, "total_ms", 95)
        if p50 is not None:
            facts.append(("ms per inference, p50 / p95", f"{p50:.1f} / {p95:.1f}"))
        if totals and totals[0].get("gflops"):
            facts.append(("GFLOP per inference", f"{totals[0]['gflops']:.3g}"))
        if rows:
            facts.append(("inferences", str(len(rows))))
        headline = ""
        episodes = sum(int(r["episodes"]) for r in results)
        if episodes:
            successes = sum(int(r["successes"]) for r in results)
            interval = totals[0].get("ci95") if totals else None
            between = f", 95 % within {_percents(interval)}" if interval else ""
            headline = (
                f'<div class="big">{successes / episodes:.0%}'
                f"<small>success, {successes} of {episodes}{between}</small></div>"
            )
        listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        tiles.append(f'<div class="card tile"><h3>{_dot(index)}{escape(variant)}</h3>{headline}<dl>{listed}</dl></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in dict.fromkeys(warnings))
    return f'<section class="warnings" aria-label="Warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def _table(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    rows = {(r["variant"], str(r["task"])): r for run in runs for r in run.results}
    if not rows:
        return ""
    tasks = list(dict.fromkeys(task for _, task in rows))
    groups = "".join(f'<th colspan="3">{_dot(i)} {escape(v)}</th>' for i, v in enumerate(variants))
    names = "<th>success</th><th>kept</th><th>ms p50 / p95</th>" * len(variants)
    body = "".join(
        f"<tr><td>{escape(task)}</td>"
        + "".join(_cells(rows.get((variant, task)), i) for i, variant in enumerate(variants))
        + "</tr>"
        for task in tasks
    )
    return (
        '<h2>Results</h2><p class="note">Successes of all episodes with their 95 % Wilson interval; a crash counts as '
        "an episode that did not succeed. Kept: visual tokens per inference, of those before pruning.</p>"
        f'<div class="card scroll"><table><thead><tr class="group"><th></th>{groups}</tr>'
        f"<tr><th>task</th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: dict[str, Any] | None, index: int) -> str:
    if row is None:
        return "<td>–</td>" * 3
    rate = row["success_rate"] or 0.0
    bar = f'<span class="bar"><i style="width:{rate:.0%};background:{charts.color(index)}"></i></span>'
    crashes = int(row.get("crashes") or 0)
    crashed = f'<span class="crash">{_plural(crashes, "crash", "crashes")}</span>' if crashes else ""
    success = f"{bar}{int(row['successes'])}/{int(row['episodes'])}"
    success += f'<span class="ci">{_percents((row["ci_low"], row["ci_high"]))}</span>{crashed}'
    kept = "–" if row["kept_mean"] is None else f"{row['kept_mean']:.1f} / {row['patches']:.0f}"
    ms = "–" if row["ms_p50"] is None else f"{row['ms_p50']:.1f} / {row['ms_p95']:.1f}"
    return f"<td>{success}</td><td>{kept}</td><td>{ms}</td>"


def _kept_over_time(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    series = _over_time(runs, variants, "num_kept")
    top = max((y for lines in series.values() for line in lines for y in line.ys), default=0) * 1.05
    pictures = [
        charts.lines(lines, x_label="step", y_label="patches kept", title=task, y=(0, top))
        for task, lines in series.items()
    ]
    return _chart_section(
        "Kept tokens over time",
        "One thin line per episode, dashed where it did not succeed; the thick line is the mean over the episodes that "
        "still run at that step.",
        pictures,
        variants,
    )


def _stability(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    series = _over_time(runs, variants, "keep_iou")
    pictures = [
        charts.lines(lines, x_label="step", y_label="IoU with the inference before", title=task, y=(0, 1.02))
        for task, lines in series.items()
    ]
    means = []
    for variant in variants:
        iou = _mean([r for run in runs for r in run.inferences if r["variant"] == variant], "keep_iou")
        means += [] if iou is None else [f"{variant} {iou:.2f}"]
    return _chart_section(
        "Stability of the kept set",
        "Overlap (intersection over union) of the patches kept with those of the inference before. 1: the same set, "
        f"which is no wonder where all are kept; 0: none in common. Means: {', '.join(means)}.",
        pictures,
        variants,
    )


def _over_time(runs: Sequence[RunData], variants: Sequence[str], name: str) -> dict[str, list[charts.Line]]:
    """Task -> a faint line per episode and a mean line per variant."""
    status = outcomes(runs)
    episodes: dict[str, dict[Any, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for row in run.inferences:
            if row.get(name) is not None:
                episodes[str(row["task"])][key(row)].append(row)
    result: dict[str, list[charts.Line]] = {}
    for task, by_episode in episodes.items():
        drawn: list[charts.Line] = []
        at: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for episode, rows in by_episode.items():
            label = f"{episode[0]}, episode {episode[2]}"
            index, failed = variants.index(episode[0]), status.get(episode, "success") != "success"
            xs, ys = [row["step"] for row in rows], [row[name] for row in rows]
            drawn.append(charts.Line(label, index, xs, ys, faint=True, dashed=failed))
            for x, y in zip(xs, ys, strict=True):
                at[episode[0]][x].append(y)
        for variant, points in at.items():
            steps = sorted(points)
            mean = [float(np.mean(points[step])) for step in steps]
            drawn.append(charts.Line(f"{variant}, mean", variants.index(variant), steps, mean))
        result[task] = drawn
    return result


def _success_against_kept(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    rows = [r for run in runs for r in run.results if r["kept_mean"] is not None and r["success_rate"] is not None]
    if not rows:
        return ""
    frame = charts.Frame(
        (0, max(r["patches"] or r["kept_mean"] for r in rows) * 1.03),
        (0, 1.04),
        x_label="patches kept per inference",
        y_label="success rate",
        size=(560, 300),
        percent=True,
    )
    for r in rows:
        label = (
            f"{r['variant']}, {r['task']}: {int(r['successes'])}/{int(r['episodes'])} at {r['kept_mean']:.1f} patches"
        )
        interval = (r["ci_low"] or 0.0, r["ci_high"] or 0.0)
        frame.dot(r["kept_mean"], r["success_rate"], variants.index(r["variant"]), label, interval)
    return _chart_section(
        "Success against kept tokens",
        "A point per task and variant with its 95 % Wilson interval. Up and to the left is better.",
        [frame.svg("success rate against patches kept")],
        variants,
    )


def _latency(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    bars = []
    for variant in variants:
        rows = [r for run in runs for r in run.inferences if r["variant"] == variant]
        total = percentile(rows, "total_ms", 50)
        if total is None:
            continue
        stages = [percentile(rows, f"{stage}_ms", 50) or 0.0 for stage in STAGES[:-1]]
        bars.append((variant, [*stages, max(0.0, total - sum(stages))]))
    if not bars:
        return ""
    names = "".join(
        f'<span><i class="dot sq" style="background:var(--s{i})"></i>{name}</span>' for i, name in enumerate(STAGES)
    )
    return (
        '<h2>Latency by stage</h2><p class="note">Medians in milliseconds per inference. Prefill is what other reports '
        "call kv_cache; other is what the stages leave of the whole: processing of images and text, copies.</p>"
        f'<div class="card"><div class="legend">{names}</div>'
        f'<div class="scroll">{charts.stacked_bars(bars, STAGES, "ms")}</div></div>'
    )


def _chart_section(title: str, note: str, pictures: Sequence[str], variants: Sequence[str]) -> str:
    if not pictures:
        return ""
    legend = "".join(f"<span>{_dot(i)}{escape(v)}</span>" for i, v in enumerate(variants))
    return (
        f'<h2>{title}</h2><p class="note">{escape(note)}</p><div class="card"><div class="legend">{legend}</div>'
        f'<div class="charts">{"".join(pictures)}</div></div>'
    )


def _gallery(runs: list[RunData]) -> tuple[list[dict[str, Any]], list[str]]:
    """The episodes of the gallery, and what could not be shown."""
    status, episodes, problems = outcomes(runs), [], []
    for episode, inferences in choose(runs, GALLERY).items():
        frames, instruction = [], ""
        for run, row in inferences:
            try:
                record = read_record(run.folder / row["dump"], run.folder)
                images = load_images(record)
            except FoveateError as error:
                problems.append(str(error))
                continue
            instruction = str(record.meta.get("instruction", ""))
            drawn = {"camera": images, **layers(record, images, bars=False)} if images else {}
            views = [
                {"name": v.name, "pictures": [{"label": _label(k), "src": _embed(p[v.name])} for k, p in drawn.items()]}
                for v in record.views
                if v.name in images
            ]
            numbers = {"kept": row.get("num_kept"), "patches": row["num_patches"], "ms": row.get("total_ms")}
            if views:
                frames.append({"step": row["step"], "views": views, **numbers})
        if frames:
            variant, task, number = episode
            said = {"status": status.get(episode, ""), "instruction": instruction}
            episodes.append({"name": f"{task} · episode {number} · {variant}", **said, "frames": frames})
    return episodes, problems


def _gallery_section(gallery: Sequence[dict[str, Any]]) -> str:
    if not gallery:
        return (
            '<h2>What it looked at</h2><p class="note">The run holds no traced inference with its pictures; trace one '
            "with <code>--trace_out_dir</code>.</p>"
        )
    names = [" · ".join(filter(None, (episode["name"], episode["status"]))) for episode in gallery]
    # The richest evidence is shown first: a scored inference has a picture more than one that keeps everything.
    first = max(range(len(gallery)), key=lambda i: len(gallery[i]["frames"][0]["views"][0]["pictures"]))
    options = "".join(
        f'<option value="{i}"{" selected" if i == first else ""}>{escape(name)}</option>'
        for i, name in enumerate(names)
    )
    frames = sum(len(episode["frames"]) for episode in gallery)
    return (
        f'<h2>What it looked at</h2><p class="note">{_plural(frames, "inference")}, chosen over variants, outcomes and '
        "time. Router score: for each patch the largest score that any query gives it, dark blue to yellow. Attention: "
        "of the text over the patches, mean over heads, black to yellow. Dropped patches are dimmed.</p>"
        '<div class="card" id="gallery"><div class="controls"><label for="episode">Episode</label>'
        f'<select id="episode">{options}</select><label for="time">Time</label>'
        '<input id="time" type="range" min="0" value="0" step="1" max="0"><output id="at" for="time"></output>'
        '<button id="play" type="button">Play</button></div><div class="facts" id="facts"></div>'
        '<div id="views"></div></div>'
    )


def _label(kind: str) -> str:
    named = {"score_heatmap": "router score", "mask_heatmap": "kept patches"}
    return named.get(kind, kind.replace("attn_task_to_vis/layer", "attention, layer "))


def _embed(picture: np.ndarray) -> str:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((PICTURE, PICTURE))
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _footer(runs: Sequence[RunData]) -> str:
    facts = []
    for run in runs:
        path = run.folder / "run.json"
        try:
            made = json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            made = {}
        revision = (made.get("git") or {}).get("revision")
        facts.append(f"{run.folder}" + (f" (revision {str(revision)[:12]})" if revision else ""))
    return escape("Made by foveate from " + ", ".join(facts))


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _percents(interval: Sequence[float]) -> str:
    return f"{interval[0] * 100:.0f}–{interval[1] * 100:.0f} %"


def _dot(index: int) -> str:
    return f'<i class="dot" style="background:{charts.color(index)}"></i>'


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
