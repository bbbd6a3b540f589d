"""`foveate attn fidelity`: are the attention maps true? Cover what they mark, and see whether the actions care.

    foveate attn fidelity --policy CHECKPOINT DATA_ROOT --out runs/fidelity
    foveate attn fidelity --policy CHECKPOINT --image side.jpg --image wrist.jpg --prompt "open the drawer"

Exit status 1: some episodes could not be read; each is named with its reason, the others are in the results.
"""

from __future__ import annotations

from typing import Any

from foveate.cli.attn.output import POLICY
from foveate.util.progress import Reporter, plain_console
from foveate.util.words import plural


def fidelity(argv: list[str]) -> int:
    """The verb."""
    from foveate.cli.config import parse
    from foveate.studies.attention.fidelity import FidelityConfig, study_fidelity

    config: FidelityConfig = parse(
        FidelityConfig, argv, "foveate attn fidelity", aliases=POLICY, positional=("data_root",), whole=("image",)
    )
    screen = Reporter(plain_console())
    done = study_fidelity(config, screen)
    for choice in config.views:
        screen.show(_layer_table(done.result, choice))
    if done.result["pruner"]:
        screen.show(_pruner_table(done.result))
    screen.line(f"results: {done.folder / 'fidelity.json'}\nreport:  {done.folder / 'index.html'}")
    return int(bool(done.failed))


def _layer_table(result: dict[str, Any], choice: str) -> Any:
    """The ranking of layers, for the terminal."""
    from rich.table import Table

    from foveate.viz.report.fidelity import NAMES, ranking_table

    caption = f"{NAMES[result['metric']]} of the actions, {plural(result['frames'], 'frame')}; 95 % intervals"
    table = Table(title=f"covering {choice}", caption=caption)
    head, rows = ranking_table(result, choice)
    columns = [i for i, name in enumerate(head) if name not in ("random", "low")]  # what fits into 80 columns
    for i in columns:
        table.add_column(head[i], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in columns))
    return table


def _pruner_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    from foveate.viz.report.fidelity import PRUNER_NAMES, with_ci

    pruner = result["pruner"]
    table = Table(title=f"{pruner['name']}: {pruner['kept']:.1f} of {pruner['patches']:.0f} patches kept")
    table.add_column("the actions change, when the policy goes")
    table.add_column(result["metric"], justify="right", no_wrap=True)
    for kind, name in PRUNER_NAMES.items():
        table.add_row(name, with_ci(pruner["metrics"][result["metric"]][kind]))
    return table
