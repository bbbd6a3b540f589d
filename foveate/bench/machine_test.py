from __future__ import annotations

import importlib.util
import sys
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


def test_where_libero_is_nowhere_make_libero_is_the_way(monkeypatch) -> None:
    monkeypatch.setattr(machine, "default_python", lambda name: sys.executable)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    finding = machine._libero("a simulator")
    assert finding.status == "missing" and "make libero" in finding.remedy


def test_libero_that_shows_other_scenes_is_broken(monkeypatch) -> None:
    class Worker:
        about = {"versions": {"mujoco": "3.17.0"}}  # noqa: RUF012

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def reset(self, task, seed):
            self.task = task

        def examine(self):
            return ["the floor is dark"] if self.task.startswith("libero_object") and self.told else []

        told = True

    monkeypatch.setattr(machine, "default_python", lambda name: "/there/python")
    monkeypatch.setattr(machine, "WorkerEnv", Worker)
    finding = machine._libero("a simulator")
    assert finding.status == "broken" and "3.17.0: the floor is dark" in finding.detail
    assert "MUJOCO=3.2.3" in finding.remedy
    monkeypatch.setattr(Worker, "told", False)
    assert machine._libero("a simulator").status == "ok"


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="no mujoco")
def test_drawing_is_tried_in_its_own_process(monkeypatch) -> None:
    monkeypatch.setattr(gl, "DRAW", "import os; os.abort()")  # as a GL driver may
    finding = machine._gl("egl")
    assert finding.status == "broken" and "libegl1" in finding.remedy
