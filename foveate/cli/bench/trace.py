"""`foveate bench trace`: what evidence costs the control loop."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from foveate.util.files import write_text
from foveate.util.progress import ProgressBar, plain_console


@dataclass(frozen=True)
class BenchTraceConfig:
    """Time inferences with and without trace, interleaved in one run."""

    policy: str = "mid"
    """Policy folder, name of a shipped policy, or `mid`: 65 M random parameters, pruned by LightVLA."""
    rounds: int = 30
    """Inferences that are measured in each mode."""
    attn_layers: tuple[int, ...] = (1, -1)
    """Backbone layers that the mode `routing+attention` looks at; negative ones count from the last."""
    json: str | None = None
    """File that the JSON document is written to as well; null: it is printed alone."""


def trace(argv: list[str]) -> int:
    """The verb's entry: a table, then one JSON document."""
    from rich.table import Table

    from foveate.bench.trace import measure
    from foveate.cli.config import parse
    from foveate.policy import load_policy
    from foveate.training.policy.untrained import MID, random_policy
    from foveate.util.provenance import provenance

    config = parse(BenchTraceConfig, argv, "foveate bench trace")
    source = random_policy(MID, "lightvla") if config.policy == "mid" else nullcontext(load_policy(config.policy))
    with source as policy, ProgressBar(plain_console(), "bench trace", "rounds", config.rounds + 3) as bar:
        rows = measure(policy, config.rounds, config.attn_layers, bar.advance)
    table = Table("trace", "ms p50 [p25, p75]", "ratio [p25, p75]", "wanted")
    for row in rows:
        table.add_row(
            row["mode"],
            f"{row['ms_p50']:.1f} [{row['ms_p25']:.1f}, {row['ms_p75']:.1f}]",
            f"{row['ratio']:.3f} [{row['ratio_p25']:.3f}, {row['ratio_p75']:.3f}]",
            f"<= {row['limit']:.2f}",
        )
    plain_console().print(table)
    document = json.dumps({"policy": config.policy, "rows": rows, **provenance()}, indent=2)
    print(document)
    if config.json:
        write_text(Path(config.json), document + "\n", shared=True)
    return 0
