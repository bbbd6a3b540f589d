"""The report: one self-contained HTML file over one or more run folders.

    build_report([Path("runs/demo/full"), Path("runs/demo/lightvla")], Path("runs/demo/report"))

Reads what the runs left (results.csv, summary.json, episodes.jsonl, report/tokens.jsonl, dumps, images), as far as it
is there. Needs no model, no GPU and, once written, no server and no network.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.tracing.record import Record, read_record
from foveate.types import STAGES
from foveate.util.files import write_text
from foveate.util.stats import wilson
from foveate.util.words import percent, percents, plural
from foveate.viz.overlay import heat, layers, short_number
from foveate.viz.plots import load_images
from foveate.viz.report import charts
from foveate.viz.report.data import Paired, RunData, choose, key, load_runs, mean, outcomes, paired, percentile
from foveate.viz.report.render import render

LATENCY = (*STAGES[:-1], "other")
"""Parts of the time of an inference: the stages, and what they leave of the whole."""
GALLERY = 50
"""Inferences in the gallery at most."""
PICTURE = 480
"""Longest side of an embedded picture in pixels."""


def build_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write `out/index.html`, whole or not at all, and return its path.

    Args:
        run_dirs: run folders, shown side by side and never pooled.
    Raises:
        FoveateError: a folder is missing, or the report cannot be written.
    """
    for folder in run_dirs:
        if not folder.is_dir():
            raise FoveateError(f"{folder}: no such run folder")
    runs = load_runs([Path(folder) for folder in run_dirs])
    columns = list(dict.fromkeys(column for run in runs for column in run.columns))
    gallery, problems = _gallery(runs)
    warnings = [f"{run.folder.name}: {text}" for run in runs for text in run.warnings] + problems
    inferences = [row for run in runs for row in run.inferences]
    counts = [
        plural(len({key(row) for run in runs for row in (*run.episodes, *run.inferences)}), "episode"),
        plural(len(inferences), "inference"),
    ]
    if any("dump" in row for row in inferences):
        counts.append(_traced(inferences))
    html = render(
        "report.html.j2",
        title=f"What the policy saw: {', '.join(run.folder.resolve().name for run in runs)}",
        subtitle=" · ".join([", ".join(columns) or "no inferences", *counts]),
        variants=columns,
        tiles=[_tile(runs, column) for column in columns],
        warnings=list(dict.fromkeys(warnings)),
        results=_results(runs, columns),
        paired=[_paired(pair) for pair in paired(runs)],
        gallery=gallery,
        gallery_first=_richest(gallery),
        gallery_size=plural(sum(len(episode["frames"]) for episode in gallery), "inference"),
        kept_over_time=_kept_over_time(runs, columns),
        success_against_kept=_success_against_kept(runs, columns),
        stages=LATENCY,
        latency=_latency(runs, columns),
        stability=_stability(runs, columns),
        stability_means=_stability_means(runs, columns),
        footer="Made by foveate from " + ", ".join(map(_origin, runs)),
    )
    path = out / "index.html"
    write_text(path, html, "the report")
    return path


def _tile(runs: Sequence[RunData], column: str) -> dict[str, Any]:
    """The headline of a column: all its numbers are of all its episodes and inferences, traced or not."""
    rows = _inferences(runs, column)
    results = [r for run in runs for r in run.results if r["column"] == column]
    totals = [run.summary.get("total") for run in runs if run.columns == [column]]
    facts: dict[str, str] = {}
    kept, patches = mean(rows, "num_kept"), mean(rows, "num_patches")
    if kept is not None and patches:
        facts["visual tokens kept"] = f"{kept:.1f} of {patches:.0f} ({percent(kept / patches)})"
    p50, p95 = percentile(rows, "total_ms", 50), percentile(rows, "total_ms", 95)
    if p50 is not None:
        facts["ms per inference, p50 / p95"] = f"{p50:.1f} / {p95:.1f}"
    if (delay := mean(rows, "delay_steps")) is not None:
        facts["steps that passed per inference"] = f"{delay:.1f}"
    gflops = totals[0].get("gflops") if totals and isinstance(totals[0], dict) else None
    if gflops and isinstance(gflops, int | float):
        facts["GFLOP per inference"] = f"{gflops:.3g}"
    if rows:
        facts["inferences"] = str(len(rows))
        facts["traced"] = f"{sum('dump' in row for row in rows)} of {len(rows)}"
    tile = {"variant": column, "facts": facts, "rate": "", "episodes": ""}
    known = [r for r in results if r["successes"] is not None]
    episodes, successes = sum(r["episodes"] for r in known), sum(int(r["successes"]) for r in known)
    if episodes:
        tile["rate"] = percent(successes / episodes)
        tile["episodes"] = f"success, {successes} of {episodes}, 95 % within {percents(*wilson(successes, episodes))}"
    elif results:
        tile["facts"] = {"episodes": str(sum(r["episodes"] for r in results)), **facts}
    return tile


