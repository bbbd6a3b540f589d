"""`foveate eval vqa`, `sweep ...`, `value ...`, `train value`, `demo vqa`: parse, call a study, print what it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli.config import parse
from foveate.cli.value.screen import show
from foveate.evaluation.vqa.config import VqaConfig
from foveate.studies.value.config import BucketsConfig, DemoVqaConfig, SeedsConfig, TablesConfig
from foveate.util.progress import Reporter, plain_console

if TYPE_CHECKING:
    from foveate.studies.value.result import EvaluationResult
    from foveate.studies.value.study import Study


def evaluate(argv: list[str]) -> int:
    """Every baseline, threshold, lambda and checkpoint from the same three passes."""
    from foveate.studies.value import run

    return _evaluation(argv, "eval vqa", run.evaluate)


def pareto(argv: list[str]) -> int:
    """The learned head at every lambda, beside the fixed rules."""
    from foveate.studies.value import sweeps

    return _evaluation(argv, "sweep pareto", sweeps.pareto)


def threshold(argv: list[str]) -> int:
    """The uncertainty rule at every threshold."""
    from foveate.studies.value import sweeps

    return _evaluation(argv, "sweep threshold", sweeps.threshold)


def pruning(argv: list[str]) -> int:
    """Shares of vision tokens, by the method asked for, at random, and by a smaller picture."""
    from foveate.studies.value import sweeps

    return _evaluation(argv, "sweep pruning", sweeps.pruning)


def oracle(argv: list[str]) -> int:
    """The cheapest action that is right, question by question."""
    from foveate.studies.value import sweeps

    return _evaluation(argv, "sweep oracle", sweeps.oracle)


def ablate(argv: list[str]) -> int:
    """Inputs, objective, price in training and actions of the head, as one table."""
    from foveate.studies.value import ablation

    return _evaluation(argv, "value ablate", ablation.ablate)


def _evaluation(argv: list[str], verb: str, run: Callable[[Study], EvaluationResult]) -> int:
    from foveate.studies.value.study import open_study

    config, console = parse(VqaConfig, argv, f"foveate {verb}"), plain_console()
    with open_study(config, Reporter(console)) as study:
        show(run(study), console)
    return 0


def seeds(argv: list[str]) -> int:
    """Train (where `data.train_jsonl` is set) and evaluate with every seed."""
    from foveate.studies.value.seeds import run_seeds
    from foveate.studies.value.study import open_study

    config, console = parse(SeedsConfig, argv, "foveate sweep seeds"), plain_console()
    with open_study(config.base, Reporter(console)) as study:
        show(run_seeds(study, config.seeds), console)
    return 0


def paper(argv: list[str]) -> int:
    """1 seeds, 2 curve, 3 baselines, 4 random matched, 5 generalisation, 6 ablations, 7 profile, 8 tables."""
    from foveate.studies.value.paper import Paper
    from foveate.studies.value.study import open_study

    config, console = parse(SeedsConfig, argv, "foveate value paper"), plain_console()
    with open_study(config.base, Reporter(console)) as study:
        Paper(study, config.seeds, lambda result: show(result, console, notes=False)).run()
    return 0


def train(argv: list[str]) -> int:
    """Stage 1 where it is asked for, the passes over the training questions, stage 2."""
    from foveate.studies.value.study import open_study
    from foveate.studies.value.train import train_head

    config = parse(VqaConfig, argv, "foveate train value")
    with open_study(config, Reporter(plain_console())) as study:
        for flag, value, instead in (
            ("--max_samples", config.max_samples, "--max_train_samples limits the training questions"),
            ("--dataset_config", config.dataset_config, f"training reads data.train_jsonl ({config.data.train_jsonl})"),
            ("--checkpoint", config.checkpoint, "training starts anew"),
        ):
            if value:
                study.report.warn(f"{flag} counts in evaluation alone; {instead}")
        train_head(study)
    return 0


def buckets(argv: list[str]) -> int:
    """A YAML file of `random_policy_matched` that `--config` takes."""
    from foveate.studies.value.buckets import matched_ratios

    config = parse(BucketsConfig, argv, "foveate value buckets", positional=("run",))
    matched = matched_ratios(config)
    matched.write(Path(config.out))
    print(f"{config.out}: {matched.row}, NO/COARSE/FULL {matched.said}")
    return 0


def tables(argv: list[str]) -> int:
    """Main table, curve and action ratios of several runs; bare words at the start are runs."""
    from foveate.studies.value.tables import write_tables

    bare = bool(argv) and not argv[0].startswith("--")
    result = write_tables(parse(TablesConfig, ["--runs", *argv] if bare else argv, "foveate value tables"))
    report = Reporter(plain_console())
    for path in result.files:
        report.line(str(path))
    for warning in result.warnings:
        report.warn(warning)
    return 0


def demo(argv: list[str]) -> int:
    """The whole comparison on the shipped model: a table, two plots, and what the numbers say."""
    from foveate.studies.value.demo import run_demo, verdict

    config, console, begun = parse(DemoVqaConfig, argv, "foveate demo vqa"), plain_console(), time.monotonic()
    result = run_demo(config, Reporter(console))
    show(result, console)
    for line in [*verdict(result), f"{time.monotonic() - begun:.0f} s"]:
        console.print(line, highlight=False)
    return 0
