"""Tables as Markdown, and their place in a document.

text = table(["variant", "ms"], [["eager", "12.0"], ["compiled", "9.1"]])
put(Path("README.md"), "measured", text)        # between <!-- measured:begin --> and <!-- measured:end -->
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foveate.errors import FoveateError
from foveate.util.files import read_text, write_text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Its lines, without a line break at the end."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def marked(page: Path, name: str, text: str) -> str:
    """The document with this text between the marks of this name.

    Raises:
        FoveateError: the document cannot be read, or does not have each mark once, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = read_text(page)
    before, *middle = content.split(begin)
    parts = middle[0].split(end) if len(middle) == 1 else []
    if len(parts) != 2 or end in before:
        raise FoveateError(f"{page}: expected {begin} once, and {end} once below it")
    return f"{before}{begin}\n{text}\n{end}{parts[1]}"


def put(page: Path, name: str, text: str) -> None:
    """Write this text between the marks of this name; raises as `marked`."""
    write_text(page, marked(page, name, text))
