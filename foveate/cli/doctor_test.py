from __future__ import annotations

import importlib.util
import json
import tomllib

import pytest

from foveate.cli import doctor
from foveate.cli.doctor import Finding
from foveate.testing.golden import REPO


def test_this_machine_is_healthy_as_json(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "_gl", lambda backend: Finding(f"GL by {backend}", "broken", "x", "drawing", "y"))
    assert doctor.run(["--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is True
    findings = {finding["thing"]: finding for finding in document["findings"]}
    assert findings["torch"]["status"] == "ok" and findings["torch"]["essential"]
    assert "vp9" in findings["codecs (PyAV)"]["detail"]
    assert set(findings) >= {"Python", "CUDA", "GL by egl", "metaworld", "libero", "openpyxl", "ray", "browser"}
    for finding in document["findings"]:
        assert finding["purpose"]
        assert finding["status"] == "ok" or finding["remedy"], f"{finding['thing']}: nothing is said to do"


def test_a_broken_essential_is_status_one(monkeypatch, capsys) -> None:
    broken = Finding("torch", "broken", "1.0, expected 2.6", "models", 'pip install "torch>=2.6"', essential=True)
    monkeypatch.setattr(
        doctor, "examine", lambda: [broken, Finding("ray", "missing", "", "machines", "pip install ray")]
    )
    assert doctor.run([]) == 1
    out = capsys.readouterr().out
    assert 'pip install "torch>=2.6"' in out and "does not work" in out


def test_every_extra_is_looked_at() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for _, extra, _ in doctor.EXTRAS} == set(extras) - {"dev", "docs"}


def test_a_missing_package_is_missing() -> None:
    assert doctor._package("surely-not-installed-1", "nothing").status == "missing"
    assert doctor._extra("surely_not_installed_1", "extra", "nothing").remedy == 'pip install "foveate[extra]"'


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="no mujoco")
def test_drawing_is_tried_in_its_own_process(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "DRAW", "import os; os.abort()")  # as a GL driver may
    finding = doctor._gl("egl")
    assert finding.status == "broken" and "libegl1" in finding.remedy