def _traced(rows: Sequence[dict[str, Any]]) -> str:
    """How much of these inferences has dumps."""
    dumps = [row for row in rows if "dump" in row]
    if len(dumps) == len(rows):
        return "all traced"
    episodes, of = (len({key(row) for row in some}) for some in (dumps, rows))
    return f"{len(dumps)} traced, in {episodes} of {plural(of, 'episode')}"


def _results(runs: Sequence[RunData], columns: Sequence[str]) -> dict[str, list[dict[str, str] | None]]:
    """Task -> a cell per column, None where it was not run."""
    rows = {(r["column"], str(r["task"])): r for run in runs for r in run.results}
    tasks = list(dict.fromkeys(task for _, task in rows))
    return {task: [_cell(rows[c, task]) if (c, task) in rows else None for c in columns] for task in tasks}


def _cell(row: dict[str, Any]) -> dict[str, str]:
    crashes = int(row.get("crashes") or 0)
    cell = {
        "rate": "",
        "successes": plural(row["episodes"], "episode"),
        "interval": "",
        "crashes": plural(crashes, "crash", "crashes") if crashes else "",
        "kept": "–" if row["kept_mean"] is None else f"{row['kept_mean']:.1f} / {row['patches'] or math.nan:.0f}",
        "ms": "–" if row["ms_p50"] is None else f"{row['ms_p50']:.1f} / {row['ms_p95'] or row['ms_p50']:.1f}",
    }
    if row["successes"] is None:
        return cell
    return cell | {
        "rate": percent(row["success_rate"]),
        "successes": f"{int(row['successes'])}/{row['episodes']}",
        "interval": percents(row["ci_low"], row["ci_high"]),
    }


def _paired(pair: Paired) -> list[str]:
    """A row of the table of differences."""
    a, b = pair.successes
    rates = f"{a}/{pair.scenes} against {b}/{pair.scenes}"
    success = [100 * value for value in pair.success]
    return [
        f"{pair.column} − {pair.base}",
        str(pair.scenes),
        rates,
        _with_interval(success, "{:+.0f}"),
        _with_interval(pair.kept, "{:+.1f}"),
        _with_interval(pair.ms, "{:+.1f}"),
    ]


def _with_interval(value: Sequence[float] | None, form: str) -> str:
    if value is None:
        return "–"
    middle, low, high = (form.format(v).replace("-", "−") for v in value)
    return middle if math.isnan(value[1]) else f"{middle} [{low}, {high}]"


def _kept_over_time(runs: Sequence[RunData], columns: Sequence[str]) -> dict[str, str]:
    """Task -> chart."""
    series = _over_time(runs, columns, "num_kept")
    top = max((y for lines in series.values() for line in lines for y in line.ys), default=0) * 1.05
    return {
        task: charts.lines(lines, x_label="step", y_label="patches kept", label=task, y=(0, top))
        for task, lines in series.items()
    }


def _stability(runs: Sequence[RunData], columns: Sequence[str]) -> dict[str, str]:
    """Task -> chart."""
    return {
        task: charts.lines(lines, x_label="step", y_label="IoU with the inference before", label=task, y=(0, 1.02))
        for task, lines in _over_time(runs, columns, "keep_iou").items()
    }


def _stability_means(runs: Sequence[RunData], columns: Sequence[str]) -> str:
    means = {column: mean(_inferences(runs, column), "keep_iou") for column in columns}
    return ", ".join(f"{column} {iou:.2f}" for column, iou in means.items() if iou is not None)


def _over_time(runs: Sequence[RunData], columns: Sequence[str], name: str) -> dict[str, list[charts.Line]]:
    """Task -> a faint line per episode and a mean line per column."""
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
            index, failed = columns.index(episode[0]), status.get(episode, "success") != "success"
            xs, ys = [row["step"] for row in rows], [row[name] for row in rows]
            drawn.append(charts.Line(label, index, xs, ys, faint=True, dashed=failed))
            for x, y in zip(xs, ys, strict=True):
                at[episode[0]][x].append(y)
        for column, points in at.items():
            steps = sorted(points)
            means = [float(np.mean(points[step])) for step in steps]
            drawn.append(charts.Line(f"{column}, mean", columns.index(column), steps, means))
        result[task] = drawn
    return result


