"""The scripts of examples/ run as they stand."""

from __future__ import annotations

import runpy
import sys

import pytest

from foveate.testing.golden import REPO


def example(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(REPO / "examples" / f"{name}.py"), run_name="__main__")


def test_value_of_vision(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    example(monkeypatch, "value_of_vision", "--questions", "12")
    out = capsys.readouterr().out
    assert "always_full" in out and "learned λ=0.1" in out and (tmp_path / "runs/value_of_vision/results.csv").exists()
