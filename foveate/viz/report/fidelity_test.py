"""The fidelity page: complete, self-contained, and safe with names from outside."""

from __future__ import annotations

import re

from PIL import Image

from foveate.viz.report.fidelity import KINDS, NAMES, write_reports

NASTY = '<img src=x onerror="1">{{ what }}'


def value(mean: float) -> dict:
    return {"mean": mean, "ci95": [mean / 2, mean * 2]}


def result(policy: str) -> dict:
    metrics = {name: {kind: value(0.25) for kind in (*KINDS, "difference")} for name in NAMES}
    dims = {name: {"difference": [0.1, 0.2], "difference_ci95": [[0.05, 0.3], [None, None]]} for name in NAMES}
    curve = {"shares": [0.0, 0.5, 1.0], "deletion": [0.0, 0.3, 0.4], "insertion": [0.4, 0.1, 0.0]}
    curve |= {name: value(0.5) for name in ("deletion_area", "insertion_area", "gap")}
    summary = [{"views": v, "layer": n, "metrics": metrics, "dims": dims} for v in ("both", policy) for n in (0, 1)]
    rank = {**value(0.1), "rank": 1, "layer": 1, "ratio": 2.5, "wins": 0.75, "proven": True}
    kinds = ("drop_kept", "random_kept", "drop_dropped", "random_dropped", "kept_matters", "dropped_matters")
    return {
        "policy": policy,
        "frames": 4,
        "episodes": 2,
        "plan": {"percentile": 90, "fill": "mean", "draws": 10, "phase": "suffix", "heads": "mean", "seed": 0},
        "metric": "si_mse",
        "views": ["both", policy],
        "rankings": {"both": [rank], policy: [rank]},
        "summary": summary,
        "curves": [{**curve, "layer": 1}, {**curve, "layer": None}],
        "pruner": {"name": policy, "kept": 8, "patches": 32, "metrics": {"mse": {kind: value(0.1) for kind in kinds}}},
        "git": None,
    }


def test_the_page_holds_every_part_and_fetches_nothing(tmp_path):
    picture = tmp_path / "side__layer_01.jpg"
    Image.new("RGB", (8, 8)).save(picture)
    markdown, page = write_reports(result("tiny"), [picture], tmp_path)
    html = page.read_text()
    for heading in ("How to read it", "The other measures", "Action by action", "Deletion and insertion", "The pruner"):
        assert f"<h2>{heading}</h2>" in html
    assert "<h2>Layers by what covering all views does</h2>" in html and "<h2>What was covered</h2>" in html
    assert html.count("<svg") == 2 + 3 + 2, "a chart per choice of views, per other measure, per order of patches"
    assert "layer 1, high: 0.25 [0.125, 0.5]" in html and "0.1 [0.05, 0.2]" in html and "75 %" in html
    assert "random order" in html and "keeps 8.0 of 32 patches" in html
    assert 'alt="what was covered: side, layer_01"' in html and html.count("data:image/jpeg;base64,") == 1
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import|https?://', html)
    assert "![side__layer_01](side__layer_01.jpg)" in markdown.read_text()


def test_parts_that_were_not_measured_are_left_out(tmp_path):
    _, page = write_reports({**result("tiny"), "curves": [], "pruner": None}, [], tmp_path)
    html = page.read_text()
    assert not any(f"<h2>{part}</h2>" in html for part in ("Deletion and insertion", "The pruner", "What was covered"))


def test_text_from_outside_cannot_break_the_page(tmp_path):
    picture = tmp_path / 'side"><img src=y>.jpg'
    Image.new("RGB", (8, 8)).save(picture)
    html = write_reports(result(NASTY), [picture], tmp_path)[1].read_text()
    assert "<img src=x" not in html and "<img src=y" not in html
    assert html.count("&lt;img src=x onerror=&#34;1&#34;&gt;{{ what }}") >= 4, (
        "in title, heading, a section and the words on the pruner"
    )
