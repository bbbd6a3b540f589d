"""The eight steps of the full experiment, each in a folder of its own, resumable.

    with open_study(config) as study:
        Paper(study, seeds=(0, 1, 2)).run()

A step that has ended with the same configuration, weights and questions is passed over; the passes of the model are
shared by all of them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from foveate.evaluation.vqa.cache import config_hash, data_hash
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.matrix import learned_rules
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.studies.value import sweeps
from foveate.studies.value.ablation import ablate
from foveate.studies.value.buckets import matched_ratios
from foveate.studies.value.config import BucketsConfig, SeedsConfig, TablesConfig
from foveate.studies.value.result import EvaluationResult, Rules
from foveate.studies.value.run import evaluate
from foveate.studies.value.seeds import SeedsResult, run_seeds
from foveate.studies.value.study import Study, prepare_folder
from foveate.studies.value.tables import write_tables
from foveate.util.files import one_process, write_json
from foveate.util.run_folder import to_dict
from foveate.vision_value.baselines import Cascade
from foveate.vision_value.baselines.uncertainty_threshold import between
from foveate.vision_value.checkpoint import TrainedHead

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
DONE = "done.json"
"""In a step's folder: `identity`, of what it ended with."""
TABLES = "8_tables"


def profiled(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[Any]:
    """The rows whose latency is measured: the fixed rules, a cascade, and the learned head at every lambda."""
    (median,) = between(scored.outcomes.answer_entropy[:, 0], [0.5])
    return [*sweeps.fixed_rules(), Cascade(median), *learned_rules(config, heads)]


def warnings_of(folder: Path) -> list[str]:
    """The distinct warnings of all runs in a folder."""
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("summary.json")):
        found |= dict.fromkeys(json.loads(path.read_text()).get("warnings", []))
    return list(found)


