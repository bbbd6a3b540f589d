"""`foveate bench latency`: milliseconds of every engine, pruning and number of steps, and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.util.words import percent

if TYPE_CHECKING:
    from foveate.bench.latency import Row

WIDTH = 160
"""Characters of the table in a log file."""


def latency(argv: list[str]) -> int:
    """The verb's entry: a table, the adviser's sentences, then one JSON document."""
    from foveate.bench.latency import LatencyConfig, measure_latency
    from foveate.cli.config import parse
    from foveate.engine.base import fell_back
    from foveate.util.files import write_text
    from foveate.util.progress import Reporter, plain_console

    aliases = {"pretrained_checkpoint": "policy"}
    config = parse(LatencyConfig, argv, "foveate bench latency", aliases=aliases)
    measured = measure_latency(config, Reporter(plain_console()))
    console = plain_console(WIDTH)
    console.print(_table(measured.rows))
    for made in measured.facts["engines"]:
        for line in fell_back(made):
            console.print(f"{made['engine']}, {made['pruning']}: {line}", soft_wrap=True, highlight=False)
    if any(row.loses_time for row in measured.rows):
        console.print("! pruning loses time against the same without")
    if not measured.facts["settled"]:
        console.print(
            f"the noise did not settle: {percent(max(row.uncertainty for row in measured.rows), 1)} of a median"
        )
    for line in measured.advice.lines():
        console.print(line, soft_wrap=True, highlight=False)
    document = json.dumps(measured.document(), indent=2)
    print(document)
    if config.output_file:
        write_text(Path(config.output_file), document + "\n")
    return 0


def _table(rows: list[Row]) -> Any:
    from rich.table import Table

    table = Table(caption="ms: policy, p50 (p95); share of the rate of the stage's own products alone; floor: machine")
    for column in ("engine", "pruning"):
        table.add_column(column, no_wrap=True)
    for column in (
        "steps",
        "views",
        "tokens",
        "ms",
        "engine",
        "vision",
        "kv_cache",
        "denoise",
        "floor",
        "faster",
        "MB",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        stages = [
            f"{_ms(row.stages_ms[stage]['p50'])} ({percent(row.fraction_of_peak[stage])})"
            for stage in ("vision", "prefill", "denoise")
        ]
        tokens = f"{row.tokens_after}/{row.tokens_before}"
        tokens += f" +{percent(row.padding)}" if row.padding > 0 else ""
        table.add_row(
            row.engine,
            row.pruning,
            str(row.denoising_steps or "-"),
            str(row.views),
            tokens,
            f"{_ms(row.policy_ms['p50'])} ({_ms(row.policy_ms['p95'])})",
            _ms(row.engine_ms["p50"]),
            *stages,
            _ms(row.floor_ms["total"]),
            f"{row.speedup:.2f}x{'!' * row.loses_time}",
            f"{row.memory_peak_mb:.0f}" if row.memory_peak_mb else "-",
        )
    return table


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
