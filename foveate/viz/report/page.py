"""The report: one self-contained HTML file over one or more run folders.

    build_report([Path("runs/demo/full"), Path("runs/demo/lightvla")], Path("runs/demo/report"))

Reads what the runs left (results.csv, summary.json, episodes.jsonl, report/tokens.jsonl, dumps, images), as far as it
is there. Needs no model, no GPU and, once written, no server and no network.
"""

from __future__ import annotations

import base64
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.tracing.record import read_record
from foveate.types import STAGES
from foveate.util.files import write_text
from foveate.viz.overlay import layers
from foveate.viz.plots import load_images
from foveate.viz.report import charts
from foveate.viz.report.data import RunData, choose, key, load_run, outcomes, percentile
from foveate.viz.report.render import render

LATENCY = (*STAGES[:-1], "other")
"""Parts of the time of an inference: the stages, and what they leave of the whole."""
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
    counts = [
        _plural(sum(len(run.episodes) for run in runs), "episode"),
        _plural(sum(len(run.inferences) for run in runs), "inference"),
    ]
    html = render(
        "report.html.j2",
        title=f"What the policy saw: {', '.join(run.folder.resolve().name for run in runs)}",
        subtitle=" · ".join([", ".join(variants) or "no inferences", *counts]),
        variants=variants,
        tiles=[_tile(runs, variant) for variant in variants],
        warnings=list(dict.fromkeys(warnings)),
        results=_results(runs, variants),
        gallery=gallery,
        gallery_first=_richest(gallery),
        gallery_size=_plural(sum(len(episode["frames"]) for episode in gallery), "inference"),
        kept_over_time=_kept_over_time(runs, variants),
        success_against_kept=_success_against_kept(runs, variants),
        stages=LATENCY,
        latency=_latency(runs, variants),
        stability=_stability(runs, variants),
        stability_means=_stability_means(runs, variants),
        footer="Made by foveate from " + ", ".join(map(_origin, runs)),
    )
    path = out / "index.html"
    write_text(path, html, "the report")
    return path


def _tile(runs: Sequence[RunData], variant: str) -> dict[str, Any]:
    """The headline of a variant."""
    rows = _inferences(runs, variant)
    results = [r for run in runs for r in run.results if r["variant"] == variant]
    totals = [run.summary.get("total", {}) for run in runs if run.variants == [variant]]
    facts: dict[str, str] = {}
    kept, patches = _mean(rows, "num_kept"), _mean(rows, "num_patches")
    if kept is not None and patches:
        facts["visual tokens kept"] = f"{kept:.1f} of {patches:.0f} ({kept / patches:.0%})"
    p50, p95 = percentile(rows, "total_ms", 50), percentile(rows, "total_ms", 95)
    if p50 is not None:
        facts["ms per inference, p50 / p95"] = f"{p50:.1f} / {p95:.1f}"
    if totals and totals[0].get("gflops"):
        facts["GFLOP per inference"] = f"{totals[0]['gflops']:.3g}"
    if rows:
        facts["inferences"] = str(len(rows))
    tile = {"variant": variant, "facts": facts, "rate": "", "episodes": ""}
    episodes = sum(int(r["episodes"]) for r in results)
    if episodes:
        successes = sum(int(r["successes"]) for r in results)
        interval = totals[0].get("ci95") if totals else None
        between = f", 95 % within {_percents(interval)}" if interval else ""
        tile["rate"] = f"{successes / episodes:.0%}"
        tile["episodes"] = f"success, {successes} of {episodes}{between}"
    return tile


def _results(runs: Sequence[RunData], variants: Sequence[str]) -> dict[str, list[dict[str, str] | None]]:
    """Task -> a cell per variant, None where it was not run."""
    rows = {(r["variant"], str(r["task"])): r for run in runs for r in run.results}
    tasks = list(dict.fromkeys(task for _, task in rows))
    return {task: [_cell(rows[v, task]) if (v, task) in rows else None for v in variants] for task in tasks}


