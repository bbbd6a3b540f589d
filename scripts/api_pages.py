"""A hook of `mkdocs build` (mkdocs.yml): pages that do not lie in docs/.

One of API reference per room of foveate, made from its docstrings, and the benchmarks' own, with the files beside them.
Documents link to these as they lie in the repository.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "foveate"
NOT_SHOWN = ("__main__", "conftest", "testing", "version")


def rooms() -> list[str]:
    """The folders and files right below foveate/, tests aside."""
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    files = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.endswith(("_test", "__init__"))]
    return sorted({*folders, *files}.difference(NOT_SHOWN))


def benchmarks() -> list[str]:
    """Their pages, and the files beside them."""
    found = (path for path in (ROOT / "benchmarks").glob("*/*") if path.is_file())
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def on_config(config: MkDocsConfig) -> None:
    config.nav.append({"Benchmarks": [path for path in benchmarks() if path.endswith(".md")]})
    config.nav.append({"API": [f"api/{room}.md" for room in ["foveate", *rooms()]]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    pages = {room: f"# foveate.{room}\n\n::: foveate.{room}\n" for room in rooms()}
    pages["foveate"] = "# foveate\n\n::: foveate\n    options:\n      show_submodules: false\n"
    for room, text in pages.items():
        files.append(File.generated(config, f"api/{room}.md", content=text))
    for path in benchmarks():
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../../docs/", "](../../")
    return markdown.replace("](../benchmarks/", "](benchmarks/")
