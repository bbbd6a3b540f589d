"""Does the ranking hold? A fit's columns against success in closed loop, over all methods and budgets.

    found = validate("runs/pruning_metaworld_tiny_foveate", table, checkpoint)
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
import yaml
from scipy.stats import rankdata

from foveate.engine.record import hash_folder
from foveate.errors import FoveateError
from foveate.studies.fit.table import COLUMNS, FitRow, Table
from foveate.util.files import read_json_lines, read_text, write_json
from foveate.util.shipped import find_policy
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
    episodes: int
    """Of each method and budget."""
    rows: list[Correlation]
    left_out: tuple[str, ...]
    """Fitted methods and budgets that were not played, or not to the end."""


def validate(sweep: str, table: Table, checkpoint: str) -> Validation:
    """Compare with the run folders of a `foveate sweep pruning`; those with fewer episodes than others are not done.

    Args:
        checkpoint: SHA-256 of the policy's files.
    Raises:
        FoveateError: what `played` refuses.
    """
    ended = played(sweep, [row.label for row in table.rows], checkpoint)
    shared = [row for row in table.rows if row.label in ended]
    most = max(episodes for _, episodes in ended.values())
    success = [ended[row.label][0] / most for row in shared]
    measured = [name for name in COLUMNS if any(row.columns[name].frames for row in shared)]
    found = [_correlation(name, [row.columns[name].mean for row in shared], success, shared) for name in measured]
    found += [_correlation(name, [getattr(row, name) for row in shared], success, shared) for name in COSTS]
    return Validation(sweep, most, found, tuple(row.label for row in table.rows if row not in shared))


def played(sweep: str, labels: Sequence[str], checkpoint: str) -> dict[str, tuple[int, int]]:
    """Label -> successes and episodes in closed loop, of those that were played to the end.

    Raises:
        FoveateError: fewer than three were, or the policy is another.
    """
    begun = {label: run for label in labels if (run := _played(Path(sweep) / label, label))}
    most = max((episodes for _, episodes in begun.values()), default=0)
    ended = {label: run for label, run in begun.items() if run[1] == most}
    if len(ended) < 3:
        raise FoveateError(
            f"{sweep}: {len(ended)} of the fitted methods and budgets were played there to the end, expected 3 at "
            "least; name the folder of a `foveate sweep pruning` of the same policy"
        )
    _refuse_another(Path(sweep) / next(iter(ended)), checkpoint)
    return ended


def _refuse_another(run: Path, checkpoint: str) -> None:
    """Raises FoveateError where a run was of another policy; one that is no longer there is taken as it is."""
    record = run / "config.yaml"
    try:
        policy = str(yaml.safe_load(read_text(record))["policy"])
        other = hash_folder(find_policy(policy)) != checkpoint
    except (OSError, FoveateError):
        return
    if other:
        raise FoveateError(f"{run}: played policy {policy}, which is not the one that is fitted; name its own sweep")


def _played(run: Path, label: str) -> tuple[int, int] | None:
    """Successes and episodes of a run folder; None: there is none, or it is empty."""
    path = run / "episodes.jsonl"
    rows = [row for row in read_json_lines(path) if row["variant"] == label] if path.exists() else []
    return (sum(row["status"] == "success" for row in rows), len(rows)) if rows else None


def write_validation(folder: Path, found: Validation) -> Path:
    """`validation.json` beside the fit."""
    document: dict[str, Any] = {"sweep": found.sweep, "episodes": found.episodes, "left_out": list(found.left_out)}
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
