"""Which method and budget, if any: the cheapest that stays near the unpruned policy and beats the controls.

A recommendation needs all of: an error on critical frames whose interval ends below the tolerance; an error below that
of random patches and below that of a stride at the same budget, each beyond chance; and no more milliseconds than the
unpruned policy. Of those that pass, the one with the least arithmetic is named: at equal budgets methods behind a layer
or with a history cost more than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.attention.fidelity import ENOUGH
from foveate.studies.fit.table import BARS, FitRow, Table
from foveate.util.words import percent, plural, share

LEAST_CRITICAL = 20
"""Critical frames from which on errors on them are compared."""


@dataclass(frozen=True)
class Recommendation:
    """The row that is recommended, and what else should be said."""

    row: FitRow | None
    """None: nothing is."""
    lines: tuple[str, ...]
    """Sentences, the verdict first."""


def recommend(table: Table, tolerance: float) -> Recommendation:
    """Decide.

    Args:
        tolerance: largest error on critical frames, as a share of a blind policy's.
    """
    few = table.critical["any"] < LEAST_CRITICAL or table.critical_episodes < ENOUGH
    if few:
        return Recommendation(
            None,
            (
                f"no recommendation: {plural(table.critical['any'], 'critical frame')} in "
                f"{plural(table.critical_episodes, 'episode')} (of {table.frames} in {table.episodes}); expected "
                f"{LEAST_CRITICAL} in {ENOUGH} at least: name more episodes, or more --frames_per_episode",
            ),
        )
    limit = tolerance * table.blind["critical"].mean
    near = [row for row in table.rows if row.columns["critical"].high <= limit]
    better = [row for row in near if row.method not in BARS and _beats(row)]
    fast = [row for row in better if not _loses_time(row, table)]
    budgets = sorted({row.budget for row in table.rows if row.budget is not None})
    notes = [*(_at(table, budget, limit, tolerance) for budget in budgets), *_slow(better, table)]
    if fast:
        row = min(fast, key=lambda row: (row.gflops, row.columns["critical"].mean))
        return Recommendation(row, (f"recommended: {_named(row)} ({_cost(row, table)})", *notes, *_more(row)))
    if not near:
        why = f"no method stays within {percent(tolerance)} of a blind policy's error at any budget; keep all patches"
    elif not better:
        bars = [row for row in near if row.method in BARS]
        cheap = min(bars, key=lambda row: (row.budget or 1.0, row.columns["critical"].mean), default=None)
        said = f"{_named(cheap)} does as well" if cheap else "and neither random nor stride stays within it"
        why = f"nothing beats random and stride patches where it stays within the tolerance: {said}"
    else:
        why = "what beats random and stride takes longer than the unpruned policy on this machine"
    return Recommendation(None, (f"no recommendation: {why}", *notes))


def _beats(row: FitRow) -> bool:
    return all(bar in row.against and row.against[bar].better for bar in BARS)


def _loses_time(row: FitRow, table: Table) -> bool:
    return row.ms is not None and table.unpruned.ms is not None and row.ms.total > table.unpruned.ms.total


def _at(table: Table, budget: float, limit: float, tolerance: float) -> str:
    """What there is to say of one budget."""
    here = [row for row in table.rows if row.budget == budget]
    best = min(here, key=lambda row: (row.method in BARS, row.columns["critical"].mean))
    equal = [bar for bar in BARS if bar in best.against and not best.against[bar].better]
    told = f"{share(budget)}: best is {best.method}, {percent(best.of_blind)} of blind"
    inside = "" if best.columns["critical"].high <= limit else f", not surely within {percent(tolerance)}"
    if best.method in BARS:
        return told + inside  # nothing but the controls was compared
    does = "does" if len(equal) == 1 else "do"
    return f"{told}{inside}" + (f"; {' and '.join(equal)} {does} as well" if equal else "; it beats random and stride")


def _cost(row: FitRow, table: Table) -> str:
    """What it keeps of tokens, arithmetic and time."""
    told = f"keeps {row.kept:.0f} of {row.patches:.0f} patches, {row.gflops:.3g} of {table.unpruned.gflops:.3g} GFLOP"
    if row.ms is None or table.unpruned.ms is None:
        return told
    return f"{told}, {row.ms.total:.1f} of {table.unpruned.ms.total:.1f} ms"


def _more(row: FitRow) -> list[str]:
    """A method that goes beyond its budget at times is compared with controls that do not."""
    if row.budget is None or row.kept <= 1.05 * row.budget * row.patches:
        return []
    return [f"{_named(row)} keeps more than {share(row.budget)} on average, so it sees more than the controls it beats"]


def _slow(rows: Sequence[FitRow], table: Table) -> list[str]:
    slow = [row for row in rows if _loses_time(row, table)]
    return [f"slower than the unpruned policy here: {', '.join(_named(row) for row in slow)}"] if slow else []


def _named(row: FitRow) -> str:
    return row.method if row.budget is None else f"{row.method} at {share(row.budget)}"
