"""`foveate demo`, cut down to one episode of one task, on the policies that ship with foveate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.cli.main import main
from foveate.studies.demo import DemoConfig, clear, sim_config
from foveate.util.shipped import POLICIES

shipped = pytest.mark.skipif(
    not (POLICIES / "metaworld_tiny" / "model.safetensors").exists(), reason="the policy's weights are not here"
)


@shipped
def test_full_and_pruned_side_by_side(tmp_path, capsys):
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out), "--tasks", "drawer-close", "--episodes", "1", "--num_workers", "1"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "drawer-close-v3" in shown and "full" in shown and "lightvla" in shown
    assert str(out / "report" / "index.html") in shown and (out / "report" / "index.html").stat().st_size > 10_000
    kept = {}
    for variant in ("full", "lightvla"):
        summary = json.loads((out / variant / "summary.json").read_text())
        assert summary["total"]["episodes"] == 1 and summary["total"]["crashes"] == 0
        assert len(list((out / variant / "dumps").rglob("*.pt"))) == summary["total"]["inferences"]
        assert list((out / variant / "plots" / "mask_heatmap").rglob("*.png"))
        assert (out / variant / "report" / "tokens_summary.json").exists()
        kept[variant] = summary["total"]["kept"]
    assert kept["full"]["ratio"] == 1.0 and kept["lightvla"]["ratio"] < 0.6


@shipped
def test_both_halves_differ_in_pruning_alone(tmp_path):
    full, pruned = (sim_config(DemoConfig(out=str(tmp_path)), variant) for variant in ("full", "lightvla"))
    for field in ("task_suite_name", "num_trials_per_task", "seed", "replan_steps", "max_batch"):
        assert getattr(full, field) == getattr(pruned, field)


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    for name in ("full", "report", "lightvla"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "config.yaml").write_text("")
    (tmp_path / "report" / "index.html").write_text("")
    (tmp_path / "lightvla" / "thesis.tex").write_text("")
    (tmp_path / "notes.txt").write_text("")
    clear(tmp_path)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == [
        Path("lightvla/thesis.tex"),
        Path("notes.txt"),
    ]
