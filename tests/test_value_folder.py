"""What a command of the value-of-vision part leaves in its folder: true counts, and nothing of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from value_commands import elsewhere, rows_of  # noqa: F401 - a fixture

from foveate.cli.main import main

pytestmark = pytest.mark.usefixtures("elsewhere")


def names_after(*words: str, out: str, verb: tuple[str, ...] = ("eval", "vqa"), dataset: str = "mixed") -> set[str]:
    """The names in the folder after the command."""
    asked = ("--dataset_config", dataset, "--max_samples", "40", "--output_dir", out, "--eval.bootstrap", "20")
    assert main([*verb, "--model.path", "fake_vlm:FakeVLM", *asked, *words]) == 0
    return {path.name for path in Path(out).iterdir()} - {".lock"}


@pytest.mark.slow
def test_a_second_run_leaves_no_file_of_the_first():
    Path("secret.jsonl").write_text('{"id": "q", "question": "what is it? need=NO"}\n')
    first = names_after(out="both", verb=("sweep", "oracle"))
    assert first >= {"analysis_oracle.json", "analysis_oracle.png", "pareto_mixed.png", "error_slices.png"}
    for name in ("checkpoint-000001.pt", "pareto_mine.png", "notes.csv"):
        Path("both", name).write_text("")
    second = names_after("--policy.baseline_name", "no_vision", out="both", dataset="secret.jsonl")
    assert second == {
        "results.csv", "summary.json", "config.yaml", "run.json", "eval_matrix.csv", "eval_matrix.json",
        "error_slices.csv", "error_slices.json", "categories.csv", "submission_secret_no_vision.jsonl",
        "checkpoint-000001.pt", "pareto_mine.png", "notes.csv", "predictions.jsonl",
    }  # fmt: skip
    third = names_after("--ratios", "0.5", out="both", verb=("sweep", "pruning"))
    assert third >= {"pareto_pruning.csv", "pruning_mixed.png"} and "submission_secret_no_vision.jsonl" not in third


@pytest.mark.slow
def test_tables_leave_no_plot_of_other_sets_and_keep_what_a_run_wrote():
    Path("known.jsonl").write_text('{"id": "q", "question": "what is it? need=NO", "answer": "yes"}\n')
    for dataset, name in (("mixed", "a"), ("known.jsonl", "b")):
        names_after("--policy.baseline_name", "no_vision", out=name, dataset=dataset)
        assert main(["value", "tables", name, "--output_dir", "tables"]) == 0
    names = {path.name for path in Path("tables").iterdir()}
    assert {"pareto_known.png", "action_ratio_known.png", "main_table.csv"} <= names
    assert not {"pareto_mixed.png", "action_ratio_mixed.png"} & names
    assert main(["value", "tables", "a", "--output_dir", "a"]) == 0
    assert {"eval_matrix.csv", "error_slices.csv", "main_table.csv"} <= {path.name for path in Path("a").iterdir()}


def test_a_fixed_rule_says_only_what_its_passes_show(capsys):
    names_after(out="oracle", verb=("sweep", "oracle"))
    assert "not made" not in capsys.readouterr().out
    names_after("--policy.baseline_name", "no_vision", out="blind")
    counts = ("wrong", "wrong_looked_too_little", "wrong_at_every_action", "right_but_looked_too_much")
    (truth,) = [r for r in rows_of("oracle/error_slices.csv") if (r["row"], r["action"]) == ("no_vision", "NO")][:1]
    (found,) = [r for r in rows_of("blind/error_slices.csv") if r["action"] == "NO"][:1]
    assert found["wrong"] == truth["wrong"] != "0" and truth["wrong_at_every_action"] != truth["wrong"]
    assert [found[key] for key in counts[1:]] == ["", "", "0"]
    pieces = json.loads(Path("blind/error_slices.json").read_text())["slices"]
    assert pieces[0]["wrong_looked_too_little"] is None
    assert rows_of("blind/categories.csv")[0]["blind_answerable"] != ""
    names_after("--policy.baseline_name", "always_full", out="full")
    assert rows_of("full/categories.csv")[0]["blind_answerable"] == ""
    assert "mixed: NO and COARSE passes were not made" in capsys.readouterr().out


def test_the_curve_has_the_mode_that_was_asked_for(monkeypatch):
    from foveate.viz.value import curves

    seen = []
    monkeypatch.setattr(curves, "plot_curve", lambda *words: seen.append(words[-1]) or words[1])
    names_after("--ratios", "0.5", "--mode", "pool", out="pool", verb=("sweep", "pruning"))
    pruning = ("--policy.baseline_name", "vision_token_pruning_proxy", "--policy.baseline_pruning_mode", "topk_norm")
    names_after(*pruning, out="topk")
    assert seen == ["pool", "topk_norm"]
