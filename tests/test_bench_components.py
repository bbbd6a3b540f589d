"""`foveate bench components` as a user runs it, on a simulator without physics and a small random policy."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from fake_env import on_the_path
from test_eval_sim import make_policy

from foveate.bench.adviser import fit_steps
from foveate.cli.main import main
from foveate.studies.components import ComponentsConfig, bench_components


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policies") / "random")


@pytest.fixture(autouse=True)
def fake_env_on_the_path(monkeypatch):
    on_the_path(monkeypatch)


def command(policy: Path, out: Path, *more: str) -> list[str]:
    return [
        "bench", "components", "--policy", str(policy), "--env", "fake_env:LineEnv", "--task_suite_name", "go,fail",
        "--num_trials_per_task", "2", "--out", str(out), "--env.timeout_s", "600", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def played(policy, tmp_path_factory) -> tuple[Path, Path, dict]:
    folder = tmp_path_factory.mktemp("components")
    with pytest.MonkeyPatch.context() as patch:
        on_the_path(patch)
        words = ["--denoising_steps", "1,2", "--pruning", "none,random_0.25", "--inject_latency", "50"]
        assert main(command(policy, folder / "out", *words, "--output_file", str(folder / "results.json"))) == 0
    return folder / "out", folder / "results.json", json.loads((folder / "results.json").read_text())


def test_every_row_is_a_run_of_eval_sim_and_the_document_adds_them_up(played):
    out, _, document = played
    rows = document["results"]
    assert [(r["engine"], r["pruning"], r["denoising_steps"]) for r in rows] == [
        ("eager", p, s) for p in ("none", "random_0.25") for s in (1, 2)
    ]
    for row in rows:
        folder = out / f"eager_{row['pruning']}_{row['denoising_steps']}steps"
        queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
        parts = row["component_latencies"]
        assert list(parts) == ["vision", "kv_cache", "denoise", "total"]
        for name, part in parts.items():
            ms = [q[f"{name}_ms"] for q in queries]
            assert (part["mean"], part["p50"], part["speedup"]) == (pytest.approx(np.mean(ms)), np.median(ms), 1.0)
            assert part["share"] == pytest.approx(part["mean"] / parts["total"]["mean"])
        total = parts["total"]
        assert row["mean_latency_ms"] == total["mean"] and row["Hz"] == pytest.approx(1000 / total["mean"])
        assert row["accuracy"] == 0.5 and (row["successes"], row["episodes"], row["crashes"]) == (2, 4, 0)
        assert row["accuracy_ci95"] == pytest.approx([0.15, 0.85], abs=0.005)  # Wilson, 2 of 4
        assert all(q["batch"] == 1 for q in queries)
        waiting = json.loads((folder.parent / f"{folder.name}_latency_50ms" / "environment.json").read_text())
        assert waiting["settings"]["inject_latency"] == 50.0
        assert row["at_latency"]["folder"].endswith("_latency_50ms") and row["at_latency"]["episodes"] == 4
        assert row["kept"] == (8.0 if row["pruning"] == "none" else 2.0)
    for full, pruned in zip(rows[:2], rows[2:], strict=True):
        assert pruned["loses_time"] == (full["mean_latency_ms"] < pruned["mean_latency_ms"])
        assert full["loses_time"] is False
    seen = {r["denoising_steps"]: r["component_latencies"]["denoise"]["mean"] for r in rows[:2]}
    line = fit_steps(seen)
    told = document["denoise_models"][0]
    assert (told["per_step_ms"], told["fixed_ms"]) == pytest.approx((line.per_step, line.fixed))


def test_the_same_command_plays_nothing_again_and_compares(played, policy, tmp_path, capsys):
    out, results, document = played
    logs = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    words = ["--denoising_steps", "1,2", "--pruning", "none,random_0.25", "--inject_latency", "50"]
    assert main(command(policy, out, *words, "--compare", str(results))) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == logs
    shown = capsys.readouterr().out
    assert "before and after" in shown and "Total Latency (ms)" in shown and "+0.00 Hz" in shown and "1.00x" in shown
    assert "Denoising Steps" in shown and "2/4 (15–85 %)" in shown and "at its latency" in shown
    for row in document["results"]:
        vision = row["component_latencies"]["vision"]
        assert f"{vision['mean']:.2f} ({100 * vision['share']:.1f} %)" in shown


def test_before_and_after_of_another_engine(played, policy, tmp_path, capsys):
    """The users' own comparison: an earlier run of another engine, twice as slow at two steps."""
    out, _, document = played
    (row,) = [r for r in copy.deepcopy(document["results"]) if (r["pruning"], r["denoising_steps"]) == ("none", 2)]
    for name in ("vision", "kv_cache", "denoise", "total"):
        row["component_latencies"][name]["mean"] *= 2
    row |= {"engine": "older", "mean_latency_ms": 2 * row["mean_latency_ms"], "Hz": row["Hz"] / 2, "accuracy": 0.25}
    old = tmp_path / "old.json"
    old.write_text(json.dumps({**document, "results": [row]}))
    assert main(command(policy, out, "--denoising_steps", "1,2", "--pruning", "none", "--compare", str(old))) == 0
    shown = capsys.readouterr().out
    assert "older -> eager, none, 2 steps" in shown and "1 steps  " not in shown.partition("before and after")[2]
    assert "2.00x" in shown and "+25.0 points" in shown


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file"),
        ("{", "expected the JSON document that `foveate bench components"),
        ('{"schema_version": "foveate.bench.components/v1", "results": []}', "expected the JSON document"),
        ('{"schema_version": "foveate.bench.components/v1", "results": [{"engine": 1}]}', "expected the JSON document"),
        ("[1]", "expected the JSON document"),
    ],
)
def test_an_earlier_document_that_is_none(policy, tmp_path, capsys, content, told):
    old = tmp_path / "old.json"
    if content is not None:
        old.write_text(content)
    assert main(command(policy, tmp_path / "out", "--compare", str(old))) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--denoising_steps", "0"], "denoising_steps: expected at least 1, got 0"),
        (["--engines", "eger"], "did you mean 'eager'"),
        (["--engines", "compiled"], "foveate engine check"),
        (["--engines", "eager", "--engine", "compiled"], "give --engines or --engine, one of them"),
        (["--pruning", "lightvl"], "did you mean 'lightvla'"),
        (["--inject_latency", "-3"], "expected milliseconds from 0 on"),
        (["--num_workers", "0"], "num_workers: expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_named(policy, tmp_path, capsys, flags, told):
    assert main(command(policy, tmp_path / "out", *flags)) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_notebook_gets_the_same_rows(policy, played):
    out, _, document = played
    config = ComponentsConfig(
        policy=str(policy), task_suite_name="go,fail", num_trials_per_task=2, out=str(out), denoising_steps=(2,),
        env=type(ComponentsConfig(policy="p").env)(name="fake_env:LineEnv", timeout_s=600.0), pruning=("none",),
    )  # fmt: skip
    (row,) = bench_components(config).rows
    assert row.component_latencies == document["results"][1]["component_latencies"]
    assert row.hz == document["results"][1]["Hz"] and row.at_latency is None
