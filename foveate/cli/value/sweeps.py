"""`foveate sweep pareto|threshold|pruning|seeds|oracle`: parts of the matrix, each with its files and its plot.

All of them are look-ups in the cache that `foveate eval vqa` fills, so one after another costs no further pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.scored import ScoredPasses


def pareto(argv: list[str]) -> int:
    """The learned policy at every lambda, beside the fixed rules: `pareto_lambda.*`."""
    from foveate.evaluation.vqa.matrix import learned_rules
    from foveate.vision_value.baselines import Always, Oracle
    from foveate.vision_value.learned import with_fallback

    config, console = _parse(argv, "pareto")
    config = config if config.pareto else dataclasses.replace(config, pareto=(0.0, 0.02, 0.05, 0.1, 0.2, 0.5))

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[Any]) -> list[Any]:
        learned = [with_fallback(rule, config.policy) for rule in learned_rules(config, heads)]
        return [Always("FULL"), Always("COARSE"), Always("NO"), *learned, Oracle()]

    _sweep(config, console, "pareto_lambda", rules, None)
    return 0


def threshold(argv: list[str]) -> int:
    """The verb: `pareto_threshold.*`."""
    run_threshold(*_parse(argv, "threshold"))
    return 0


def run_threshold(config: VqaConfig, console: Console, vlm: Any = None) -> None:
    """The uncertainty rule at every threshold."""
    from foveate.evaluation.vqa.matrix import threshold_rules
    from foveate.vision_value.baselines import Always

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[Any]) -> list[Any]:
        look = Always("FULL" if config.vision == "full" else "COARSE")
        return [*threshold_rules(config, scored, {}), look, Always("NO")]  # the ends of the curve, of the same passes

    needs = frozenset({"text", "NO", config.vision.upper()})
    _sweep(config, console, "pareto_threshold", rules, needs, vlm, only="uncertainty_threshold")


def pruning(argv: list[str]) -> int:
    """The verb: `pareto_pruning.*`."""
    run_pruning(*_parse(argv, "pruning"))
    return 0


def run_pruning(config: VqaConfig, console: Console, vlm: Any = None) -> None:
    """Shares of vision tokens, by the method asked for, at random, and by a smaller picture."""
    from foveate.vision_value.baselines import Always

    config = config if config.ratios else dataclasses.replace(config, ratios=(1.0, 0.75, 0.5, 0.25))

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[Any]) -> list[Any]:
        return [Always("FULL"), *scored.pruned]

    _sweep(config, console, "pareto_pruning", rules, frozenset({"FULL"}), vlm)


def oracle(argv: list[str]) -> int:
    """The cheapest action that is right, question by question: `analysis_oracle.json`."""
    from foveate.cli.eval.vqa import run_experiment
    from foveate.cli.value.report import plot, rows_table, tell
    from foveate.evaluation.vqa.oracle import analyse
    from foveate.util.files import write_json
    from foveate.vision_value.baselines import EVERY_ANSWER, Always, Oracle
    from foveate.viz.value.bars import plot_oracle

    config, console = _parse(argv, "oracle")

    def rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[Any]) -> list[Any]:
        return [Always("FULL"), Always("COARSE"), Always("NO"), Oracle()]

    done = run_experiment(config, console, rules=rules, matrix=False, needs=EVERY_ANSWER, heads=())
    if done.rows:
        found = {name: analyse(scored, config.policy) for name, scored in done.datasets.items()}
        write_json(done.folder / "analysis_oracle.json", found)
        console.print(rows_table([item.row for item in done.rows]))
        tell(done, console)
        console.print(f"analysis: {done.folder / 'analysis_oracle.json'}", highlight=False, soft_wrap=True)
        picture = plot_oracle(found, done.folder / "analysis_oracle.png", config.language)
        console.print(f"plot: {picture}", highlight=False, soft_wrap=True)
        plot(done, config, console)
    return 0


def seeds(argv: list[str]) -> int:
    """Train (where `data.train_jsonl` is set) and evaluate with every seed: `seeds.*` with mean and deviation."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.value.seeds import SeedsConfig, run_seeds

    config = parse(SeedsConfig, argv, "foveate sweep seeds")
    run_seeds(config, Console())
    return 0


def _parse(argv: list[str], name: str) -> tuple[VqaConfig, Console]:
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.vqa.config import VqaConfig

    config = parse(VqaConfig, argv, f"foveate sweep {name}")
    if config.policy.baseline_name is not None:
        raise FoveateError(
            f"policy.baseline_name is {config.policy.baseline_name}, and a sweep has its own rows; leave it null, or "
            "use `foveate eval vqa` for one rule"
        )
    if config.output_dir is None:
        config = dataclasses.replace(config, output_dir=f"outputs/sweep_{name}")
    return config, Console()


def _sweep(
    config: VqaConfig,
    console: Console,
    stem: str,
    rules: Any,
    needs: frozenset[str] | None,
    vlm: Any = None,
    only: str | None = None,
) -> None:
    """Run and write; the files of `stem` hold the rows whose `baseline_name` is `only`, or all."""
    from foveate.cli.eval.vqa import run_experiment
    from foveate.cli.value.report import plot, rows_table, tell
    from foveate.evaluation.vqa.files import write_both

    done = run_experiment(
        config, console, rules=rules, matrix=False, needs=needs, heads=None if needs is None else (), vlm=vlm
    )
    if done.rows:
        rows = [item.row for item in done.rows]
        write_both(done.folder, stem, [row for row in rows if only in (None, row["baseline_name"])])
        console.print(rows_table(rows))
        tell(done, console)
        plot(done, config, console)
