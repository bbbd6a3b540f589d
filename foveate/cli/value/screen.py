"""What a study has found, on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foveate.util.progress import Reporter

if TYPE_CHECKING:
    from foveate.studies.value.result import EvaluationResult
    from foveate.studies.value.seeds import SeedsResult


def show(result: EvaluationResult | SeedsResult, console: Console, notes: bool = True) -> None:
    """The table, what a reader should know, warnings, and where the plots are; nothing where there is no row."""
    if not result.table:
        return
    report = Reporter(console)
    console.print(ablation_table(result.table) if "ablation" in result.table[0] else rows_table(result.table))
    for line in result.notes() if notes else ():
        report.line(escape(line))
    for warning in result.warnings if notes else ():
        report.warn(warning)
    for path in result.plots:
        report.line(f"plot: {path}")


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per rule: accuracy and cost with their intervals, action ratios, remaining tokens."""
    seeds = any(row.get("accuracy_std") is not None for row in rows)
    intervals = "mean ± deviation over seeds" if seeds else "95 % intervals: bootstrap over questions"
    table = Table(caption=f"{intervals}; cost: a FULL look is 1, or tokens")
    several = len({row["dataset"] for row in rows}) > 1
    timed = any(row.get("latency") is not None for row in rows)
    headings = [*(["set"] if several else []), "row", "accuracy", "cost", "no/coarse/full %", "tokens"]
    for heading in [*headings, *(["ms"] if timed else [])]:
        table.add_column(heading, justify="left" if heading in ("set", "row") else "right", no_wrap=heading != "row")
    for row in rows:
        accuracy = "not public"
        if row["accuracy"] is not None:
            bounds = f"({100 * row['accuracy_low']:.1f}-{100 * row['accuracy_high']:.1f})"
            if seeds:
                bounds = f"± {100 * row['accuracy_std']:.1f}"
            accuracy = f"{100 * row['accuracy']:.1f} {bounds}"
        rates = "/".join(f"{100 * row[f'action_rate_{level}']:.0f}" for level in ("no", "coarse", "full"))
        cells = [*([row["dataset"]] if several else []), row["row"], accuracy, f"{row['avg_cost']:.3f}", rates]
        cells.append(f"{row['remaining_vision_tokens']:.1f}")
        if timed:
            cells.append("" if row.get("latency") is None else f"{1000 * row['latency']:.0f}")
        table.add_row(*cells)
    return table


def ablation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per variant and data set: accuracy, and below it the cost, at each lambda."""
    table = Table(caption="accuracy in %, below it the cost (a FULL look is 1); a head of actions has its own λ")
    lambdas = sorted({row["lambda_cost"] for row in rows if row["lambda_cost"] is not None})
    several = len({row["dataset"] for row in rows}) > 1
    for heading in [*(["set"] if several else []), "variant"]:
        table.add_column(heading, overflow="fold")
    for value in lambdas:
        table.add_column(f"λ={value:g}", justify="right", no_wrap=True)
    names = dict.fromkeys((row["dataset"], row["checkpoint"] or row["row"]) for row in rows)
    for dataset, name in names:
        mine = [r for r in rows if (r["dataset"], r["checkpoint"] or r["row"]) == (dataset, name)]
        at = {r["lambda_cost"]: _accuracy_over_cost(r) for r in mine}
        cells = [at.get(value, at.get(None, "")) for value in lambdas]
        table.add_row(*([dataset] if several else []), name, *cells)
    return table


def _accuracy_over_cost(row: Mapping[str, Any]) -> str:
    accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    return f"{accuracy}\n{row['avg_cost']:.3f}"
