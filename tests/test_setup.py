"""The set-up scripts, with what the system has or lacks played by small stand-ins on the PATH.

scripts/fresh_machine.sh tries the real thing, in a bare Debian system.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.envs.gl import PACKAGES
from foveate.testing.golden import REPO

GL = " ".join(PACKAGES.values())
VENV = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a script of that name and text before everything else on the PATH; returns where."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def write(name: str, text: str) -> str:
        path: Path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(REPO / "scripts" / name), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def python_that(stand_in, venvs: bool, draws: bool) -> str:
    """An interpreter that can make environments, or not, and finds GL libraries, or not."""
    answers = f"*ensurepip*) exit {int(not venvs)};; *ctypes*) exit {int(not draws)};;"
    return stand_in("python-that", f'case "$*" in {answers} esac\nexec "{sys.executable}" "$@"')


@pytest.mark.parametrize(
    ("venvs", "draws", "needed"), [(False, False, f"{VENV} {GL}"), (False, True, VENV), (True, False, GL)]
)
def test_who_may_not_install_is_told_one_command_before_anything_is_made(
    stand_in, tmp_path, venvs, draws, needed
) -> None:
    stand_in("id", "echo 1000")
    stand_in("sudo", "exit 1")  # it would ask for a password
    python = python_that(stand_in, venvs, draws)
    done = script("setup_venv.sh", PYTHON=python, VENV=str(tmp_path / "venv"), EXTRAS="sim,dev")
    assert done.returncode == 1
    assert not (tmp_path / "venv").exists()
    (told,) = [line for line in done.stderr.splitlines() if "apt-get" in line]
    assert told.endswith(f"run: sudo apt-get update && sudo apt-get install -y {needed}")


def test_without_simulators_nothing_is_asked_for_drawing(stand_in, tmp_path) -> None:
    stand_in("apt-get", "echo never; exit 1")
    python = python_that(stand_in, venvs=True, draws=False)
    assert script("system_packages.sh", python, str(tmp_path), "train,dev").returncode == 0


def test_root_installs_and_updates_the_lists_where_that_fails(stand_in, tmp_path) -> None:
    stand_in("id", "echo 0")
    updated = tmp_path / "updated"
    stand_in("apt-get", f'[ "$1" = update ] && touch {updated}; [ -e {updated} ]')
    done = script("apt_install.sh", "some-package")
    assert done.returncode == 0
    assert done.stdout == "setup: installing some-package with apt-get\n"


@pytest.mark.parametrize(
    ("drawing", "chosen", "status", "said"),
    [
        ("egl osmesa", "", 0, ""),
        ("osmesa", "", 0, "the simulators draw with OSMesa"),
        ("osmesa", "egl", 1, "MuJoCo cannot draw with egl"),
        ("", "", 1, "MuJoCo cannot draw with egl"),
    ],
)
def test_osmesa_where_egl_cannot_be_had(stand_in, drawing, chosen, status, said) -> None:
    """`chosen` is what the person set MUJOCO_GL to; that is not overruled."""
    stand_in("id", "echo 0")
    stand_in("apt-get", "exit 0")
    python = stand_in(
        "python-draws",
        f'case "$*" in *why_not*) case " {drawing} " in *" $3 "*) exit 0;; *) exit 1;; esac;; esac\n'
        f'exec "{sys.executable}" "$@"',
    )
    done = script("ensure_gl.sh", python, MUJOCO_GL=chosen)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert ("installing" in done.stdout) == ("egl" not in drawing.split())


def test_pip_is_one_line_a_step_and_shows_its_end_where_it_fails(stand_in, tmp_path) -> None:
    pages = "; ".join(f"echo Collecting part{i}" for i in range(100))
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    fails = tmp_path / "fails"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *pip*) {pages}; [ ! -e {fails} ] || {{ echo no network >&2; exit 1; }};; esac\n'
    )
    python.chmod(0o755)
    here = {"PYTHON": sys.executable, "VENV": str(tmp_path / "venv"), "EXTRAS": "dev", "TORCH_INDEX": "simple"}
    done = script("setup_venv.sh", **here)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4, "two steps, a line each and how long it took"
    assert "part99" in (tmp_path / "venv" / "setup.log").read_text()
    fails.touch()
    done = script("setup_venv.sh", **here)
    assert done.returncode == 1
    assert "no network" in done.stderr
    assert "setup.log" in done.stderr
