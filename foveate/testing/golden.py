"""Where the tests find golden data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def golden_dir(group: str, needs: str | None = None) -> Path:
    """The folder of one golden group (`pi0`, `lightvla`, ...), or skip the test with the reason.

    Looks in `$FOVEATE_GOLDEN`, then in the committed subset `tests/golden`.

    Args:
        needs: a file that must be there too.
    """
    roots = [Path(os.environ["FOVEATE_GOLDEN"])] if os.environ.get("FOVEATE_GOLDEN") else []
    roots.append(REPO / "tests" / "golden")
    for root in roots:
        folder = root / group
        if (folder / needs if needs else folder).exists():
            return folder
    pytest.skip(f"golden data {group}/{needs or ''} is in none of {', '.join(map(str, roots))}; set FOVEATE_GOLDEN")
