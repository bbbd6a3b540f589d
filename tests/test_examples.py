"""The scripts and the notebook of examples/ run as they stand, on the models that ship with foveate."""

from __future__ import annotations

import importlib.util
import runpy
import sys

import pytest

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
