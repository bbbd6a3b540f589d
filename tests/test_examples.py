"""The scripts and the notebook of examples/ run as they stand, on the models that ship with foveate."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys

import pytest

from foveate.cli.config import parse
from foveate.cli.eval.carry_over import ALIASES, carry_over
from foveate.evaluation.sim.simulate import SimConfig
from foveate.pruning import LightVLA
from foveate.testing.golden import REPO

EXAMPLES = REPO / "examples"
simulated = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


@pytest.fixture
def example(monkeypatch, tmp_path, capsys):
    """Runs a script in an empty folder; what it prints."""

    def run(name: str, *words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_value_of_vision(example, tmp_path):
    out = example("value_of_vision", "--questions", "12")
    assert "always_full" in out and "learned λ=0.1" in out and (tmp_path / "runs/value_of_vision/results.csv").exists()


def test_openpi_pruning(example):
    out = example("openpi_pruning")
    assert "no_prune: tokens=800 pad_true=800" in out and "training: tokens=800 requires_grad=True" in out
    assert "lightvla {'keep_tokens': 24}: tokens=104 pad_true=104" in out  # 3 views of 24, and 32 of text
    assert "lightvla {'keep_ratio': 0.1}: tokens=110 pad_true=110" in out  # 3 views of 26 = ceil(25.6)


@pytest.mark.slow
@simulated
def test_prune_and_trace(example, tmp_path):
    assert "128/128" in (out := example("prune_and_trace")) and "lightvla" in out
    assert len(list((tmp_path / "runs/prune_and_trace").glob("*.png"))) == 2


@pytest.mark.slow
@simulated
def test_evaluate(example, tmp_path):
    assert "drawer-close-v3  2/2 (34–100 %)" in example("evaluate")
    assert (tmp_path / "runs/evaluate/results.csv").exists()


@pytest.mark.slow
@simulated
def test_attention_of_an_episode(example, tmp_path):
    assert "most active heads" in example("attention_of_an_episode")
    out = tmp_path / "runs/attention_of_an_episode"
    assert len(list(out.rglob("*_max.webm"))) == 3 and (out / "fidelity/index.html").exists()


def test_scripts_are_short():
    assert all(len(path.read_text().splitlines()) < 60 for path in EXAMPLES.glob("*.py"))


@pytest.mark.slow
@simulated
def test_the_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without its outputs"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert len(tables) == 3 and "<td>lightvla</td>" in tables[0]
    assert sum("image/png" in data for data in shown) == 4


def test_run_libero_eval_asks_for_what_lightvlas_script_does(tmp_path):
    """One trial of every task of libero_spatial, traced with attention, overlays at the end; later words win."""
    stub = tmp_path / "bin/foveate"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    path = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    script = ["bash", str(EXAMPLES / "run_libero_eval.sh")]
    said = subprocess.run(
        [*script, "ckpt", "--dtype", "bfloat16"], env=path, capture_output=True, text=True, check=True
    )
    group, verb, *words = said.stdout.splitlines()
    assert (group, verb) == ("eval", "sim")
    config = parse(SimConfig, carry_over(words), "foveate eval sim", aliases=ALIASES)
    assert (config.policy, config.pruner, config.dtype) == ("ckpt", LightVLA(), "bfloat16")
    assert [(job.task, job.episode) for job in config.jobs()] == [(f"libero_spatial/{i}", 0) for i in range(10)]
    assert re.fullmatch(r"runs/libero_spatial_eval_\d{8}_\d{6}", config.trace_out_dir)
    assert config.trace_attn_layers == (1, 31) and config.trace_max_plots is None and config.replan_steps == 8
    assert "usage:" in subprocess.run(script, env=path, capture_output=True, text=True).stderr
