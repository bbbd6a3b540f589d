"""Training of the head that chooses NO, COARSE or FULL: the model (stage 1), its passes, the head (stage 2).

with open_study(VqaConfig(data=DataConfig(train_jsonl="mixed"), output_dir="out")) as study:
    result = train_head(study)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.evaluation.vqa.cache import data_hash, image_bytes
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.files import write_table
from foveate.evaluation.vqa.load import TRAINING_KEYS, load_model, stage1_recipe
from foveate.evaluation.vqa.matrix import learned_rules
from foveate.evaluation.vqa.passes import VLMLike
from foveate.evaluation.vqa.rows import rule_results
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.studies.value.report import write_summary
from foveate.studies.value.result import Row, gains_text
from foveate.studies.value.run import make_passes
from foveate.studies.value.study import Study, prepare_folder
from foveate.training.lock import sole_training
from foveate.training.log import MetricsFile
from foveate.training.value.stage1 import FOLDER, is_tuned, tune
from foveate.training.value.stage2 import fit, split_by_image
from foveate.types import VQASample
from foveate.util.run_folder import differing_options, write_run_files
from foveate.util.words import plural
from foveate.vision_value.baselines import EVERY_PASS, Always
from foveate.vision_value.checkpoint import TrainedHead, save_head
from foveate.vision_value.outcomes import Outcomes

HEAD_FILES = ("checkpoint-*.pt", "metrics.jsonl", "summary.json", "results.csv", "config.yaml", "run.json")
"""What stage 2 leaves in its folder."""


@dataclass(frozen=True)
class TrainingPasses:
    """The cached passes of the training questions, cut into training and validation."""

    vlm: VLMLike
    scored: ScoredPasses
    held: np.ndarray
    """bool [n]: validation."""

    @property
    def train(self) -> Outcomes:
        return self.scored.outcomes.take(~self.held)

    @property
    def val(self) -> Outcomes:
        return self.scored.outcomes.take(self.held)


@dataclass(frozen=True)
class HeadResult:
    """A trained head; a process that is not the main one has the folder alone."""

    folder: Path
    """Folder of its checkpoints."""
    trained: TrainedHead | None = None
    table: tuple[Row, ...] = ()
    """Rows of `results.csv`: the fixed rules and the head on the validation questions."""


def train_head(study: Study) -> HeadResult:
    """Train under the study's configuration, in `output_dir`, else `training.output_dir`.

    Raises:
        FoveateError: there are no training questions, another process trains there, or stage 1 was another there.
    """
    config, report = study.config, study.report
    folder = Path(config.output_dir or config.training.output_dir)
    prepare_folder(folder, config.language)
    result = HeadResult(folder)
    with sole_training(folder, study.world):
        tuned = tune_model(study, folder)
        passes = training_passes(tuned)
        if passes is not None:
            report.line(f"stage 2: {plural(len(passes.train), 'question')}, {len(passes.val)} for validation")
            if config.policy.use_straight_through is None:
                report.line("stage 2: gains are learned: policy.lambda_cost does not count here, but at evaluation")
            else:
                report.line(f"stage 2: the policy is trained for lambda {config.policy.lambda_cost:g}")
            if kept := set_aside(folder, config):
                report.warn(
                    f"{folder} held a policy of another configuration, now in {kept} (--checkpoint {kept} takes it)"
                )
            with MetricsFile(folder / "metrics.jsonl") as metrics:
                trained = fit_head(study, passes, lambda step, t: save_head(folder, step, t), on_metrics=metrics.write)
            path = save_head(folder, trained.facts["steps"], trained)
            result = HeadResult(folder, trained, _write_training(config, folder, passes, trained, path.name))
            report.line(f"head: {path}")
            gains = gains_text(trained.facts["mean_gains"])
            report.line(f"validation loss {trained.facts['val_loss']:.4f}; {gains}: the scale of lambda")
            if "chosen_lambda" in trained.facts:
                report.line(chosen_text(trained.facts))
    study.world.barrier()
    return result


def chosen_text(facts: Mapping[str, Any]) -> str:
    """The lambda that validation has chosen, what it loses there, and how well so many questions tell that."""
    lost, error, count = facts["chosen_loss"], facts["chosen_loss_error"], facts["questions"]["val"]
    doubt = ": too few to tell losses that small" if error > facts["chosen_within"] else ""
    return (
        f"chosen lambda {facts['chosen_lambda']:g}: {100 * lost:.2f} ± {100 * error:.2f} points below always FULL on "
        f"{plural(count, 'validation question')}, {100 * facts['chosen_within']:.2f} allowed{doubt}"
    )


def tune_model(study: Study, folder: Path) -> Study:
    """Stage 1, where it is asked for and was not done before; the study whose model is the one it has left in `folder`.

    The model is tuned on the training questions without those that stage 2 validates on.

    Raises:
        FoveateError: the folder holds a stage 1 of another recipe.
    """
    config, samples = study.config, study.training_questions
    # Whoever loads the model under this configuration, workers elsewhere too, finds what stage 1 left here.
    home = study.variant(
        training=dataclasses.replace(config.training, output_dir=str(folder)),
        eval=dataclasses.replace(config.eval, ddp_checkpoint_path=None),
        checkpoint=(),
    )
    if config.training.stage1_epochs:
        # What the epoch, lambda and thresholds of stage 2 are chosen on must be new to the model, too.
        tuned_on = [s for s, held in zip(samples, held_out(samples, config), strict=True) if not held]
        recipe = stage1_recipe(config, data_hash(tuned_on))
        again = is_tuned(folder, recipe)
        done = f"; done before, in {folder / FOLDER}" if again else ""
        study.report.line(
            f"stage 1: {plural(config.training.stage1_epochs, 'epoch')} over {plural(len(tuned_on), 'question')} "
            f"(validation is left out), {config.training.stage1_baseline_name}{done}"
        )
        if not again:
            float32 = dataclasses.replace(home.config, model=dataclasses.replace(config.model, dtype="float32"))
            start: Any = load_model(float32, str(study.world.device))
            tune(start, tuned_on, home.config.training, study.world, folder, recipe)
    return home


def training_passes(study: Study) -> TrainingPasses | None:
    """The three passes over the training questions; None in processes that are not the main one."""
    samples = study.training_questions
    vlm = study.vlm
    make_passes(study, {"training": samples}, EVERY_PASS)
    if not study.is_main:
        return None
    scored = study.experiment.scored("training", samples, EVERY_PASS)
    if scored.broken:
        first = next(iter(scored.broken.values()))
        study.report.warn(f"{len(scored.broken)} of {plural(len(samples), 'training question')} left out: {first}")
    return TrainingPasses(vlm, scored, held_out(scored.samples, study.config))


def held_out(samples: Sequence[VQASample], config: VqaConfig) -> np.ndarray:
    """bool [n]: validation, of both stages. The picture alone decides, so a part of the questions falls alike.

    Raises:
        FoveateError: there are too few pictures for both parts.
    """
    return split_by_image([image_bytes(s) or s.id.encode() for s in samples], config.training.val_fraction)


def fit_head(
    study: Study,
    passes: TrainingPasses,
    on_checkpoint: Callable[[int, TrainedHead], object] | None = None,
    label: str = "stage 2",
    on_metrics: Callable[[dict[str, float]], object] | None = None,
) -> TrainedHead:
    """Stage 2 alone; arguments as `training.value.stage2.fit` has them."""
    config = study.config
    with study.report.bar(label, "steps") as bar:
        return fit(
            passes.train,
            passes.val,
            config.policy,
            config.training,
            model=passes.vlm.fingerprint,
            trained_on=config.data.train_jsonl,
            on_step=lambda step, steps, loss: bar.reach(step, f"loss {loss:.3f}", steps),
            on_checkpoint=on_checkpoint,
            on_metrics=on_metrics,
        )


def set_aside(folder: Path, config: VqaConfig) -> Path | None:
    """Move a finished head that was trained otherwise to `folder/earlier_N`; that folder, or None."""
    otherwise = any(key.startswith(TRAINING_KEYS) for key in differing_options(folder, config))
    if not otherwise or not (folder / "summary.json").exists():
        return None
    kept = next(path for n in itertools.count(1) if not (path := folder / f"earlier_{n}").exists())
    kept.mkdir()
    for pattern in HEAD_FILES:
        for path in folder.glob(pattern):
            path.rename(kept / path.name)
    return kept


def _write_training(
    config: VqaConfig, folder: Path, passes: TrainingPasses, trained: TrainedHead, checkpoint: str
) -> tuple[Row, ...]:
    """`results.csv` (the head on validation), `summary.json`, `config.yaml`, `run.json`."""
    scored = passes.scored
    kept = tuple(s for s, held in zip(scored.samples, passes.held, strict=True) if held)
    val = dataclasses.replace(
        scored, dataset="validation", samples=kept, outcomes=passes.val, parsed=scored.parsed[passes.held]
    )
    named = dataclasses.replace(trained, path=str(folder))
    rules: list[Any] = [Always("FULL"), Always("COARSE"), Always("NO"), *learned_rules(config, [named])]
    found = rule_results(val, rules, config.policy, resamples=config.eval.bootstrap, seed=config.training.seed)
    rows = [item.row for item in found]
    write_run_files(folder, config, config.training.seed)
    write_table(folder / "results.csv", rows)
    content = {
        "data": {"training": {"hash": scored.data_hash, "samples": len(scored), "skipped": scored.broken}},
        "checkpoint": checkpoint,
        "policy": trained.facts,
        "rows": rows,
    }
    write_summary(folder, config, config.training.seed, content)
    return tuple(rows)
