"""`foveate eval vqa`: every baseline, threshold, lambda and checkpoint from the same three passes.

`run_experiment` is what the sweeps and `value` verbs call too: passes with a progress bar, rows, files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa import Experiment
    from foveate.evaluation.vqa_board import Board, ThinnedOutcome
    from foveate.evaluation.vqa_config import VqaConfig
    from foveate.evaluation.vqa_rows import Looked
    from foveate.training.value_checkpoint import TrainedPolicy
    from foveate.types import VQASample
    from foveate.vision_value.baselines import Rule

Rules = Callable[["VqaConfig", "Board", "Sequence[TrainedPolicy]"], "list[Rule | ThinnedOutcome]"]
"""(config, board, policies) -> the rows of a data set."""


@dataclass
class Finished:
    """What a command has found; processes that do not lead get none of it."""

    folder: Path
    rows: list[Looked] = field(default_factory=list)
    """Of `results.csv`."""
    matrix: list[Looked] = field(default_factory=list)
    """Of `eval_matrix.csv`."""
    boards: dict[str, Board] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def slices(self, item: Looked) -> list[dict[str, Any]]:
        """Where a row's answers are wrong, by action and category; none of a pruned look."""
        from foveate.evaluation.vqa_files import error_slices

        return error_slices(self.boards[item.row["dataset"]], item)[0] if hasattr(item.rule, "decide") else []


def run(argv: list[str]) -> int:
    """The verb: 0 when the results are written."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.vqa_config import VqaConfig

    config = parse(VqaConfig, argv, "foveate eval vqa")
    console = Console()
    done = run_experiment(config, console)
    if done.matrix:
        console.print(rows_table([item.row for item in done.matrix]))
        tell(done, console)
        plot(done, config, console)
    return 0


def plot(done: Finished, config: VqaConfig, console: Console) -> None:
    """The plots of a run's rows, beside its tables."""
    from foveate.viz.value_plots import plot_errors, plot_rows

    paths = plot_rows([item.row for item in done.matrix], done.folder, config.language)
    slices = [row for item in done.rows for row in done.slices(item)]
    if slices:
        paths.append(plot_errors(slices, done.folder / "error_slices.png", config.language))
    for path in paths:
        console.print(f"plot: {path}", highlight=False, soft_wrap=True)


def run_experiment(
    config: VqaConfig,
    console: Console,
    *,
    rules: Rules | None = None,
    matrix: bool = True,
    needs: frozenset[str] | None = None,
    policies: Sequence[TrainedPolicy] | None = None,
    vlm: Any = None,
) -> Finished:
    """Make the passes that are lacking, look the rows up, write every file of a run.

    Args:
        rules: rows of `results.csv`; None: as `policy.baseline_name` says.
        matrix: write `eval_matrix.*` with all that these rows must be compared with.
        needs: passes to make; None: as the configuration asks.
        policies, vlm: what is loaded already.
    """
    from foveate.evaluation.vqa import Experiment, asked, asked_rules, matrix_rules, need_policy
    from foveate.evaluation.vqa_load import load_model, load_policies, load_sets
    from foveate.evaluation.vqa_metrics import score_row
    from foveate.training.world import join_world
    from foveate.viz.value_plots import labels_of

    start = time.monotonic()
    labels_of(config.language)  # a missing font is told now, not after hours
    with join_world(config.model.device if config.model.device != "cuda" else "auto") as world:
        sets = load_sets(config)
        with console.status("loading the model"):
            vlm = vlm or load_model(config, str(world.device))
        warnings: list[str] = []
        if policies is None:
            policies, warnings = load_policies(config, vlm)
        need_policy(config, policies)
        experiment = Experiment(config, vlm, score_row, world.rank, world.size)
        passes, thinned = asked(config)
        passes = passes if needs is None else needs
        make_all_passes(experiment, sets, passes, thinned, console, world)
        done = Finished(config.folder, warnings=warnings)
        if not world.leads:
            return done
        for name, samples in sets.items():
            board = experiment.board(name, samples, passes, thinned)
            done.boards[name] = board
            wanted = (rules or asked_rules)(config, board, policies)
            if wanted:
                done.rows += experiment.rows(board, wanted)
            compare = matrix and config.policy.baseline_name is None
            done.matrix += experiment.rows(board, matrix_rules(config, board, policies)) if compare else []
        done.rows = done.rows or done.matrix
        done.matrix = done.matrix or done.rows
        if config.eval.profile:
            profile(experiment, done, console)
        write_files(experiment, done, policies, sets, time.monotonic() - start)
    return done


