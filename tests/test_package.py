"""What `pip install .` carries: code, robot mappings, presets, page templates and shipped weights; no tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from foveate.testing.golden import REPO


def test_the_wheel_carries_code_and_data_and_no_tests(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "foveate"], cwd=REPO, capture_output=True, text=True).stdout.split()
    # Built from a copy of what is tracked: the folder may hold other files, and no wheel shall.
    for name in [*tracked, "pyproject.toml", "LICENSE", "README.md"]:
        target = tmp_path / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((REPO / name).read_bytes())
    script = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=tmp_path / "src", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    tests = {name for name in tracked if name.endswith(("_test.py", "/conftest.py"))}
    tests |= {name for name in tracked if name.startswith("foveate/testing/")}
    assert any(name.startswith("foveate/robots/") for name in tracked)
    assert {name for name in carried if name.startswith("foveate/")} == set(tracked) - tests
    entry = next(name for name in carried if name.endswith("entry_points.txt"))
    assert "foveate = foveate.cli.main:main" in zipfile.ZipFile(wheel).read(entry).decode()
