"""`foveate value paper`: the eight steps of the full experiment, each in a folder of its own, resumable.

A step that has ended with the same configuration, weights and questions is passed over; the passes of the model are
shared by all of them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.cli.eval.vqa import Rules
    from foveate.cli.value.seeds import SeedsConfig
    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.scored import ScoredPasses
    from foveate.vision_value.checkpoint import TrainedHead

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
RATIOS = (1.0, 0.75, 0.5, 0.25)
DONE = "done.json"
"""In a step's folder: `identity`, of what it ended with."""
TABLES = "8_tables"


def paper(argv: list[str]) -> int:
    """The verb: 1 seeds, 2 curve, 3 baselines, 4 random matched, 5 generalisation, 6 ablations, 7 profile, 8 tables."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.value.seeds import SeedsConfig

    config = parse(SeedsConfig, argv, "foveate value paper")
    Paper(config, Console()).run()
    return 0


def profiled(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
    """The rows whose latency is measured: the fixed rules, a cascade, and the learned policy at every lambda."""
    import numpy as np

    from foveate.evaluation.vqa.matrix import learned_rules
    from foveate.vision_value.baselines import Always, Cascade

    median = float(np.median(scored.outcomes.answer_entropy[:, 0]))
    return [Always("FULL"), Always("COARSE"), Always("NO"), Cascade(median), *learned_rules(config, heads)]


def fixed(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
    """The rules that do the same with every question."""
    from foveate.vision_value.baselines import Always

    return [Always("FULL"), Always("COARSE"), Always("NO")]


def warnings_of(folder: Path) -> list[str]:
    """The distinct warnings of all runs in a folder."""
    told: dict[str, None] = {}
    for path in sorted(folder.rglob("summary.json")):
        told |= dict.fromkeys(json.loads(path.read_text()).get("warnings", []))
    return list(told)


class Paper:
    """The steps over one configuration; the first data set of `--dataset_config` is the main one."""

    def __init__(self, config: SeedsConfig, console: Console) -> None:
        from foveate.evaluation.vqa.config import VqaConfig

        self.seeds_config, self.console = config, console
        self.folder = Path(config.output_dir or "outputs/paper")
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(VqaConfig)}
        every = config.dataset_config or config.data.eval_jsonl or ""
        main = every.split(",")[0].strip()
        self.every = every
        self.base: VqaConfig = VqaConfig(**values | {"dataset_config": main, "pareto": config.pareto or LAMBDAS})
        self.vlm: Any = None
        """The model of the steps behind the first, loaded once."""
        self.warnings: list[str] = []
        """The distinct ones of the steps so far."""

    def run(self) -> None:
        """Every step that has not ended yet, in order; under `torchrun` each process does its share of the passes."""
        from foveate.cli.eval.vqa import joined, prepare_folder

        steps: dict[str, Callable[[Path], None]] = {
            "1_seeds": self.seeds,
            "2_pareto": self.pareto,
            "3_baselines": self.baselines,
            "4_random_matched": self.random_matched,
            "5_generalization": self.generalization,
            "6_ablation": self.ablation,
            "7_profile": self.profile,
            TABLES: self.tables,
        }
        prepare_folder(self.folder, self.base.language)
        with joined(self.base) as world:
            self.is_main = world.is_main
            with self.console.status("reading model and questions"):
                self.known = self.identity(str(world.device))
            for name, step in steps.items():
                folder = self.folder / name
                ended = self._ended(folder)
                world.barrier()  # all have looked before the first of them writes
                if self.is_main:
                    self.console.rule(name)
                if ended:
                    if self.is_main:
                        self.console.print("ended before with the same model and data: passed over", highlight=False)
                        self._warn(folder)
                    continue
                step(folder)
                if self.is_main:
                    self._warn(folder)
                    self._end(folder)
                world.barrier()

    def seeds(self, folder: Path) -> None:
        from foveate.cli.value.seeds import run_seeds

        run_seeds(
            self._named(self.seeds_config, folder, dataset_config=self.base.dataset_config, pareto=self.base.pareto),
            self.console,
        )

    def pareto(self, folder: Path) -> None:
        self._evaluate(self._named(self.base, folder))

    def baselines(self, folder: Path) -> None:
        """B1, B2, B4: fixed rules, thresholds over entropy and margin, and shares of tokens by every method."""
        from foveate.cli.value.sweeps import run_pruning, run_threshold

        none = dataclasses.replace(self.base, pareto=())
        self._evaluate(self._named(none, folder / "fixed"), rules=fixed, matrix=False)
        for mode in ("stride", "topk_norm", "pool", "lightvla"):
            own = dataclasses.replace(none, ratios=self.base.ratios or RATIOS, mode=mode)
            run_pruning(self._named(own, folder / f"pruning_{mode}"), self.console, self.vlm)
        for uncertainty in ("entropy", "margin"):
            for vision in ("full", "coarse"):
                own = dataclasses.replace(none, thresholds=self.base.thresholds or THRESHOLDS)
                own = dataclasses.replace(own, uncertainty=uncertainty, vision=vision)
                place = folder / f"threshold_{uncertainty}_{vision}"
                run_threshold(self._named(own, place), self.console, self.vlm)

    def random_matched(self, folder: Path) -> None:
        """B3: the ratios of a learned row, over the whole set and by entropy, as configurations and as runs."""
        from foveate.cli.config import parse
        from foveate.cli.eval.vqa import joined
        from foveate.cli.value.train import buckets
        from foveate.evaluation.vqa.config import VqaConfig

        run = self.folder / "2_pareto"
        for by in ("global", "entropy"):
            file = folder / f"{by}.yaml"
            price = self.base.policy.lambda_cost
            nearest = min(self.base.pareto, key=lambda lam: abs(lam - price))
            with joined(self.base):  # the others wait for the file
                if self.is_main:
                    buckets(["--run", str(run), "--out", str(file), "--by", by, "--lambda_cost", str(nearest)])
            policy = parse(VqaConfig, ["--config", str(file)], "foveate value paper").policy
            keys = [f.name for f in dataclasses.fields(policy) if f.name.startswith("baseline_")]
            merged = dataclasses.replace(self.base.policy, **{key: getattr(policy, key) for key in keys})
            self._evaluate(self._named(self.base, folder / by, policy=merged, pareto=()))

    def generalization(self, folder: Path) -> None:
        self._evaluate(self._named(self.base, folder, dataset_config=self.every))

    def ablation(self, folder: Path) -> None:
        """D1 to D4, and E1: NO raised to FULL above the median entropy of the main set."""
        from foveate.cli.value.ablation import run_ablation

        run_ablation(self._named(self.base, folder), self.console)
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
        """G1: the matrices and every run, but the ablated heads, which have `ablation.csv`; the same rows are
        `results.csv` of the whole, and its `summary.json` has the warnings of every step."""
        from foveate.cli.value.tables import TablesConfig, write_tables
        from foveate.util.files import write_json

        if not self.is_main:
            return
        ablated = self.folder / "6_ablation"
        found = sorted(path.parent for path in self.folder.glob("[2-7]_*/**/results.csv"))
        whole = {self.folder / "2_pareto", self.folder / "5_generalization"}
        runs = tuple(str(run / "eval_matrix.csv" if run in whole else run) for run in found if run != ablated)
        language = self.base.language
        _, own = write_tables(TablesConfig(runs, str(folder), language=language))
        summary = json.loads((folder / "summary.json").read_text())
        write_json(folder / "summary.json", summary | {"warnings": list(dict.fromkeys([*self.warnings, *own]))})
        write_tables(TablesConfig((str(self.folder / "1_seeds"),), str(folder / "seeds"), language=language))
        for name in ("results.csv", "summary.json", "config.yaml", "run.json"):
            shutil.copyfile(folder / name, self.folder / name)
        self.console.print(f"tables and plots: {folder}", highlight=False, soft_wrap=True)

    def _named(self, config: Any, folder: Path, **changes: Any) -> Any:
        """The configuration with this folder, and with the first seed's policy where none is named."""
        trained = self.folder / "1_seeds" / f"seed_{self.seeds_config.seeds[0]}" / "policy"
        if not config.checkpoint and trained.is_dir() and folder.name != "1_seeds":
            changes["checkpoint"] = (str(trained),)
        return dataclasses.replace(config, **changes, output_dir=str(folder))

    def _evaluate(self, config: VqaConfig, rules: Rules | None = None, matrix: bool = True) -> None:
        from foveate.cli.eval.vqa import run_experiment
        from foveate.cli.value.report import plot, rows_table

        done = run_experiment(config, self.console, rules=rules, matrix=matrix, vlm=self.vlm)
        self.vlm = done.vlm
        if done.matrix:
            self.console.print(rows_table([item.row for item in done.matrix]))
            plot(done, config, self.console)

    def identity(self, device: str) -> str:
        """Hash of the configuration, the model as it is before stage 1, and all questions with their pictures."""
        from foveate.evaluation.vqa.cache import config_hash, data_hash
        from foveate.evaluation.vqa.load import load_model, load_sets, load_training_set
        from foveate.util.run_folder import to_dict

        base = self.base
        untuned = dataclasses.replace(base, training=dataclasses.replace(base.training, stage1_epochs=0))
        questions = list(load_sets(dataclasses.replace(base, dataset_config=self.every)).values())
        if base.data.train_jsonl:
            questions.append(load_training_set(base))
        weights = load_model(untuned, device).fingerprint
        return config_hash([to_dict(self.seeds_config), weights, *map(data_hash, questions)])

    def _warn(self, folder: Path) -> None:
        """Print each warning of a step's runs once; of the tables, which gather those of all steps, their own."""
        from rich.markup import escape

        found = warnings_of(folder)
        for warning in found:
            if folder.name != TABLES or warning not in self.warnings:
                told = escape(f"{folder.name}: {warning}")
                self.console.print(f"[yellow]warning:[/] {told}", highlight=False, soft_wrap=True)
        self.warnings = list(dict.fromkeys([*self.warnings, *found]))

    def _ended(self, folder: Path) -> bool:
        try:
            return json.loads((folder / DONE).read_text())["identity"] == self.known
        except (OSError, ValueError, KeyError):
            return False

    def _end(self, folder: Path) -> None:
        from foveate.util.files import write_json

        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DONE, {"identity": self.known})
