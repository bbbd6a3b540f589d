"""`foveate fit`: which pruning does a checkpoint bear, by recorded episodes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.studies.fit.validate import Validation


def run(argv: list[str]) -> int:
    """The verb: a ranked table, a verdict. 0: something is recommended, and fit.yaml says it; 1: nothing is."""
    from rich.table import Table

    from foveate.cli.config import parse
    from foveate.studies.fit.config import FitConfig
    from foveate.studies.fit.fit import fit_pruning
    from foveate.studies.fit.write import HEADINGS, STAGES, scale_of, stage_rows, table_rows
    from foveate.util.progress import Reporter, plain_console
    from foveate.util.words import plural

    aliases = {"pretrained_checkpoint": "policy", "denoising_steps": "num_steps"}
    config = parse(FitConfig, argv, "foveate fit", aliases=aliases, positional=("policy", "episodes"))
    done = fit_pruning(config, Reporter(plain_console()))
    console = plain_console(190)
    about, kinds = done.table, done.table.critical
    table = Table(
        title=f"{plural(about.frames, 'frame')} of {plural(about.episodes, 'episode')}; {kinds['any']} critical: "
        f"gripper {kinds['gripper']}, contact {kinds['contact']}, curvature {kinds['curvature']}",
        caption="errors to the unpruned policy in its normalised units, 95 % intervals over episodes; "
        f"*: beyond chance (Holm, 5 %); {scale_of(about)}",
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in table_rows(about):
        table.add_row(*row)
    console.print(table)
    stages = Table("ms by stage", *STAGES, "total", caption=f"medians of one inference, engine {config.engine.label}")
    for row in stage_rows(about):
        stages.add_row(*row)
    console.print(stages)
    if done.validation is not None:
        _print_validation(console, done.validation)
    for line in done.recommendation.lines:
        console.print(line, soft_wrap=True)
    for path in done.files:
        console.print(str(path), soft_wrap=True, highlight=False)
    return int(done.recommendation.row is None)


def _print_validation(console: Console, found: Validation) -> None:
    from rich.table import Table

    columns = ("column", "Spearman", "95 %", "within budgets", "95 %", "rows")
    table = Table(*columns, title=f"against success in {found.sweep}, {found.episodes} episodes each")
    for row in found.rows:
        table.add_row(
            row.column, f"{row.rho:+.2f}", "{:+.2f} to {:+.2f}".format(*row.ci95), f"{row.within:+.2f}",
            "{:+.2f} to {:+.2f}".format(*row.within_ci95), str(row.rows),
        )  # fmt: skip
    console.print(table)
