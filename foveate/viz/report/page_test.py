"""The report: self-contained, complete, robust against odd names and damaged or absent files."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths
from foveate.viz.report.data import choose, load_run, outcomes
from foveate.viz.report.page import build_report

CSV_COLUMNS = [
    "variant",
    "task",
    "episodes",
    "successes",
    "failures",
    "crashes",
    "success_rate",
    "ci_low",
    "ci_high",
    "kept_mean",
    "patches",
    "ms_p50",
    "ms_p95",
    "vision_ms_p50",
    "prune_ms_p50",
    "prefill_ms_p50",
    "denoise_ms_p50",
    "gflops",
]
VOID = {"meta", "link", "img", "input", "br", "line", "circle", "rect"}


class Balanced(HTMLParser):
    """Every element that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def gallery(html: str) -> list[dict]:
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', html, re.S)[1])


def write_csv(run, **more):
    cells = {"episodes": 2, "successes": 1, "failures": 0, "crashes": 1, "success_rate": 0.5, "ci_low": 0.0945}
    cells |= {"ci_high": 0.9055, "kept_mean": 20.5, "patches": 128, "ms_p50": 21.25, "ms_p95": 30, **more}
    with (run / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for task in ("reach", "push"):
            writer.writerow({"variant": run.name, "task": task, **cells})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for variant, keep in (("full", None), ("lightvla", 20)):
        run = write_run(root / variant, variant=variant, keep=keep, queries=12, side=(96, 128))
        write_csv(run)
        (run / "summary.json").write_text(json.dumps({"warnings": [f"a warning of {variant} <b>"]}))
        folders.append(run)
    return folders


def test_one_file_with_everything_in_it(runs, tmp_path):
    path = build_report(runs, tmp_path / "report")
    assert path == tmp_path / "report/index.html"
    html = path.read_text()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "{{" not in html
    # Nothing is fetched: no address but data URIs and fragments of this page.
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import|https?://', html)
    for heading in ("Results", "Kept tokens over time", "Success against kept tokens", "Latency by stage"):
        assert f"<h2>{heading}</h2>" in html
    assert "Stability of the kept set" in html
    assert "a warning of full &lt;b&gt;" in html
    assert "1/2" in html and "9–91 %" in html and "20.5 / 128" in html and "1 crash<" in html


def test_gallery_covers_variants_and_outcomes_within_its_limit(runs, tmp_path):
    episodes = gallery(build_report(runs, tmp_path).read_text())
    frames = [frame for episode in episodes for frame in episode["frames"]]
    assert 40 <= len(frames) <= 50
    shown = {(episode["name"].rpartition(" · ")[2], episode["status"]) for episode in episodes}
    assert shown == {(v, s) for v in ("full", "lightvla") for s in ("success", "failure", "crash")}
    for episode in episodes:
        steps = [frame["step"] for frame in episode["frames"]]
        assert steps[0] == 0 and steps[-1] == 55 and steps == sorted(steps)
    labels = {tuple(p["label"] for p in view["pictures"]) for frame in frames for view in frame["views"]}
    attention = ("attention, layer 01", "attention, layer 02")
    assert labels == {
        ("camera", "kept patches", *attention),
        ("camera", "kept patches", "router score", *attention),
    }
    assert all(p["src"].startswith("data:image/jpeg;base64,") for p in frames[0]["views"][0]["pictures"])


def test_choose_takes_a_new_task_first(runs):
    loaded = [load_run(run) for run in runs]
    chosen = choose(loaded, limit=8, episodes=6)
    assert sum(map(len, chosen.values())) <= 8
    assert {task for _, task, _ in chosen} == {"reach", "push", "drawer-open"}
    assert {outcomes(loaded)[episode] for episode in chosen} == {"success", "failure", "crash"}


def test_text_from_outside_cannot_break_the_page(tmp_path):
    nasty = '</script><script>alert(1)</script><img src=x onerror="1">{{body}}'
    run = write_run(tmp_path / "run", variant=nasty, tasks=("reach",), episodes=1, queries=2, side=(48, 48))
    html = build_report([run], tmp_path / "out").read_text()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert html.count("<script") == 2 and "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=&#34;1&#34;&gt;{{body}}") >= 3, "in the subtitle, a legend and the gallery"
    assert gallery(html)[0]["name"].endswith(nasty)


def test_damaged_and_absent_files(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=1, queries=3, side=(48, 48))
    load_run(run)
    dump_paths(run)[0].write_bytes(b"x")
    (run / "summary.json").write_text("{")
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"torn')
    html = build_report([run], tmp_path / "out").read_text()
    assert "summary.json could not be read" in html
    assert "episodes.jsonl: 1 lines are no JSON" in html
    assert "step00000.pt: not a readable dump" in html
    assert len(gallery(html)[0]["frames"]) == 2


def test_a_run_without_trace_still_has_charts(tmp_path):
    (tmp_path / "run").mkdir()
    rows = [
        {"variant": "full", "task": "reach", "episode": 0, "query": i, "step": 5 * i, "kept": 128 - i} for i in (0, 1)
    ]
    lines = "".join(json.dumps({**row, "patches": 128, "total_ms": 20.0, "vision_ms": 7.0}) + "\n" for row in rows)
    (tmp_path / "run/queries.jsonl").write_text(lines)
    html = build_report([tmp_path / "run"], tmp_path / "out").read_text()
    assert "127.5 of 128" in html and "holds no traced inference" in html and "Latency by stage" in html
    assert gallery(html) == []


def test_an_empty_folder_and_a_missing_one(tmp_path):
    (tmp_path / "run").mkdir()
    assert "0 inferences" in build_report([tmp_path / "run"], tmp_path / "out").read_text()
    with pytest.raises(FoveateError, match="no such run folder"):
        build_report([tmp_path / "nothing"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="the report cannot be written"):
        build_report([tmp_path / "run"], tmp_path / "file")
