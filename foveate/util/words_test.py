from __future__ import annotations

import re
from pathlib import Path

import foveate
from foveate.util.words import percent, percents, plural


def test_one_is_no_plural() -> None:
    assert [plural(n, "episode") for n in (0, 1, 2, 1200)] == [
        "0 episodes",
        "1 episode",
        "2 episodes",
        "1,200 episodes",
    ]
    assert [plural(n, "crash", "crashes") for n in (1, 2)] == ["1 crash", "2 crashes"]


def test_shares_as_percentages() -> None:
    assert percent(0.94, 1) == "94.0 %" and percent(1) == "100 %" and percent(0.004) == "0 %"
    assert percent(float("nan")) == "–"
    assert percents(0.209, 1) == "21–100 %" and percents(0.931, 0.948, 1) == "93.1–94.8 %"


def test_percentages_are_written_in_one_way() -> None:
    """Python's own format (`94.0%`) is in no source: `percent` writes them all."""
    root = Path(foveate.__file__).parent
    own = re.compile(r":\.?\d?%\}|\d%(?=[ ,;.)])(?![^\n]*[\u4e00-\u9fff])")
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        if not path.name.endswith("_test.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if own.search(line)
    ]
    assert found == []
