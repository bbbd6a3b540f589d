"""What holds for the whole tree: imports point one way, start-up is light, folders say what belongs together."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
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
    """The package itself, the command line's front, environments (their workers), the robot's side of a server, and
    everything that draws."""
    rooms = [*(REPO / "foveate" / "envs").rglob("*.py"), *(REPO / "foveate" / "viz").rglob("*.py")]
    rooms = [path for path in rooms if path.name != "__init__.py" and not path.stem.endswith("_test")]
    files = sorted(path.relative_to(REPO).with_suffix("") for path in rooms)
    names = [
        "foveate",
        "foveate.types",
        "foveate.cli.main",
        "foveate.client",
        *(".".join(file.parts) for file in files),
    ]
    call(
        sys.executable,
        "-c",
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} imported torch'\n",
    )


def sources() -> list[Path]:
    """The Python files of the package, tests aside, relative to the repository."""
    names = [Path(name) for name in call("git", "ls-files", "foveate/*.py").splitlines()]
    return [name for name in names if not name.stem.endswith("_test") and name.stem != "conftest"]


def test_a_shared_prefix_is_a_missing_folder() -> None:
    """No three files of a folder share the part of their names before the first underscore."""
    kin = defaultdict(list)
    for path in sources():
        kin[path.parent, path.stem.strip("_").split("_")[0]].append(path.name)
    assert {f"{folder}/{prefix}_": names for (folder, prefix), names in kin.items() if len(names) > 2} == {}


def imported(path: Path) -> set[str]:
    """Every module that a file of the repository imports, at its top or within a function."""
    names = set()
    for node in ast.walk(ast.parse((REPO / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_one_model_family_is_known_where_it_is_built_alone() -> None:
    """Everybody else speaks the protocols of models/base.py."""
    may = [Path("foveate", *room) for room in (("models",), ("training", "policy"), ("golden",), ("convert",))]
    others = [path for path in sources() if not any(path.is_relative_to(room) for room in may)]
    family = re.compile(r"foveate\.models\.pi0(\.|$)")
    assert [str(path) for path in others if any(map(family.match, imported(path)))] == []


def test_no_room_outgrows_the_others() -> None:
    """At most 15 % of the code in one room, a model family counted as a room of its own; 3,400 lines in `cli`."""
    lines: Counter[str] = Counter()
    for path in sources():
        room = path.parts[1:3] if path.parts[1] == "models" else path.parts[1:2]
        lines["/".join(room)] += len((REPO / path).read_text(encoding="utf-8").splitlines())
    assert {room: count for room, count in lines.items() if count > 0.15 * lines.total()} == {}
    assert lines["cli"] <= 3400


def test_pictures_are_opened_by_one_door() -> None:
    """`util/pictures.py` turns, scales and limits them; whoever opens one himself sees another picture."""
    opening = re.compile(r"\bImage\.open\(|\bimread\(|\bimdecode\(")
    found = [path for path in sources() if opening.search((REPO / path).read_text(encoding="utf-8"))]
    assert [path.name for path in found] == ["pictures.py"], found


def test_no_tracked_file_is_of_12_mb() -> None:
    tracked = (REPO / name for name in call("git", "ls-files").splitlines())
    assert [path for path in tracked if path.exists() and path.stat().st_size >= 12_000_000] == []