def _cell(row: dict[str, Any]) -> dict[str, str]:
    crashes = int(row.get("crashes") or 0)
    return {
        "rate": f"{row['success_rate'] or 0.0:.0%}",
        "successes": f"{int(row['successes'])}/{int(row['episodes'])}",
        "interval": _percents((row["ci_low"], row["ci_high"])),
        "crashes": _plural(crashes, "crash", "crashes") if crashes else "",
        "kept": "–" if row["kept_mean"] is None else f"{row['kept_mean']:.1f} / {row['patches']:.0f}",
        "ms": "–" if row["ms_p50"] is None else f"{row['ms_p50']:.1f} / {row['ms_p95']:.1f}",
    }


def _kept_over_time(runs: Sequence[RunData], variants: Sequence[str]) -> dict[str, str]:
    """Task -> chart."""
    series = _over_time(runs, variants, "num_kept")
    top = max((y for lines in series.values() for line in lines for y in line.ys), default=0) * 1.05
    return {
        task: charts.lines(lines, x_label="step", y_label="patches kept", label=task, y=(0, top))
        for task, lines in series.items()
    }


def _stability(runs: Sequence[RunData], variants: Sequence[str]) -> dict[str, str]:
    """Task -> chart."""
    return {
        task: charts.lines(lines, x_label="step", y_label="IoU with the inference before", label=task, y=(0, 1.02))
        for task, lines in _over_time(runs, variants, "keep_iou").items()
    }


def _stability_means(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    means = {variant: _mean(_inferences(runs, variant), "keep_iou") for variant in variants}
    return ", ".join(f"{variant} {iou:.2f}" for variant, iou in means.items() if iou is not None)


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
    """A chart, or nothing."""
    rows = [r for run in runs for r in run.results if r["kept_mean"] is not None and r["success_rate"] is not None]
    if not rows:
        return ""
    chart = charts.Chart(
        (0, max(r["patches"] or r["kept_mean"] for r in rows) * 1.03),
        (0, 1.04),
        x_label="patches kept per inference",
        y_label="success rate",
        size=charts.LARGE,
        percent=True,
    )
    for r in rows:
        label = (
            f"{r['variant']}, {r['task']}: {int(r['successes'])}/{int(r['episodes'])} at {r['kept_mean']:.1f} patches"
        )
        interval = (r["ci_low"] or 0.0, r["ci_high"] or 0.0)
        chart.dot(r["kept_mean"], r["success_rate"], variants.index(r["variant"]), label, interval)
    return chart.svg("success rate against patches kept")


def _latency(runs: Sequence[RunData], variants: Sequence[str]) -> str:
    """A chart, or nothing."""
    bars = []
    for variant in variants:
        rows = _inferences(runs, variant)
        total = percentile(rows, "total_ms", 50)
        if total is None:
            continue
        stages = [percentile(rows, f"{stage}_ms", 50) or 0.0 for stage in LATENCY[:-1]]
        bars.append((variant, [*stages, max(0.0, total - sum(stages))]))
    return charts.stacked_bars(bars, LATENCY, "ms") if bars else ""


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


def _richest(gallery: Sequence[dict[str, Any]]) -> int:
    """The episode that is shown first: a scored inference has a picture more than one that keeps everything."""
    return max(range(len(gallery)), key=lambda i: len(gallery[i]["frames"][0]["views"][0]["pictures"]), default=0)


def _label(kind: str) -> str:
    named = {"score_heatmap": "router score", "mask_heatmap": "kept patches"}
    return named.get(kind, kind.replace("attn_task_to_vis/layer", "attention, layer "))


def _embed(picture: np.ndarray) -> str:
    """A data URI."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((PICTURE, PICTURE))
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _origin(run: RunData) -> str:
    """A run's folder, with the revision that made it where it is known."""
    path = run.folder / "run.json"
    try:
        made = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        made = {}
    revision = (made.get("git") or {}).get("revision")
    return f"{run.folder}" + (f" (revision {str(revision)[:12]})" if revision else "")


def _inferences(runs: Sequence[RunData], variant: str) -> list[dict[str, Any]]:
    return [row for run in runs for row in run.inferences if row["variant"] == variant]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _percents(interval: Sequence[float]) -> str:
    return f"{interval[0] * 100:.0f}–{interval[1] * 100:.0f} %"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
