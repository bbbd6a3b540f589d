from __future__ import annotations

import importlib.util
import tomllib

import pytest

from foveate.bench import machine
from foveate.envs import gl
from foveate.testing.golden import REPO


def test_every_extra_is_looked_at() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for _, extra, _ in machine.EXTRAS} == set(extras) - {"dev", "docs"}


def test_a_missing_package_is_missing() -> None:
    assert machine._package("surely-not-installed-1", "nothing").status == "missing"
    assert machine._extra("surely_not_installed_1", "extra", "nothing").remedy == 'pip install "foveate[extra]"'


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="no mujoco")
def test_drawing_is_tried_in_its_own_process(monkeypatch) -> None:
    monkeypatch.setattr(gl, "DRAW", "import os; os.abort()")  # as a GL driver may
    finding = machine._gl("egl")
    assert finding.status == "broken" and "libegl1" in finding.remedy
