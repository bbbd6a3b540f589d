"""Does the ranking hold? A fit's columns against success in closed loop, over all methods and budgets.

    found = validate("runs/pruning_metaworld_tiny_foveate", table)
    found.rows[0].column, found.rows[0].rho

Success falls with the budget whatever the method, so a rank correlation over all rows is high for anything that grows
with what is dropped. Beside it stand the tokens kept and the FLOPs, which know nothing of the episodes, and the
correlation within budgets: each side's ranks are taken inside of its budget first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from foveate.errors import FoveateError
from foveate.studies.fit.table import COLUMNS, FitRow, Table
from foveate.studies.pruning.table import SCHEMA_VERSION
from foveate.util.files import read_json, write_json
from foveate.util.stats import spearman

COSTS = ("kept", "gflops")


@dataclass(frozen=True)
class Correlation:
    """One column against success."""

    column: str
    rho: float
    """Spearman, over all rows; below 0 where a large value goes with failure."""
    ci95: tuple[float, float]
    """Whole methods resampled."""
    within: float
    """Spearman of the ranks within budgets."""
    within_ci95: tuple[float, float]
    rows: int


@dataclass(frozen=True)
class Validation:
    """All columns, errors first."""

    sweep: str
    rows: list[Correlation]
    left_out: tuple[str, ...]
    """Rows of one side that the other has not."""


def validate(sweep: str, table: Table) -> Validation:
    """Compare with a finished `foveate sweep pruning`.

    Raises:
        FoveateError: no such sweep, or fewer than three of its rows are rows of the fit.
    """
    path = Path(sweep) / "pruning.json"
    document = read_json(path)
    if document.get("schema_version") != SCHEMA_VERSION:
        raise FoveateError(f"{path}: expected what `foveate sweep pruning` writes ({SCHEMA_VERSION})")
    played = {(row["method"], row["budget"]): row for row in _untuned(document["rows"])}
    shared = [row for row in table.rows if (row.method, row.budget) in played]
    if len(shared) < 3:
        raise FoveateError(f"{path}: {len(shared)} of its methods and budgets were fitted; expected 3 at least")
    success = [played[row.method, row.budget]["success_rate"] for row in shared]
    here = {(row.method, row.budget) for row in table.rows}
    strange = [key for key in (*(here - played.keys()), *(played.keys() - here)) if key[0] != "none"]
    found = [_correlation(name, [row.columns[name].mean for row in shared], success, shared) for name in COLUMNS]
    found += [_correlation(name, [getattr(row, name) for row in shared], success, shared) for name in COSTS]
    return Validation(sweep, found, tuple(sorted(f"{method} {budget}" for method, budget in strange)))


def _untuned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were played with the policy as it is."""
    return [row for row in rows if row["episodes"] and not row.get("tuned")]


def write_validation(folder: Path, found: Validation) -> Path:
    """`validation.json` beside the fit."""
    document: dict[str, Any] = {"sweep": found.sweep, "left_out": list(found.left_out)}
    write_json(folder / "validation.json", {**document, "rows": [asdict(row) for row in found.rows]})
    return folder / "validation.json"


def _correlation(column: str, values: Sequence[float], success: Sequence[float], rows: Sequence[FitRow]) -> Correlation:
    methods, budgets = [row.method for row in rows], [row.budget for row in rows]
    rho, low, high = spearman(values, success, methods)
    inside = _within(values, budgets), _within(success, budgets)
    within, within_low, within_high = spearman(*inside, methods)
    return Correlation(column, rho, (low, high), within, (within_low, within_high), len(rows))


def _within(values: Sequence[float], budgets: Sequence[float | None]) -> list[float]:
    """Ranks within each budget, 0 to 1."""
    numbers, ranks = np.asarray(values, float), np.full(len(values), np.nan)
    for budget in set(budgets):
        mine = np.array([b == budget for b in budgets]) & np.isfinite(numbers)
        if mine.sum() > 1:
            ranks[mine] = (rankdata(numbers[mine]) - 1) / (mine.sum() - 1)
    return ranks.tolist()
