from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.util.markdown import put, table


def test_a_table_takes_its_place_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- one:begin -->\nold\n<!-- one:end -->\n<!-- two:begin -->\nkept\n<!-- two:end -->\n")
    for _ in range(2):
        put(page, "one", table(["a", "µ"], [["1", "2"], ["3", ""]]))
    lines = ["above", "<!-- one:begin -->", "| a | µ |", "| --- | --- |", "| 1 | 2 |", "| 3 |  |", "<!-- one:end -->"]
    assert page.read_text().splitlines() == [*lines, "<!-- two:begin -->", "kept", "<!-- two:end -->"]


BEGIN, END = "<!-- one:begin -->", "<!-- one:end -->"


@pytest.mark.parametrize(
    "content", ["", BEGIN, END, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}", f"{BEGIN} {END} {END}"]
)
def test_a_page_without_its_marks_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(FoveateError, match=r"page\.md: expected <!-- one:begin --> once"):
        put(page, "one", "text")
    assert page.read_text() == content
