from __future__ import annotations

import json

from foveate.bench import machine
from foveate.bench.machine import Finding
from foveate.cli import doctor


def test_this_machine_is_healthy_as_json(monkeypatch, capsys) -> None:
    monkeypatch.setattr(machine, "_gl", lambda backend: Finding(f"GL by {backend}", "broken", "x", "drawing", "y"))
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
