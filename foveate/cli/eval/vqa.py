"""`foveate eval vqa`: every baseline, threshold, lambda and checkpoint from the same three passes.

`run_experiment` is what the sweeps and `value` verbs call too: passes with a progress bar, rows, files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.util.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.matrix import Experiment
    from foveate.evaluation.vqa.rows import RuleResult
    from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
    from foveate.types import VQASample
    from foveate.util.world import World
    from foveate.vision_value.baselines import Rule
    from foveate.vision_value.checkpoint import TrainedHead

Rules = Callable[["VqaConfig", "ScoredPasses", "Sequence[TrainedHead]"], "list[Rule | PrunedOutcomes]"]
"""(config, scored passes, heads) -> the rows of a data set."""


@dataclass
class Finished:
    """What a command has found; processes that do not lead get none of it."""

    folder: Path
    rows: list[RuleResult] = field(default_factory=list)
    """Of `results.csv`."""
    matrix: list[RuleResult] = field(default_factory=list)
    """Of `eval_matrix.csv`."""
    datasets: dict[str, ScoredPasses] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    vlm: Any = None
    """The model, for the next command over the same one; every process has it."""

    def slices(self, item: RuleResult) -> list[dict[str, Any]]:
        """Where a row's answers are wrong, by action and category; none of a pruned look."""
        from foveate.evaluation.vqa.files import error_slices

        return error_slices(self.datasets[item.row["dataset"]], item)[0] if hasattr(item.rule, "decide") else []


_joined: list[World] = []
"""The processes of this command, from the outermost `joined` on."""


@contextlib.contextmanager
def joined(config: VqaConfig) -> Iterator[World]:
    """The processes of `torchrun`; a command of several experiments joins them once. All leave together, so that what
    the leading one has written is there for the others."""
    from foveate.util.world import join_world

    if _joined:
        yield _joined[0]
        _joined[0].barrier()
        return
    with join_world(config.model.device if config.model.device != "cuda" else "auto") as world:
        _joined.append(world)
        if world.is_main and config.model.device == "cuda" and world.device.type == "cpu":
            print("warning: model.device is cuda, and there is none: the CPU works", file=sys.stderr)
        try:
            yield world
            world.barrier()
        finally:
            _joined.clear()


def prepare_folder(folder: Path, language: str) -> None:
    """Make the output folder, and see that plots can be labelled: what must fail fails before the work.

    Raises:
        FoveateError: the folder cannot be written, or there is no font for the language.
    """
    from foveate.errors import FoveateError
    from foveate.viz.value.curves import labels_of

    labels_of(language)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoveateError(f"--output_dir {folder}: cannot be made ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise FoveateError(f"--output_dir {folder}: cannot be written; choose another")


def run(argv: list[str]) -> int:
    """The verb: 0 when the results are written."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.value.report import plot, rows_table, tell
    from foveate.evaluation.vqa.config import VqaConfig

    config = parse(VqaConfig, argv, "foveate eval vqa")
    console = Console()
    done = run_experiment(config, console)
    if done.matrix:
        console.print(rows_table([item.row for item in done.matrix]))
        tell(done, console)
        plot(done, config, console)
    return 0


def run_experiment(
    config: VqaConfig,
    console: Console,
    *,
    rules: Rules | None = None,
    matrix: bool = True,
    needs: frozenset[str] | None = None,
    heads: Sequence[TrainedHead] | None = None,
    vlm: Any = None,
) -> Finished:
    """Make the passes that are lacking, look the rows up, write every file of a run.

    Args:
        rules: rows of `results.csv`; None: as `policy.baseline_name` says.
        matrix: write `eval_matrix.*` with all that these rows must be compared with.
        needs: passes to make; None: as the configuration asks.
        policies, vlm: what is loaded already.
    Raises:
        FoveateError: the folder cannot be written, and whatever is wrong with model, questions or policies.
    """
    from foveate.cli.value.report import write_files
    from foveate.data.vqa.leakage import leak_warnings
    from foveate.evaluation.vqa.load import load_heads, load_model, load_sets, untuned
    from foveate.evaluation.vqa.matrix import Experiment, asked, asked_rules, matrix_rules, need_head
    from foveate.evaluation.vqa.metrics import score_row
    from foveate.util.cluster import require_ray

    start = time.monotonic()
    if config.eval.workers == "ray":
        require_ray("eval.workers:")
    prepare_folder(config.folder, config.language)
    with joined(config) as world:
        with console.status("reading the questions"):
            sets = load_sets(config)
        with console.status("loading the model"):
            vlm = vlm or load_model(config, str(world.device))
        warnings: list[str] = []
        if heads is None:
            heads, warnings = load_heads(config, vlm)
        need_head(config, heads)
        experiment = Experiment(config, vlm, score_row, world.rank, world.size)
        passes, pruned = asked(config)
        passes = passes if needs is None else needs
        make_all_passes(experiment, sets, passes, pruned, console, world)
        done = Finished(config.folder, warnings=[*untuned(config), *warnings], vlm=vlm)
        if not world.is_main:
            return done
        trained_on = [trained.facts.get("trained_on") for trained in heads]
        done.warnings += leak_warnings([*trained_on, config.data.train_jsonl], sets)
        for name, samples in sets.items():
            scored = experiment.scored(name, samples, passes, pruned)
            done.datasets[name] = scored
            wanted = (rules or asked_rules)(config, scored, heads)
            if wanted:
                done.rows += experiment.rows(scored, wanted)
            if matrix:
                done.matrix += experiment.rows(scored, matrix_rules(config, scored, heads))
        done.rows = done.rows or done.matrix
        done.matrix = done.matrix or done.rows
        if config.eval.profile:
            profile(experiment, done, console)
        write_files(experiment, done, heads, time.monotonic() - start)
    return done


def make_all_passes(
    experiment: Experiment,
    sets: Mapping[str, Sequence[VQASample]],
    needs: frozenset[str],
    pruned: Sequence[Any],
    console: Console,
    world: Any,
) -> None:
    """Passes over every data set, with a progress bar; other processes do their share meanwhile."""
    from foveate.evaluation.vqa.cluster import run_on_ray
    from foveate.evaluation.vqa.passes import inspect_images

    for name, samples in sets.items():
        if world.is_main:
            inspect_images(samples, experiment.cache)
        world.barrier()
        with ProgressBar(console if world.is_main else None, f"{name}: answers", "answers") as bar:
            if experiment.config.eval.workers == "ray":
                run_on_ray(experiment, samples, needs, pruned, bar.begin, bar.advance)
            else:
                experiment.make_passes(samples, needs, pruned, bar.begin, bar.advance)
        world.barrier()
    experiment.cache.close()


def profile(experiment: Experiment, done: Finished, console: Console) -> None:
    """Execute every row of the results; a row's twin in the matrix takes its figures over."""
    from foveate.evaluation.vqa.profile import profile_row

    limit = experiment.config.eval.profile_samples
    total = sum(min(limit, len(done.datasets[item.row["dataset"]])) for item in done.rows)
    with ProgressBar(console, "profile", "questions", total) as bar:
        for item in done.rows:
            scored = done.datasets[item.row["dataset"]]
            found = profile_row(experiment.vlm, scored, item, experiment.options, limit, bar.advance)
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
