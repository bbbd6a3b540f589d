"""A hook of `mkdocs build` (mkdocs.yml): one page of API reference per room of foveate, made from its docstrings."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "foveate"
NOT_SHOWN = ("__main__", "conftest", "testing", "version")


def rooms() -> list[str]:
    """The folders and files right below foveate/, tests aside."""
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    files = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.endswith(("_test", "__init__"))]
    return sorted({*folders, *files}.difference(NOT_SHOWN))


def on_config(config: MkDocsConfig) -> None:
    config.nav.append({"API": [f"api/{room}.md" for room in ["foveate", *rooms()]]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    pages = {room: f"# foveate.{room}\n\n::: foveate.{room}\n" for room in rooms()}
    pages["foveate"] = "# foveate\n\n::: foveate\n    options:\n      show_submodules: false\n"
    for room, text in pages.items():
        files.append(File.generated(config, f"api/{room}.md", content=text))
