"""The report: self-contained, complete, robust against odd names and damaged or absent files."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths
from foveate.viz import overlay
from foveate.viz.report.data import choose, load_run, load_runs, outcomes, paired
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


def played(folder, wins, *, task="reach", variant="lightvla", kept=20.0, queries=4, seeds=None):
    """A run without trace: an episode per entry of `wins`."""
    folder.mkdir()
    episodes, inferences = [], []
    for i, win in enumerate(wins):
        row = {"task": task, "variant": variant, "episode": i}
        said = {"seed": i if seeds is None else seeds[i], "status": "success" if win else "failure"}
        episodes.append({**row, **said, "kept_mean": kept, "latency_ms_p50": 10.0})
        inferences += [
            {**row, "query": q, "step": 5 * q, "kept": kept, "patches": 128, "total_ms": 10.0} for q in range(queries)
        ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inferences))
    return folder


def test_runs_of_one_variant_are_never_pooled(tmp_path):
    a, b = played(tmp_path / "a", [1, 1, 1]), played(tmp_path / "b", [0, 0, 0], kept=30.0)
    html = build_report([a, b, a], tmp_path / "out").read_text()
    assert "success, 3 of 3, 95 % within 44–100 %" in html and "success, 0 of 3, 95 % within 0–56 %" in html
    assert "of 6" not in html
    assert "lightvla (a)" in html and "lightvla (b)" in html
    assert "20.0 of 128" in html and "30.0 of 128" in html
    # Newcombe's interval of paired rates: no zero width though all pairs agree.
    for cell in ("lightvla (b) − lightvla (a)", "0/3 against 3/3", "−100 [−100, −21]", "+10.0 [+10.0, +10.0]"):
        assert f"<td>{cell}</td>" in html


def test_pairs_are_scenes_that_both_have_played(tmp_path):
    a = played(tmp_path / "a", [1, 1, 0], seeds=[5, 6, 7])
    b = played(tmp_path / "b", [1, 0], variant="full", seeds=[7, 8])
    (pair,) = paired(load_runs([a, b]))
    assert (pair.column, pair.base, pair.scenes, pair.successes) == ("full", "lightvla", 1, (1, 0))
    assert pair.success[0] == 1.0
    other = played(tmp_path / "c", [1], task="push")
    assert paired(load_runs([a, other])) == []


def test_folders_of_one_name_are_told_apart_by_their_parents(tmp_path):
    folders = []
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        folders.append(played(tmp_path / parent / "run", [1]))
    assert [run.columns for run in load_runs(folders)] == [["lightvla (x/run)"], ["lightvla (y/run)"]]


def test_the_card_counts_all_inferences_and_says_how_many_are_traced(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=2, queries=3, side=(48, 48))
    rows = [
        {"variant": "lightvla", "task": "reach", "episode": e, "query": q, "step": 5 * q, "kept": 100, "patches": 128}
        for e in range(3)
        for q in range(7)
    ]
    (run / "queries.jsonl").write_text("".join(json.dumps({**row, "total_ms": 50.0}) + "\n" for row in rows))
    html = build_report([run], tmp_path / "out").read_text()
    assert "100.0 of 128" in html and "50.0 / 50.0" in html
    assert "<dt>inferences</dt><dd>21</dd>" in html and "<dt>traced</dt><dd>6 of 21</dd>" in html
    assert "21 inferences · 6 traced, in 2 of 3 episodes" in html
    assert len(gallery(html)[0]["frames"]) == 3


def test_a_folder_of_dumps_alone_shows_its_episodes_and_latency(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach", "push"), episodes=2, queries=3, side=(48, 48))
    (run / "episodes.jsonl").unlink()
    for path in dump_paths(run):  # as the users' own scripts write them
        dump = torch.load(path, weights_only=True)
        del dump["perf"]["stages_ms"], dump["capabilities"]["stages"]
        dump["perf"]["forward_latency_s"] = 0.0425
        torch.save(dump, path)
    html = build_report([run], tmp_path / "out").read_text()
    assert "4 episodes · 12 inferences · all traced" in html
    assert "<dt>episodes</dt><dd>4</dd>" in html and "42.5 / 42.5" in html
    assert "2 episodes" in html and "<h2>Latency by stage</h2>" in html and "<h2>Results</h2>" in html


def test_the_first_task_comes_first(tmp_path):
    run = write_run(tmp_path / "run", tasks=("window", "button"), episodes=1, queries=2, side=(48, 48))
    html = build_report([run], tmp_path / "out").read_text()
    assert [episode["task"] for episode in gallery(html)] == ["window", "button"]
    assert re.search(r'<option value="0" selected>window', html)


def test_pictures_carry_the_scale_of_their_colours(runs, tmp_path):
    html = build_report([runs[1]], tmp_path).read_text()
    pictures = gallery(html)[0]["frames"][0]["views"][0]["pictures"]
    colors = {p["label"]: p.get("colors") for p in pictures}
    assert colors["camera"] is None and colors["kept patches"] is None
    assert colors["router score"] == "viridis" and colors["attention, layer 01"] == "inferno"
    assert all(float(p["low"]) < float(p["high"]) for p in pictures if "colors" in p)
    low, high = overlay.over_grey("viridis")[[0, -1]]
    stops = re.search(r"\.scale \.viridis \{ background: linear-gradient\(90deg, (.*?)\)", html)[1].split(", ")
    assert stops[0] == "#{:02x}{:02x}{:02x}".format(*low) and stops[-1] == "#{:02x}{:02x}{:02x}".format(*high)


def test_schema_problems_stand_on_the_page(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=1, queries=2, side=(48, 48))
    for path in dump_paths(run):
        dump = torch.load(path, weights_only=True)
        del dump["meta"]["sample_id"]
        torch.save(dump, path)
    html = build_report([run], tmp_path / "out").read_text()
    assert "not as the trace schema says: meta.sample_id: missing (2 dumps)" in html


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("episodes.jsonl", '5\n{"variant": "full"}\n', "passed over 1 line, not JSON"),
        ("episodes.jsonl", '{"variant": "full"}\n', "passed over 1 line without task, episode, status"),
        (
            "episodes.jsonl",
            '{"task": {}, "episode": 0, "status": []}\n',
            "passed over 1 line without task, episode, status",
        ),
        (
            "queries.jsonl",
            '{"task": "t", "episode": 1e999, "step": 0}\n',
            "passed over 1 line without task, episode, step",
        ),
        ("queries.jsonl", "[" * 100_000 + "\n", "passed over 1 line, not JSON"),
        ("results.csv", "variant,task,episodes,successes\nfull,reach,abc,\n", "results.csv, line 2: expected"),
        ("results.csv", "variant,task,episodes,successes\nfull,reach,2,7\n", "results.csv, line 2: expected"),
        ("results.csv", "\xff\xfe", "results.csv"),
        ("summary.json", "[1]", "summary.json could not be read"),
        ("summary.json", '{"total": "x", "warnings": 5, "crash_reasons": 3}', ""),
        ("run.json", "[1]", ""),
        ("report/tokens_summary.json", '{"schema_problems": 3, "unreadable": "x", "warnings": null}', ""),
    ],
)
def test_files_that_hold_something_else_are_named_and_passed_over(tmp_path, name, content, said):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=1, queries=2, side=(48, 48))
    load_run(run)
    (run / name).write_bytes(content.encode("latin-1"))
    html = build_report([run], tmp_path / "out").read_text()
    assert said in html and "2 inferences" in html


def test_a_picture_outside_the_folder_is_not_read(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=1, queries=2, side=(48, 48))
    load_run(run)
    secret = tmp_path / "secret.png"
    picture = sorted((run / "images").rglob("*.png"))[0]
    picture.rename(secret)
    picture.symlink_to(secret)
    html = build_report([run], tmp_path / "out").read_text()
    assert "lies outside the run folder, and is not read" in html
    assert len(gallery(html)[0]["frames"]) == 1


def test_damaged_and_absent_files(tmp_path):
    run = write_run(tmp_path / "run", tasks=("reach",), episodes=1, queries=3, side=(48, 48))
    load_run(run)
    dump_paths(run)[0].write_bytes(b"x")
    (run / "summary.json").write_text("{")
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"torn')
    html = build_report([run], tmp_path / "out").read_text()
    assert "summary.json could not be read" in html
    assert "episodes.jsonl: passed over 1 line, not JSON" in html
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
