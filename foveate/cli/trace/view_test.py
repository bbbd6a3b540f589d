"""The verbs of `foveate trace`, called as users call them."""

from __future__ import annotations

import pytest

from foveate.cli.main import main
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/try", tasks=("reach",), episodes=1, queries=3, side=(48, 64))


@pytest.mark.parametrize(
    "words", [["--exp_dir", "runs/try"], ["--run-root=runs/try"], ["--exp-name", "try"], ["runs/try"]]
)
def test_a_run_is_named_as_users_do(run, words):
    assert main(["trace", "tokens", *words]) == 0
    for name in ("tokens.jsonl", "tokens_summary.json", "capabilities.json"):
        assert (run / "report" / name).exists()


def test_plot_and_report(run, capsys):
    assert main(["trace", "plot", "--exp_dir", "runs/try", "--limit", "2"]) == 0
    assert len(list((run / "plots/score_heatmap").glob("*.png"))) == 4
    assert "1 inferences left out" in capsys.readouterr().out
    assert main(["trace", "report", "--run_root", "runs/try", "--compare", "runs/try", "--out", "both"]) == 0
    assert (run.parent.parent / "both/index.html").exists()
    assert main(["trace", "report", "--exp_name", "try"]) == 0
    assert (run / "report/index.html").exists()


def test_a_damaged_dump_is_named_and_the_status_says_so(run, capsys):
    dump_paths(run)[1].write_bytes(b"")
    for verb in ("plot", "tokens", "report"):
        assert main(["trace", verb, "runs/try"]) == 3
        out = capsys.readouterr().out
        assert "damaged:" in out and "step00005.pt" in out
    assert len((run / "report/tokens.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens"], "which run?"),
        (["plot", "--exp_name", "trie"], "no such run folder"),
        (["plot", "runs/try", "--limit", "0"], "--limit: expected at least 1"),
        (["report", "runs/try", "--compare", "runs/none"], "no such run folder"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, said):
    assert main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