class Paper:
    """The steps over one study; the first of its data sets is the main one."""

    def __init__(
        self,
        study: Study,
        seeds: Sequence[int],
        on_result: Callable[[EvaluationResult | SeedsResult], object] = lambda result: None,
    ) -> None:
        """
        Args:
            seeds: of the first step; at least two.
            on_result: called with what each part of a step has found.
        Raises:
            FoveateError: `policy.baseline_name` is set.
        """
        config = study.config
        sweeps.refuse_one_rule(config)
        self.seeds_config = SeedsConfig(**{**vars(config), "seeds": tuple(seeds)})
        self.folder = Path(config.output_dir or "outputs/paper")
        self.on_result, self.report = on_result, study.report
        self.every = config.dataset_config or config.data.eval_jsonl or ""
        main = self.every.split(",")[0].strip()
        self.study = study.variant(dataset_config=main, pareto=config.pareto or sweeps.LAMBDAS)
        self.base = self.study.config
        self.warnings: list[str] = []
        """The distinct ones of the steps so far."""

    def run(self) -> None:
        """Every step that has not ended yet, in order; under `torchrun` each process does its share of the passes."""
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
        with one_process(self.folder, "making the paper") if self.study.is_main else nullcontext():
            self._run(steps)

    def _run(self, steps: Mapping[str, Callable[[Path], None]]) -> None:
        known = self.identity()
        for name, step in steps.items():
            folder = self.folder / name
            ended = _identity_of(folder) == known
            self.study.world.barrier()  # all have looked before the first of them writes
            self.report.rule(name)
            if ended:
                self.report.line("ended before with the same model and data: passed over")
            else:
                step(folder)
            if self.study.is_main:
                self._warn(folder)
                if not ended:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(folder / DONE, {"identity": known})
            self.study.world.barrier()

    def seeds(self, folder: Path) -> None:
        """Every seed's head, and the mean over them."""
        self._found(run_seeds(self.study.variant(output_dir=str(folder)), self.seeds_config.seeds))

    def pareto(self, folder: Path) -> None:
        """The whole matrix of the main set, the head at every lambda."""
        self._evaluate(folder)

    def baselines(self, folder: Path) -> None:
        """B1, B2, B4: fixed rules, thresholds over entropy and margin, and shares of tokens by every method."""
        self._evaluate(folder / "fixed", lambda *_: sweeps.fixed_rules(), matrix=False, pareto=())
        ratios, thresholds = self.base.ratios or sweeps.RATIOS, self.base.thresholds or THRESHOLDS
        for mode in ("stride", "topk_norm", "pool", "lightvla"):
            place = folder / f"pruning_{mode}"
            self._found(sweeps.pruning(self._variant(place, pareto=(), ratios=ratios, mode=mode)))
        for uncertainty in ("entropy", "margin"):
            for vision in ("full", "coarse"):
                changes = {"thresholds": thresholds, "uncertainty": uncertainty, "vision": vision}
                place = folder / f"threshold_{uncertainty}_{vision}"
                self._found(sweeps.threshold(self._variant(place, pareto=(), **changes)))

    def random_matched(self, folder: Path) -> None:
        """B3: the ratios of a learned row, over the whole set and by entropy, as configurations and as runs."""
        nearest = min(self.base.pareto, key=lambda lam: abs(lam - self.base.policy.lambda_cost))
        for by in ("global", "entropy"):
            matched = matched_ratios(BucketsConfig(str(self.folder / "2_pareto"), lambda_cost=nearest, by=by))
            if self.study.is_main:
                matched.write(folder / f"{by}.yaml")
                self.report.line(f"{folder / by}.yaml: {matched.row}, NO/COARSE/FULL {matched.said}")
            self._evaluate(folder / by, policy=matched.apply(self.base.policy), pareto=())

    def generalization(self, folder: Path) -> None:
        """The matrix of every data set."""
        self._evaluate(folder, dataset_config=self.every)

    def ablation(self, folder: Path) -> None:
        """D1 to D4, and E1: NO raised to FULL above the median entropy of the main set."""
        self._found(ablate(self._variant(folder)))
        summary = json.loads((self.folder / "2_pareto" / "summary.json").read_text())
        learned = next(row for row in summary["rows"] if row.get("bucket_thresholds"))
        raised = dataclasses.replace(
            self.base.policy, fallback_mode="full", fallback_entropy_threshold=learned["bucket_thresholds"][1]
        )
        self._evaluate(folder / "fallback", policy=raised)

    def profile(self, folder: Path) -> None:
        """F1, F2: latency and memory with and without the text-first cache."""
        for reuse in (True, False):
            keys = dataclasses.replace(self.base.eval, profile=True, cache_reuse=reuse)
            self._evaluate(folder / ("reuse" if reuse else "no_reuse"), profiled, eval=keys)

    def tables(self, folder: Path) -> None:
        """G1: the matrices and every run, but the ablated heads, which have `ablation.csv`; the same rows are
        `results.csv` of the whole, and its `summary.json` has the warnings of every step."""
        if not self.study.is_main:
            return
        ablated = self.folder / "6_ablation"
        found = sorted(path.parent for path in self.folder.glob("[2-7]_*/**/results.csv"))
        whole = {self.folder / "2_pareto", self.folder / "5_generalization"}
        runs = tuple(str(run / "eval_matrix.csv" if run in whole else run) for run in found if run != ablated)
        language = self.base.language
        own = write_tables(TablesConfig(runs, str(folder), language=language)).warnings
        summary = json.loads((folder / "summary.json").read_text())
        write_json(folder / "summary.json", summary | {"warnings": list(dict.fromkeys([*self.warnings, *own]))})
        write_tables(TablesConfig((str(self.folder / "1_seeds"),), str(folder / "seeds"), language=language))
        for name in ("results.csv", "summary.json", "config.yaml", "run.json"):
            shutil.copyfile(folder / name, self.folder / name)
        self.report.line(f"tables and plots: {folder}")

    def _variant(self, folder: Path, **changes: Any) -> Study:
        """The study with this folder, and with the first seed's head where none is named."""
        trained = self.folder / "1_seeds" / f"seed_{self.seeds_config.seeds[0]}" / "policy"
        if not self.base.checkpoint and trained.is_dir():
            changes["checkpoint"] = (str(trained),)
        return self.study.variant(**changes, output_dir=str(folder))

    def _evaluate(self, folder: Path, rules: Rules | None = None, *, matrix: bool = True, **changes: Any) -> None:
        self._found(evaluate(self._variant(folder, **changes), rules, matrix=matrix))

    def _found(self, result: EvaluationResult | SeedsResult) -> None:
        if result.table:
            self.on_result(result)

    def identity(self) -> str:
        """Hash of the configuration, the model as it is before stage 1, and all questions with their pictures; where
        they and the results are is not in it: folders may be moved."""
        untuned = dataclasses.replace(self.base.training, stage1_epochs=0)
        whole = self.study.variant(dataset_config=self.every, training=untuned)
        questions = list(whole.questions.values())
        if self.base.data.train_jsonl:
            questions.append(whole.training_questions)
        settings = to_dict(self.seeds_config)
        del settings["output_dir"], settings["training"]["output_dir"], settings["eval"]["cache_dir"]
        del settings["model"]["path"]
        return config_hash([settings, whole.vlm.fingerprint, *map(data_hash, questions)])

    def _warn(self, folder: Path) -> None:
        """Say each warning of a step's runs once; of the tables, which gather those of all steps, their own."""
        found = warnings_of(folder)
        for warning in found:
            if folder.name != TABLES or warning not in self.warnings:
                self.report.warn(f"{folder.name}: {warning}")
        self.warnings = list(dict.fromkeys([*self.warnings, *found]))


def _identity_of(folder: Path) -> str | None:
    """What a step has ended with; None: it has not."""
    try:
        return json.loads((folder / DONE).read_text())["identity"]
    except (OSError, ValueError, KeyError):
        return None