def _success_against_kept(runs: Sequence[RunData], columns: Sequence[str]) -> str:
    """A chart, or nothing."""
    rows = [r for run in runs for r in run.results if r["kept_mean"] is not None and r["success_rate"] is not None]
    if not rows:
        return ""
    least, most = min(r["kept_mean"] for r in rows), max(r["kept_mean"] for r in rows)
    room = 0.08 * (most - least) or 0.1 * max(most, 1.0)
    left, right = max(0.0, least - room), most + room
    chart = charts.Chart(
        (left, right),
        (0, 1.04),
        x_label="patches kept per inference",
        y_label="success rate",
        size=charts.LARGE,
        percent=True,
    )
    places = charts.dodge([r["kept_mean"] for r in rows], 0.012 * (right - left), (left, right))
    for r, place in zip(rows, places, strict=True):
        label = f"{r['column']}, {r['task']}: {int(r['successes'])}/{r['episodes']} at {r['kept_mean']:.1f} patches"
        chart.dot(place, r["success_rate"], columns.index(r["column"]), label, (r["ci_low"], r["ci_high"]))
    return chart.svg("success rate against patches kept")


def _latency(runs: Sequence[RunData], columns: Sequence[str]) -> str:
    """A chart, or nothing."""
    bars = []
    for column in columns:
        rows = _inferences(runs, column)
        total = percentile(rows, "total_ms", 50)
        if total is None:
            continue
        stages = [percentile(rows, f"{stage}_ms", 50) or 0.0 for stage in LATENCY[:-1]]
        bars.append((column, [*stages, max(0.0, total - sum(stages))]))
    return charts.stacked_bars(bars, LATENCY, "ms") if bars else ""


def _gallery(runs: list[RunData]) -> tuple[list[dict[str, Any]], list[str]]:
    """The episodes of the gallery, and what could not be shown."""
    status, episodes, problems = outcomes(runs), [], []
    for episode, inferences in choose(runs, GALLERY).items():
        frames, instruction = [], ""
        for run, row in inferences:
            try:
                record = read_record(_inside(run.folder, row["dump"]), run.folder)
                views = _views(record)
            except FoveateError as error:
                problems.append(str(error))
                continue
            except Exception as error:  # one odd inference does not cost the page
                problems.append(f"{row['dump']}: cannot be drawn ({type(error).__name__}: {error})")
                continue
            instruction = str(record.meta.get("instruction", ""))
            numbers = {"kept": row.get("num_kept"), "patches": row.get("num_patches"), "ms": row.get("total_ms")}
            if views:
                frames.append({"step": row["step"], "views": views, **numbers})
        if frames:
            column, task, number = episode
            said = {"status": status.get(episode, ""), "instruction": instruction}
            named = {"task": task, "name": f"{task} · episode {number} · {column}"}
            episodes.append({**named, **said, "frames": frames})
    return episodes, problems


def _inside(folder: Path, dump: str) -> Path:
    path = folder / dump
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FoveateError(f"{path}: lies outside the run folder, and is not read")
    return path


def _views(record: Record) -> list[dict[str, Any]]:
    """The pictures of an inference, view by view, each with its colour scale where it has one."""
    images = load_images(record)
    if not images:
        return []
    drawn, scales = {"camera": images, **layers(record, images, bars=False)}, heat(record)
    views = []
    for view in record.views:
        if view.name in images:
            pictures = []
            for kind, pictured in drawn.items():
                picture: dict[str, Any] = {"label": _label(kind), "src": _embed(pictured[view.name])}
                if kind in scales:
                    low, high = scales[kind].scale
                    picture |= {"low": short_number(low), "high": short_number(high), "colors": scales[kind].colors}
                pictures.append(picture)
            views.append({"name": view.name, "pictures": pictures})
    return views


def _richest(gallery: Sequence[dict[str, Any]]) -> int:
    """The episode that is shown first: of the first task one with the most pictures, for what keeps all has fewer."""
    of_first = [i for i, episode in enumerate(gallery) if episode["task"] == gallery[0]["task"]]
    return max(of_first, key=lambda i: len(gallery[i]["frames"][0]["views"][0]["pictures"]), default=0)


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
    try:
        revision = json.loads((run.folder / "run.json").read_text())["git"]["revision"]
    except (OSError, ValueError, TypeError, LookupError):
        revision = None
    return f"{run.folder}" + (f" (revision {str(revision)[:12]})" if revision else "")


def _inferences(runs: Sequence[RunData], column: str) -> list[dict[str, Any]]:
    return [row for run in runs for row in run.inferences if row["column"] == column]
