from __future__ import annotations

import logging
import os

import pytest

from foveate.envs import gl


@pytest.fixture(autouse=True)
def _environment(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "taken back at the end of the test")
    del os.environ["MUJOCO_GL"]


def test_egl_where_it_draws(monkeypatch, caplog) -> None:
    monkeypatch.setattr(gl, "why_not", lambda backend: "")
    assert gl.choose_gl() == os.environ["MUJOCO_GL"] == "egl"
    assert not caplog.records


def test_osmesa_where_egl_cannot_draw_and_it_is_said(monkeypatch, caplog) -> None:
    monkeypatch.setattr(gl, "why_not", {"egl": "no driver", "osmesa": ""}.get)
    with caplog.at_level(logging.WARNING, "foveate"):
        assert gl.choose_gl() == os.environ["MUJOCO_GL"] == "osmesa"
    (record,) = caplog.records
    assert "no driver" in record.getMessage()
    assert "OSMesa" in record.getMessage()


def test_egl_and_its_error_where_nothing_draws(monkeypatch) -> None:
    monkeypatch.setattr(gl, "why_not", lambda backend: "no library")
    assert gl.choose_gl() == "egl"


def test_what_a_person_chose_stays(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(gl, "why_not", lambda backend: pytest.fail("tried"))
    assert gl.choose_gl() == "glfw"


def test_a_driver_that_aborts_is_a_reason(monkeypatch) -> None:
    monkeypatch.setattr(gl, "DRAW", "import os; os.abort()")
    assert gl.why_not("egl") == "exit -6"
