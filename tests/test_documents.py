"""What documents show is what the code and the measured rows say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from foveate.testing.golden import REPO


def load(path: Path) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_measured_rows() -> None:
    for path, text in load(REPO / "benchmarks" / "tiny_policy" / "run.py").documents().items():
        assert path.read_text(encoding="utf-8") == text, "python benchmarks/tiny_policy/run.py --tables"


def test_both_readmes_show_the_same_commands_links_and_pictures() -> None:
    """Comments behind commands, and links from one to the other, aside."""
    seen = []
    for name in ("README.md", "README.zh-CN.md"):
        text = (REPO / name).read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:bash|python)\n(.*?)```", text, re.DOTALL)
        code = [line.split("#")[0].rstrip() for block in blocks for line in block.splitlines()]
        seen.append(
            (code, sorted(re.findall(r"\]\(((?!README)[^)]+)\)", text)), text.count("\n## "), text.count("\n| "))
        )
    assert seen[0] == seen[1]


def test_the_readme_is_read_in_minutes() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").split()) < 900


def test_drawings_are_those_of_the_import_contract() -> None:
    script = load(REPO / "scripts" / "architecture_drawing.py")
    for name, draw in script.DRAWINGS.items():
        drawn = (REPO / "docs" / "images" / name).read_text(encoding="utf-8")
        assert drawn == draw(), "python scripts/architecture_drawing.py"
