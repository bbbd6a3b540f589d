"""What documents show is what the code and the measured rows say."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foveate.cli.main import main, split_verb
from foveate.testing.golden import REPO
from foveate.types import Prefix, Span, TokenLayout


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


def test_the_method_of_the_guide_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/adding-a-method.md, as it stands there, keeps a quarter of a tiny prefix."""
    guide = (REPO / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    module = ModuleType("far_from_mean")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(code, vars(module))
    layout = TokenLayout((Span("corner", "image", 0, 16, (4, 4)), Span("text", "text", 16, 20)))
    embeds = torch.zeros(1, 20, 8)
    embeds[0, [3, 5, 7, 15]] = 1.0
    prefix = Prefix(embeds, torch.ones(1, 20, dtype=torch.bool), torch.arange(20)[None], layout)
    selection = module.FarFromMean(keep_ratio=0.25).build().eval().select(prefix)
    assert selection.keep.indices()[0].tolist() == [3, 5, 7, 15] and int(selection.mask.sum()) == 8


def test_files_that_documents_name_are_there() -> None:
    missing = []
    for path in (*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("benchmarks/*/README.md")):
        named = re.findall(r"\b(?:foveate|benchmarks|configs|tests|docs)/[\w./*-]+", path.read_text(encoding="utf-8"))
        missing += [
            f"{path.name}: {name}" for name in named if "my_" not in name and not [*REPO.glob(name.rstrip("./"))]
        ]
    assert missing == []


def commands() -> dict[tuple[str, ...], set[str]]:
    """Verb -> options, of every `foveate` command in the documents' shell blocks."""
    found: dict[tuple[str, ...], set[str]] = {}
    for path in (*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("benchmarks/*/README.md")):
        blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            start = next((n for n, word in enumerate(words) if Path(word).name == "foveate"), None)
            if start is not None:
                split = split_verb(words[start + 1 :])
                assert split, f"{path.name}: {line}"
                options = {word.partition("=")[0] for word in split[1] if word.startswith("--")}
                found.setdefault(split[0], set()).update(options)
    return found


@pytest.mark.parametrize(
    ("verb", "options"), [pytest.param(*found, id=" ".join(found[0])) for found in sorted(commands().items())]
)
def test_commands_of_the_documents_are_understood(verb: tuple[str, ...], options: set[str], capsys) -> None:
    with contextlib.suppress(SystemExit):
        main([*verb, "--help"])
    told = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    # Those of a method or a rule are its own.
    assert {option for option in options if not option.startswith(("--pruner.", "--looking."))} <= told


def test_the_readme_is_read_in_minutes() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").split()) < 900


def test_drawings_are_those_of_the_import_contract() -> None:
    drawings = load(REPO / "scripts" / "architecture_drawing.py").DRAWINGS
    images = REPO / "docs" / "images"
    stale = [name for name, draw in drawings.items() if (images / name).read_text(encoding="utf-8") != draw()]
    assert stale == [], "python scripts/architecture_drawing.py draws them anew"
