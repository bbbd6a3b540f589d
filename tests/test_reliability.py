"""Commands that are killed, and commands on a full disk: those of `benchmarks/kills/run.py`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foveate.testing.golden import REPO

SCRIPT = REPO / "benchmarks" / "kills" / "run.py"
VERBS = ("eval_sim", "attn_episodes", "eval_vqa", "train_policy", "value_paper")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's list of processes"),
]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("kills", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("verb", VERBS)
def test_three_kills_lose_nothing_and_double_nothing(tmp_path, verb):
    """In a process of its own: children are forked from it."""
    call = [sys.executable, str(SCRIPT), "--kills", "3", "--verbs", verb, "--out", str(tmp_path / "out")]
    done = subprocess.run([*call, "--json", str(tmp_path / "told.json")], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(rf"{verb} +3 kills", done.stdout)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(tmp_path, small_disk, script, verb):
    argv = script.CASES[verb].argv(script.make_inputs(tmp_path / "inputs"), small_disk / "run")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO / "tests"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "foveate", *argv], capture_output=True, text=True, cwd=REPO, env=environ
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("foveate ")]
    assert "the disk is full" in told and str(small_disk) in told
    left = [path for path in small_disk.rglob("*") if ".draft" in path.name or ".partial" in str(path)]
    assert [path for path in left if path.is_file()] == []
