"""`foveate eval sim`: score a policy in a simulator, with everything that belongs to a result written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foveate.util.words import percents

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.sim.evaluate import Evaluated, ResultRow
    from foveate.evaluation.sim.perturbed import PerturbedRow
    from foveate.evaluation.sim.simulate import SimConfig


def sim(argv: list[str]) -> int:
    """The verb: evaluate, write everything, print a table; 1 when not one episode could be played to its end."""
    from foveate.cli.config import parse
    from foveate.cli.eval.carry_over import ALIASES, carry_over
    from foveate.evaluation.evidence import write_report
    from foveate.evaluation.sim.evaluate import evaluate
    from foveate.evaluation.sim.simulate import SimConfig
    from foveate.util.progress import Reporter, plain_console

    aliases = {**ALIASES, "env": "env.name", "denoising_steps": "num_steps"}
    config = parse(SimConfig, carry_over(argv), "foveate eval sim", aliases=aliases)
    console = plain_console()
    if config.perturb is not None:
        return _perturbed(config, console)
    run = evaluate(config, Reporter(console))
    try:
        page = write_report([run.folder], run.folder / "report", Reporter(console), config.trace_max_plots)
    finally:  # whatever becomes of the report
        print_results(console, [run])
    console.print(f"results: {run.folder / 'results.csv'}\nreport:  {page}", soft_wrap=True, highlight=False)
    total, traced = run.summary["total"], run.summary.get("traced")
    if traced and traced["inferences"] < traced["of_inferences"]:
        some = "{inferences} of {of_inferences} inferences, in {episodes} of {of_episodes} episodes".format(**traced)
        console.print(f"traced:  {some}; the numbers above are of all", soft_wrap=True, highlight=False)
    return int(total["crashes"] == total["episodes"])


def _perturbed(config: SimConfig, console: Console) -> int:
    """The same over a suite's perturbed forms: one table, full and pruned beside each other."""
    from rich.table import Table

    from foveate.evaluation.sim.perturbed import evaluate_perturbed, folder_of
    from foveate.util.progress import Reporter

    rows = evaluate_perturbed(config, Reporter(console))
    table = Table(
        title=f"{config.task_suite_name}, perturbed", caption="success with Wilson's 95 % interval; kept tokens"
    )
    table.add_column("perturbation")
    variants = list(dict.fromkeys(row.variant for row in rows))
    for variant in variants:
        table.add_column(variant, justify="right")
    for change in dict.fromkeys(row.perturbation for row in rows):
        cells = {row.variant: row for row in rows if row.perturbation == change}
        table.add_row(change, *(_cell(cells[variant]) for variant in variants))
    console.print(table)
    console.print(f"results: {folder_of(config) / 'perturbed.csv'}, and a run folder per cell", soft_wrap=True)
    return int(all(row.crashes == row.episodes for row in rows))


def _cell(row: PerturbedRow) -> str:
    text = f"{row.successes}/{row.episodes} ({percents(row.ci_low, row.ci_high)})"
    text += f" {row.crashes} crashed" if row.crashes else ""
    return text if row.kept is None else f"{text}\n{row.kept:.1f} kept"


def print_results(console: Console, runs: Sequence[Evaluated]) -> None:
    """A row per task, the runs below each other in it, and the warnings of the runs."""
    from foveate.evaluation.sim.evaluate import result_rows
    from foveate.util.progress import Reporter

    console.print(_table(result_rows(runs)))
    for run in runs:
        for warning in run.summary["warnings"]:
            Reporter(console).warn(f"{run.variant}: {warning}" if len(runs) > 1 else warning)


def _table(rows: Sequence[ResultRow]) -> Any:
    """Successes with their Wilson interval, kept tokens, times."""
    from rich.table import Table

    # Stacked, the table fits into 80 columns, whatever the number of runs.
    table = Table(caption="intervals: Wilson, 95 %; kept: visual tokens of all; ms per inference: p50/p95")
    for column in ("task", "variant"):
        table.add_column(column, no_wrap=True)
    for column in ("success", "kept", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for task in dict.fromkeys(row.task for row in rows):
        lines = [[row.variant, *_cells(row)] for row in rows if row.task == task]
        table.add_row(task, *("\n".join(cells) for cells in zip(*lines, strict=True)), end_section=True)
    return table


def _cells(row: ResultRow) -> list[str]:
    low, high = row.ci95
    success = f"{row.successes}/{row.episodes} ({percents(low, high)})"
    success += f" {row.crashes} crashed" if row.crashes else ""
    tokens = "" if row.kept is None else f"{row.kept:.1f}/{row.patches:.0f}"
    return [success, tokens, "" if row.ms_p50 is None else f"{row.ms_p50:.1f}/{row.ms_p95:.0f}"]
