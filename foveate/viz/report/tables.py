"""Numbers with their intervals, and tables of them as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.util import markdown as text

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows."""


def number(value: float | None) -> str:
    """Three digits; a dash where there is none."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.3g}"


def with_ci(value: Mapping[str, Any]) -> str:
    """`0.12 [0.08, 0.15]` of a `mean` and its `ci95`; the mean alone where it has no interval."""
    low, high = value["ci95"]
    if low is None or high is None:
        return number(value["mean"])
    return f"{number(value['mean'])} [{number(low)}, {number(high)}]"


def markdown(table: Table) -> list[str]:
    """The lines of a Markdown table."""
    return text.table(*table).splitlines()
