"""`foveate value paper`: the eight steps of the full experiment, each in a folder of its own, resumable.

A step that has ended under the same configuration is passed over; the passes of the model are shared by all of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.cli.seeds import SeedsConfig
    from foveate.cli.vqa import Rules
    from foveate.evaluation.vqa_board import Board
    from foveate.evaluation.vqa_config import VqaConfig
    from foveate.training.value_checkpoint import TrainedPolicy

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
RATIOS = (1.0, 0.75, 0.5, 0.25)
DONE = "done.json"
"""In a step's folder: the hash of the configuration under which it ended."""


def paper(argv: list[str]) -> int:
    """The verb: 1 seeds, 2 curve, 3 baselines, 4 random matched, 5 generalisation, 6 ablations, 7 profile, 8 tables."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.seeds import SeedsConfig

    config = parse(SeedsConfig, argv, "foveate value paper")
    Paper(config, Console()).run()
    return 0


def profiled(config: VqaConfig, board: Board, policies: Sequence[TrainedPolicy]) -> list[Any]:
    """The rows whose latency is measured: the fixed rules, a cascade, and the learned policy at every lambda."""
    import numpy as np

    from foveate.evaluation.vqa import learned_rules
    from foveate.vision_value.baselines import Always, Cascade

    median = float(np.median(board.outcomes.answer_entropy[:, 0]))
    return [Always("FULL"), Always("COARSE"), Always("NO"), Cascade(median), *learned_rules(config, policies)]


class Paper:
    """The steps over one configuration; the first data set of `--dataset_config` is the main one."""

    def __init__(self, config: SeedsConfig, console: Console) -> None:
        from foveate.evaluation.vqa_config import VqaConfig

        self.seeds_config, self.console = config, console
        self.folder = Path(config.output_dir or "outputs/paper")
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(VqaConfig)}
        every = config.dataset_config or config.data.eval_jsonl or ""
        main = every.split(",")[0].strip()
        self.every = every
        self.base: VqaConfig = VqaConfig(**values | {"dataset_config": main, "pareto": config.pareto or LAMBDAS})

    def run(self) -> None:
        """Every step that has not ended yet, in order."""
        steps: dict[str, Callable[[Path], None]] = {
            "1_seeds": self.seeds,
            "2_pareto": self.pareto,
            "3_baselines": self.baselines,
            "4_random_matched": self.random_matched,
            "5_generalization": self.generalization,
            "6_ablation": self.ablation,
            "7_profile": self.profile,
            "8_tables": self.tables,
        }
        for name, step in steps.items():
            folder = self.folder / name
            self.console.rule(name)
            if self._ended(folder):
                self.console.print("ended before under this configuration: passed over", highlight=False)
                continue
            step(folder)
            self._end(folder)

    def seeds(self, folder: Path) -> None:
        from foveate.cli.seeds import run_seeds

        run_seeds(
            self._named(self.seeds_config, folder, dataset_config=self.base.dataset_config, pareto=self.base.pareto),
            self.console,
        )

    def pareto(self, folder: Path) -> None:
        self._evaluate(self._named(self.base, folder))

    def baselines(self, folder: Path) -> None:
        """B1, B2, B4: fixed rules and thresholds over entropy and margin, and shares of tokens by every method."""
        for mode in ("stride", "topk_norm"):
            own = self._named(self.base, folder / f"pruning_{mode}", ratios=self.base.ratios or RATIOS, mode=mode)
            self._evaluate(own)
        for uncertainty in ("entropy", "margin"):
            for vision in ("full", "coarse"):
                place = folder / f"threshold_{uncertainty}_{vision}"
                own = self._named(self.base, place, thresholds=self.base.thresholds or THRESHOLDS)
                self._evaluate(dataclasses.replace(own, uncertainty=uncertainty, vision=vision))

    def random_matched(self, folder: Path) -> None:
        """B3: the ratios of a learned row, over the whole set and by entropy, as configurations and as runs."""
        from foveate.cli.config import parse
        from foveate.cli.value import buckets
        from foveate.evaluation.vqa_config import VqaConfig

        run = self.folder / "2_pareto"
        for by in ("global", "entropy"):
            file = folder / f"{by}.yaml"
            price = self.base.policy.lambda_cost
            nearest = min(self.base.pareto, key=lambda lam: abs(lam - price))
            buckets(["--run", str(run), "--out", str(file), "--by", by, "--lambda_cost", str(nearest)])
            policy = parse(VqaConfig, ["--config", str(file)], "foveate value paper").policy
            keys = [f.name for f in dataclasses.fields(policy) if f.name.startswith("baseline_")]
            merged = dataclasses.replace(self.base.policy, **{key: getattr(policy, key) for key in keys})
            self._evaluate(self._named(self.base, folder / by, policy=merged, pareto=()))

    def generalization(self, folder: Path) -> None:
        self._evaluate(self._named(self.base, folder, dataset_config=self.every))

    def ablation(self, folder: Path) -> None:
        """D1 to D4, and E1: NO raised to FULL above the median entropy of the main set."""
        from foveate.cli.ablate import run_ablation

        run_ablation(self._named(self.base, folder, checkpoint=()), self.console)
        summary = json.loads((self.folder / "2_pareto" / "summary.json").read_text())
        learned = next(row for row in summary["rows"] if row.get("bucket_thresholds"))
        policy = dataclasses.replace(
            self.base.policy, fallback_mode="full", fallback_entropy_threshold=learned["bucket_thresholds"][1]
        )
        self._evaluate(self._named(self.base, folder / "fallback", policy=policy))

    def profile(self, folder: Path) -> None:
        """F1, F2: latency and memory with and without the text-first cache."""
        for reuse in (True, False):
            keys = dataclasses.replace(self.base.eval, profile=True, cache_reuse=reuse)
            place = folder / ("reuse" if reuse else "no_reuse")
            self._evaluate(self._named(self.base, place, eval=keys), rules=profiled)

    def tables(self, folder: Path) -> None:
        from foveate.cli.value import TablesConfig, write_tables

        runs = sorted({str(path.parent) for path in self.folder.glob("[2-7]_*/**/results.csv")})
        seeds = self.folder / "1_seeds"
        write_tables(TablesConfig((*runs,), str(folder), language=self.base.language))
        write_tables(TablesConfig((str(seeds),), str(folder / "seeds"), language=self.base.language))
        self.console.print(f"tables and plots: {folder}", highlight=False, soft_wrap=True)

    def _named(self, config: Any, folder: Path, **changes: Any) -> Any:
        """The configuration with this folder, and with the first seed's policy where none is named."""
        trained = self.folder / "1_seeds" / f"seed_{self.seeds_config.seeds[0]}" / "policy"
        if "checkpoint" not in changes and not config.checkpoint and trained.is_dir() and folder.name != "1_seeds":
            changes["checkpoint"] = (str(trained),)
        return dataclasses.replace(config, **changes, output_dir=str(folder))

    def _evaluate(self, config: VqaConfig, rules: Rules | None = None) -> None:
        from foveate.cli.vqa import run_experiment
        from foveate.cli.vqa_output import rows_table
        from foveate.viz.value_plots import plot_rows

        done = run_experiment(config, self.console, rules=rules)
        if done.matrix:
            self.console.print(rows_table([item.row for item in done.matrix]))
            plot_rows([item.row for item in done.matrix], done.folder, config.language)

    def _hash(self) -> str:
        from foveate.cli.config import to_dict
        from foveate.evaluation.vqa_cache import config_hash

        return config_hash(to_dict(self.seeds_config))

    def _ended(self, folder: Path) -> bool:
        try:
            return json.loads((folder / DONE).read_text())["config_hash"] == self._hash()
        except (OSError, ValueError, KeyError):
            return False

    def _end(self, folder: Path) -> None:
        from foveate.evaluation.vqa_files import write_json

        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DONE, {"config_hash": self._hash()})
