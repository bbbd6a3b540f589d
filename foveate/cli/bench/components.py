"""`foveate bench components`: success, Hz and milliseconds by component, for every number of denoising steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.util.words import percent, percents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foveate.studies.components import Change, ComponentRow, Outcome

WIDTH = 190
"""Characters of the table in a log file."""


def components(argv: list[str]) -> int:
    """The verb's entry: one table, before and after where asked, then one JSON document; 1 when all crashed."""
    from foveate.cli.config import parse
    from foveate.studies.components import ComponentsConfig, bench_components, compare, read_document
    from foveate.util.files import write_text
    from foveate.util.progress import Reporter, plain_console

    aliases = {"pretrained_checkpoint": "policy", "env": "env.name"}
    config = parse(ComponentsConfig, argv, "foveate bench components", aliases=aliases)
    if config.compare:
        read_document(config.compare)  # before anything is played
    done = bench_components(config, Reporter(plain_console()))
    document = json.dumps(done.document(), indent=1)
    if config.output_file:
        write_text(Path(config.output_file), document + "\n")
    console = plain_console(WIDTH)
    console.print(_table(done.rows))
    for (engine, pruning), line in done.denoise_models().items():
        formula = f"Denoise Time (ms) = {line.per_step:.2f} x steps + {line.fixed:.2f}"
        console.print(f"{engine}, {pruning}: {formula}", highlight=False)
        for row in line.table():
            told = "  {steps:>3} steps: {predicted:.2f} predicted, {measured:.2f} measured".format(**row)
            console.print(f"{told}, {percent(row['error'], 1)} off", highlight=False)
    if config.compare:
        console.print(_before_and_after(compare(config.compare, done.rows)))
    print(document)
    return int(all(row.outcome.crashes == row.outcome.episodes for row in done.rows))


def _table(rows: Sequence[ComponentRow]) -> Any:
    from rich.table import Table

    injected = any(row.at_latency is not None for row in rows)
    table = Table(caption="means; shares of the total; success with Wilson's 95 % interval; !: pruning loses time")
    for column in ("engine", "pruning"):
        table.add_column(column, no_wrap=True)
    columns = ["Denoising Steps", "Accuracy", *(["at its latency"] if injected else []), "Mean Latency (ms)", "Hz"]
    for column in (*columns, "Vision (ms)", "KV Cache (ms)", "Denoise (ms)", "over eager"):
        table.add_column(column, justify="right")
    for row in rows:
        parts = row.component_latencies
        table.add_row(
            row.engine,
            row.pruning,
            str(row.denoising_steps or "-"),
            _success(row.outcome),
            *([_success(row.at_latency) if row.at_latency else "-"] if injected else []),
            "-" if row.mean_latency_ms is None else f"{row.mean_latency_ms:.2f}{'!' * row.loses_time}",
            "-" if row.hz is None else f"{row.hz:.1f}",
            *(
                f"{parts[name]['mean']:.2f} ({percent(parts[name]['share'], 1)})" if name in parts else "-"
                for name in ("vision", "kv_cache", "denoise")
            ),
            f"{parts['total']['speedup']:.2f}x" if "speedup" in parts.get("total", ()) else "-",
        )
    return table


def _success(outcome: Outcome) -> str:
    text = f"{outcome.successes}/{outcome.episodes} ({percents(*outcome.accuracy_ci95)})"
    return text + (f" {outcome.crashes} crashed" if outcome.crashes else "")


def _before_and_after(changes: Sequence[Change]) -> Any:
    from rich.table import Table

    titles = {"mean_latency_ms": "Total Latency (ms)", "vision": "Vision (ms)", "kv_cache": "KV Cache (ms)"}
    titles |= {"denoise": "Denoise (ms)", "accuracy": "Accuracy"}
    table = Table(title="before and after")
    table.add_column("row", no_wrap=True)
    table.add_column("figure")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(change.row for change in changes):
        mine = [change for change in changes if change.row == name]
        for change in mine:
            first, last = change is mine[0], change is mine[-1]
            cells = (titles.get(change.figure, change.figure), *_cells(change))
            table.add_row(name if first else "", *cells, end_section=last)
    return table


def _cells(change: Change) -> tuple[str, str, str]:
    if change.figure == "accuracy":
        told = "same" if change.difference == 0 else f"{100 * change.difference:+.1f} points"
        return percent(change.before, 1), percent(change.after, 1), told
    if change.figure in ("mean_latency_ms", "Hz"):
        unit = "Hz" if change.figure == "Hz" else "ms"
        return f"{change.before:.2f}", f"{change.after:.2f}", f"{change.difference:+.2f} {unit}"
    return f"{change.before:.2f}", f"{change.after:.2f}", f"{change.before / change.after:.2f}x"