def make_all_passes(
    experiment: Experiment,
    sets: Mapping[str, Sequence[VQASample]],
    needs: frozenset[str],
    thinned: Sequence[Any],
    console: Console,
    world: Any,
) -> None:
    """Passes over every data set, with a progress bar; other processes do their share meanwhile."""
    from foveate.evaluation.vqa_passes import inspect_images
    from foveate.evaluation.vqa_ray import run_on_ray

    for name, samples in sets.items():
        if world.leads:
            inspect_images(samples, experiment.cache)
        world.barrier()
        with PassProgress(console if world.leads else None, name) as (plan, advance):
            if experiment.config.eval.workers == "ray":
                run_on_ray(experiment, samples, needs, thinned, plan, advance)
            else:
                experiment.make_passes(samples, needs, thinned, plan, advance)
        world.barrier()
    experiment.cache.close()


class PassProgress:
    """A bar over the answers of one data set, with rate and time left; silent without a console."""

    def __init__(self, console: Console | None, label: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=console, disable=console is None, speed_estimate_period=120)
        self._task = self._bar.add_task(f"{label}: answers", total=None, rate="")
        self._start = time.monotonic()

    def __enter__(self) -> tuple[Callable[[int], None], Callable[[int], None]]:
        self._bar.start()
        return self.plan, self.advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def plan(self, total: int) -> None:
        self._start = time.monotonic()
        self._bar.update(self._task, total=total)

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)
        done = self._bar.tasks[0].completed
        self._bar.update(self._task, rate=f"{done / max(time.monotonic() - self._start, 1e-6):.0f}/s")


def profile(experiment: Experiment, done: Finished, console: Console) -> None:
    """Execute every row of the results; a row's twin in the matrix takes its figures over."""
    from foveate.evaluation.vqa_profile import profile_row

    limit = experiment.config.eval.profile_samples
    with PassProgress(console, "profile") as (plan, advance):
        plan(sum(min(limit, len(done.boards[item.row["dataset"]])) for item in done.rows))
        for item in done.rows:
            board = done.boards[item.row["dataset"]]
            found = profile_row(experiment.vlm, board, item, experiment.options, limit, lambda: advance(1))
            if found.rerouted:
                done.warnings.append(
                    f"{item.row['row']}: {found.rerouted} of {len(found.answers)} profiled questions were routed "
                    "otherwise than looked up (rounding in a batch of one)"
                )
    figures = {(i.row["dataset"], i.row["row"]): i.row for i in done.rows}
    for item in done.matrix:
        twin = figures.get((item.row["dataset"], item.row["row"]))
        if twin is not None:
            item.row.update({key: twin[key] for key in ("latency", "latency_p95", "mem")})


def write_files(
    experiment: Experiment,
    done: Finished,
    policies: Sequence[TrainedPolicy],
    sets: Mapping[str, Sequence[VQASample]],
    seconds: float,
) -> None:
    """`results.csv`, `eval_matrix.*`, `summary.json`, error slices, accuracy by category, `config.yaml`, `run.json`."""
    from foveate.cli.config import to_dict, write_run_files
    from foveate.cli.provenance import provenance
    from foveate.data.vqa_leakage import leak_warnings
    from foveate.evaluation.vqa import reuse_note
    from foveate.evaluation.vqa_benchmarks import circular_accuracies, unparsed_answers
    from foveate.evaluation.vqa_cache import config_hash
    from foveate.evaluation.vqa_files import (
        CATEGORY_COLUMNS,
        SCHEMA_VERSION,
        SLICE_COLUMNS,
        by_category,
        error_slices,
        write_both,
        write_json,
        write_table,
    )

    config, folder = experiment.config, done.folder
    done.warnings += leak_warnings(config.data.train_jsonl, sets)
    write_submissions(done)
    write_run_files(folder, config, config.training.seed)
    write_table(folder / "results.csv", [item.row for item in done.rows])
    write_both(folder, "eval_matrix", [item.row for item in done.matrix])
    slices, examples, categories = [], [], []
    for name, board in done.boards.items():
        mine = [item for item in done.rows if item.row["dataset"] == name]
        categories += by_category(board, mine)
        for item in mine:
            if hasattr(item.rule, "decide"):
                found, wrong = error_slices(board, item)
                slices += found
                examples += [{"row": item.row["row"], **example} for example in wrong]
    write_table(folder / "error_slices.csv", slices, SLICE_COLUMNS)
    unparsed = unparsed_answers(done.boards)
    write_json(folder / "error_slices.json", {"slices": slices, "examples": examples, "unparsed": unparsed})
    write_table(folder / "categories.csv", categories, CATEGORY_COLUMNS)
    plain = to_dict(config)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "seed": config.training.seed,
        "config": plain,
        "config_hash": config_hash(plain),
        "data": {
            name: {"hash": board.data_hash, "samples": len(board), "skipped": board.broken}
            for name, board in done.boards.items()
        },
        "model": experiment.meta,
        "cache_folder": str(experiment.cache.folder),
        "cache_reuse": reuse_note(experiment.vlm, config.eval.cache_reuse),
        "policies": [{"path": p.path, **p.facts} for p in policies],
        "mean_gains": mean_gains(done.boards),
        "rows": [item.row for item in done.rows],
        "circular_accuracy": circular_accuracies(done.boards, done.rows),
        "warnings": done.warnings,
        "seconds": round(seconds, 2),
        **provenance(),
    }
    write_json(folder / "summary.json", summary)


