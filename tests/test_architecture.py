"""What holds for the whole tree: imports point one way, start-up is light, ruff and mypy have nothing to say."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.testing.golden import REPO

BIN = Path(sys.executable).parent


def call(*words: str, **options) -> str:
    """Run a tool of this environment in the repository; what it printed, and a failure with that where it fails."""
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def tool(name: str) -> str:
    path = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if path is None:
        pytest.skip(f'{name} is not installed; pip install "foveate[dev]"')
    return path


def test_imports_point_one_way(tmp_path: Path) -> None:
    contracts = configparser.ConfigParser()
    contracts.read(REPO / ".importlinter")
    tests = [path.relative_to(REPO).with_suffix("") for path in (REPO / "foveate").rglob("*_test.py")]
    # A test may import what it likes; import-linter cannot say "modules named x_test" in a pattern.
    ignored = "\n".join(f"{'.'.join(test.parts)} -> **" for test in sorted(tests))
    names = [section for section in contracts.sections() if ":" in section]
    for section in names:
        contracts[section]["ignore_imports"] = ignored
        contracts[section]["unmatched_ignore_imports_alerting"] = "none"
    config = tmp_path / "contracts.ini"
    with config.open("w") as file:
        contracts.write(file)
    said = call(tool("lint-imports"), "--config", str(config), "--no-cache")
    assert f"{len(names)} kept, 0 broken" in said


def test_light_modules_import_no_torch() -> None:
    """The package itself, the command line's front, environments (their workers), and everything that draws."""
    rooms = [*(REPO / "foveate" / "envs").rglob("*.py"), *(REPO / "foveate" / "viz").rglob("*.py")]
    rooms = [path for path in rooms if path.name != "__init__.py" and not path.stem.endswith("_test")]
    files = sorted(path.relative_to(REPO).with_suffix("") for path in rooms)
    names = ["foveate", "foveate.types", "foveate.cli.main", *(".".join(file.parts) for file in files)]
    call(
        sys.executable,
        "-c",
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} imported torch'\n",
    )


def test_ruff_has_nothing_to_say() -> None:
    call(tool("ruff"), "check", ".")
    call(tool("ruff"), "format", "--check", ".")


def test_types_check() -> None:
    call(tool("mypy"))


def test_files_are_of_one_room_each() -> None:
    """No Python file over 400 lines, no tracked file of 12 MB."""
    tracked = call("git", "ls-files").splitlines()
    for name in tracked:
        path = REPO / name
        if not path.exists():
            continue
        assert path.stat().st_size < 12_000_000, f"{name} is {path.stat().st_size} bytes"
        if path.suffix == ".py":
            lines = path.read_text(encoding="utf-8").splitlines()
            assert len(lines) <= 400, f"{name} has {len(lines)} lines"
