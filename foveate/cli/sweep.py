"""`foveate sweep pruning`: pruning on questions, and with `--env` every method side by side in closed loop."""

from __future__ import annotations

OF_POLICIES = """\
Of robot policies: --env metaworld or --env libero plays every pruning method in closed loop, at equal budgets
(--methods, --budgets, --finalists, --engines); add --help to it for all options. Of image-text models:
"""


def pruning(argv: list[str]) -> int:
    """The verb: on questions, or where an environment is named in it."""
    if any(word.partition("=")[0] in ("--env", "--env.name") for word in argv):
        return _in_closed_loop(argv)
    from foveate.cli.value.verbs import pruning as on_questions

    if {"--help", "-h"} & set(argv):
        print(OF_POLICIES)
    return on_questions(argv)


def _in_closed_loop(argv: list[str]) -> int:
    """Play every method and budget, write the table, print it; 1 when all episodes of all rows crashed."""
    from rich.table import Table

    from foveate.cli.config import parse
    from foveate.studies.pruning.sweep import SweepPruningConfig, sweep_pruning
    from foveate.studies.pruning.table import cells, headings
    from foveate.util.progress import Reporter, plain_console

    aliases = {"pretrained_checkpoint": "policy", "env": "env.name"}
    config = parse(SweepPruningConfig, argv, "foveate sweep pruning", aliases=aliases)
    done = sweep_pruning(config, Reporter(plain_console()))
    table = Table(
        caption="success with Wilson's 95 % interval; differences over the same episodes, Newcombe's interval"
    )
    for column in headings(config.engines):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in done.rows:
        table.add_row(*cells(row, config.engines))
    console = plain_console(160)
    console.print(table)
    for path in done.files:
        console.print(str(path), soft_wrap=True, highlight=False)
    return int(all(row.crashes == row.episodes for row in done.rows))