def write_submissions(done: Finished) -> None:
    """Of sets whose answers are not public: each row's answers in the form that the set's server takes."""
    from foveate.evaluation.vqa_submission import write_submission
    from foveate.vision_value.config import LEVELS

    for item in done.rows:
        board = done.boards[item.row["dataset"]]
        if any(sample.answers for sample in board.samples) or not hasattr(item.rule, "decide"):
            continue
        texts = [board.answers[LEVELS[a]][i]["text"] for i, a in enumerate(item.decisions.action)]
        stem = "".join(c if c.isalnum() or c in ".=-" else "_" for c in item.row["row"])
        path = write_submission(done.folder / f"submission_{board.dataset}_{stem}", board.samples, texts)
        done.warnings.append(f"{board.dataset}: the answers are not public; for its server: {path}")


def mean_gains(boards: Mapping[str, Board]) -> dict[str, dict[str, float]]:
    """Data set -> nats per answer token that COARSE and FULL earn over NO, on average."""
    import numpy as np

    found = {}
    for name, board in boards.items():
        gains = board.outcomes.gains[:, 1:]
        gains = gains[np.isfinite(gains).all(-1)]
        if len(gains):
            found[name] = dict(zip(("coarse", "full"), gains.mean(0).tolist(), strict=True))
    return found


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A row per rule: accuracy and cost with their intervals, action ratios, remaining tokens."""
    from rich.table import Table

    table = Table(caption="95 % intervals: bootstrap over questions; cost: a FULL look is 1, or tokens")
    several = len({row["dataset"] for row in rows}) > 1
    timed = any(row.get("latency") is not None for row in rows)
    headings = [*(["set"] if several else []), "row", "accuracy", "cost", "no/coarse/full %", "tokens"]
    for heading in [*headings, *(["ms"] if timed else [])]:
        table.add_column(heading, justify="left" if heading in ("set", "row") else "right", no_wrap=heading != "row")
    for row in rows:
        accuracy = "not public"
        if row["accuracy"] is not None:
            bounds = f"{100 * row['accuracy_low']:.1f}-{100 * row['accuracy_high']:.1f}"
            accuracy = f"{100 * row['accuracy']:.1f} ({bounds})"
        rates = "/".join(f"{100 * row[f'action_rate_{level}']:.0f}" for level in ("no", "coarse", "full"))
        cells = [*([row["dataset"]] if several else []), row["row"], accuracy, f"{row['avg_cost']:.3f}", rates]
        cells.append(f"{row['remaining_vision_tokens']:.1f}")
        if timed:
            cells.append("" if row.get("latency") is None else f"{1000 * row['latency']:.0f}")
        table.add_row(*cells)
    return table


def tell(done: Finished, console: Console) -> None:
    """Mean gains (the scale of lambda), what was left out, warnings, and where the files are."""
    for name, gains in mean_gains(done.boards).items():
        console.print(
            f"{name}: a look earns {gains['coarse']:.3f} (coarse) and {gains['full']:.3f} (full) nats per answer token "
            "on average: the scale of lambda",
            highlight=False,
        )
    for name, board in done.boards.items():
        if board.broken:
            first = next(iter(board.broken.values()))
            console.print(f"[yellow]{name}: {len(board.broken)} questions left out:[/] {first}", highlight=False)
    notes = {item.row["cache_reuse"] for item in done.rows} - {"true", "false"}
    for note in notes:
        console.print(f"the text-first cache was not reused: {note.removeprefix('no: ')}", highlight=False)
    for warning in done.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)
    console.print(f"results: {done.folder / 'results.csv'}", soft_wrap=True, highlight=False)
