"""What `pip install .` carries: robot mappings, presets and shipped policies are data, and travel with the code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from foveate.testing.golden import REPO


def test_the_wheel_carries_the_data_files(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "foveate"], cwd=REPO, capture_output=True, text=True).stdout.split()
    # Built from a copy: setuptools writes build/ beside the sources, and the tree may be read-only.
    for name in [*tracked, "pyproject.toml", "LICENSE", "README.md"]:
        target = tmp_path / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((REPO / name).read_bytes())
    script = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=tmp_path / "src", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    data = [name for name in tracked if not name.endswith(".py")]
    assert any(name.startswith("foveate/robots/") for name in data)
    assert [name for name in data if name not in carried] == []
    entry = next(name for name in carried if name.endswith("entry_points.txt"))
    assert "foveate = foveate.cli.main:main" in zipfile.ZipFile(wheel).read(entry).decode()
