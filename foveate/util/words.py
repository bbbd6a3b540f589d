"""Numbers in sentences and tables: `1 episode`, `94.0 %`, `21–100 %`."""

from __future__ import annotations

import math


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 episode`, `1,200 episodes`.

    Args:
        many: None: `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float, digits: int = 0) -> str:
    """`94.0 %` of the share 0.94 at one digit; a dash where it is not known (NaN)."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def share(value: float) -> str:
    """`25 %` of 0.25, `12.5 %` of 0.125: a budget, with no more digits than it has."""
    return f"{100 * value:g} %"


def percents(low: float, high: float, digits: int = 0) -> str:
    """`21–100 %` of the shares 0.21 and 1; for intervals that cannot be negative."""
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"
