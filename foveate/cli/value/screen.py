"""What a study has found, on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from foveate.util.progress import Reporter
from foveate.util.words import plural

if TYPE_CHECKING:
    from foveate.studies.value.result import EvaluationResult
    from foveate.studies.value.seeds import SeedsResult


def show(result: EvaluationResult | SeedsResult, console: Console, notes: bool = True) -> None:
    """The main rows, what a reader should know, warnings, and where the plots are; nothing where there is no row."""
    if not result.table:
        return
    from foveate.studies.value.result import main_rows

    report = Reporter(console)
    ablated = "ablation" in result.table[0]
    shown = result.table if ablated else main_rows(result.table)
    console.print(ablation_table(shown) if ablated else rows_table(shown))
    if more := len(result.table) - len(shown):
        report.line(f"{plural(more, 'more row')} in {result.folder}")
    for line in result.notes() if notes else ():
        report.line(line)
    for warning in result.warnings if notes else ():
        report.warn(warning)
    for path in result.plots:
        report.line(f"plot: {path}")


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per rule: accuracy with its interval, cost, FLOPs and time of the whole path, action ratios, tokens."""
    seeds = any(row.get("accuracy_std") is not None for row in rows)
    several = len({row["dataset"] for row in rows}) > 1
    timed = any(row.get("latency") is not None for row in rows)
    shares = {"FLOPs": "gflops_share", "time": "path_ms_share"}
    paths = {name: key for name, key in shares.items() if any(row.get(key) is not None for row in rows)}
    notes = list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
    interval = "95 % intervals: questions and seeds; ±: deviation over seeds" if seeds else "95 % intervals: bootstrap"
    caption = [interval, "cost: vision tokens, a FULL look is 1, or tokens; N/C/F: shares of NO, COARSE and FULL"]
    if paths:
        caption.append("FLOPs, time: text pass, encoder and answer, as shares of always FULL's")
    marked = [f"{'†' * (k + 1)} {note}" for k, note in enumerate(notes)]
    table = Table(caption="\n".join([*caption, *marked]), box=box.SIMPLE_HEAD, pad_edge=False)
    headings = [*(["set"] if several else []), "row", "accuracy", "cost", *paths]
    for heading in [*headings, "N/C/F %", "tokens", *(["ms"] if timed else [])]:
        table.add_column(heading, justify="left" if heading in ("set", "row") else "right", no_wrap=heading != "row")
    for row in rows:
        mark = f" {'†' * (notes.index(row['note']) + 1)}" if row.get("note") else ""
        cells = [*([row["dataset"]] if several else []), row["row"] + mark, _accuracy(row)]
        cells.append(f"{row['avg_cost']:.3f}")
        cells += ["" if row.get(key) is None else f"{row[key]:.2f}" for key in paths.values()]
        cells.append("/".join(f"{100 * row[f'action_rate_{level}']:.0f}" for level in ("no", "coarse", "full")))
        cells.append(f"{row['remaining_vision_tokens']:.1f}")
        if timed:
            cells.append("" if row.get("latency") is None else f"{1000 * row['latency']:.0f}")
        table.add_row(*cells)
    return table


def _accuracy(row: Mapping[str, Any]) -> str:
    """`94.0 (93.1–94.8)`, over seeds `94.0 ± 0.1 (93.0–94.9)`."""
    if row["accuracy"] is None:
        return "not public"
    words = [f"{100 * row['accuracy']:.1f}"]
    if row.get("accuracy_std") is not None:
        words.append(f"± {100 * row['accuracy_std']:.1f}")
    if row.get("accuracy_low") is not None:
        words.append(f"({100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f})")
    return " ".join(words)


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
