"""One value-of-vision experiment, opened: the processes, questions, model and heads that its configuration names.

    with open_study(VqaConfig(dataset_config="mixed", max_samples=40)) as study:
        result = evaluate(study)                                        # studies/value/run.py
        other = evaluate(study.variant(ratios=(0.5,)))                  # the same model, not loaded again

What a study names is read once, when it is first asked for. Under `torchrun` every process opens the study and calls
the same functions; the main process alone has rows and writes files.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.load import ModelSource, load_heads, load_model, load_sets, load_training_set, model_source
from foveate.evaluation.vqa.matrix import Experiment
from foveate.evaluation.vqa.metrics import score_row
from foveate.evaluation.vqa.passes import VLMLike
from foveate.evaluation.vqa.path import PathCosts, measure, ways
from foveate.evaluation.vqa.scored import ScoredPasses
from foveate.types import VQASample
from foveate.util.cluster import require_ray
from foveate.util.progress import SILENT, Reporter
from foveate.util.world import World, join_world
from foveate.vision_value.checkpoint import TrainedHead
from foveate.viz.value.canvas import labels_of


def open_study(config: VqaConfig, report: Reporter = SILENT) -> Study:
    """Join the processes that work on this experiment; close the study (or use `with`) to leave them.

    Args:
        report: where the main process says what it is doing.
    Raises:
        FoveateError: `eval.workers` or `model.device` asks for what this machine lacks.
    """
    if config.eval.workers == "ray":
        require_ray("eval.workers: ray")
    processes = ExitStack()
    asked = config.model.device
    world = processes.enter_context(join_world("auto" if asked == "cuda" else asked))
    study = Study(config, world, report if world.is_main else SILENT, _LastModel(), processes)
    if asked == "cuda" and world.device.type == "cpu":
        study.report.warn("model.device is cuda, and there is none: the CPU works")
    return study


class Study:
    """What a configuration names, each part read when it is first asked for."""

    def __init__(
        self, config: VqaConfig, world: World, report: Reporter, models: _LastModel, processes: ExitStack | None = None
    ) -> None:
        """
        Args:
            world: this process among all.
            models: shared by the variants of a study.
            processes: what closing the study leaves; a variant leaves nothing.
        """
        self.config, self.world, self.report = config, world, report
        self._models, self._processes = models, processes or ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: Any) -> None:
        if failure == (None, None, None):
            self.world.barrier()
        self._processes.__exit__(*failure)

    def close(self) -> None:
        """Leave the other processes."""
        self.__exit__(None, None, None)

    def variant(self, config: VqaConfig | None = None, **changes: Any) -> Study:
        """The study of another configuration among the same processes.

        Args:
            config: None: this study's.
            changes: fields of it that differ.
        """
        return Study(dataclasses.replace(config or self.config, **changes), self.world, self.report, self._models)

    def prepare(self) -> dict[str, list[VQASample]]:
        """Make the output folder and read the questions: what must fail fails before the work."""
        prepare_folder(self.folder, self.config.language)
        return self.questions

    @property
    def is_main(self) -> bool:
        """The one process that has rows and writes files."""
        return self.world.is_main

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.config.folder

    @cached_property
    def questions(self) -> dict[str, list[VQASample]]:
        """Data set -> its questions."""
        with self.report.status("reading the questions"):
            return load_sets(self.config)

    @cached_property
    def training_questions(self) -> list[VQASample]:
        """Those of `data.train_jsonl`."""
        with self.report.status("reading the training questions"):
            return load_training_set(self.config)

    @cached_property
    def vlm(self) -> VLMLike:
        """The model; a variant that names the same one has the same."""
        with self.report.status("loading the model"):
            return self._models.load(self.config, str(self.world.device))

    @property
    def heads(self) -> list[TrainedHead]:
        """The trained heads, none where there are none."""
        return self._heads[0]

    @property
    def head_warnings(self) -> list[str]:
        """What does not fit between the heads, the model and this configuration."""
        return self._heads[1]

    @cached_property
    def _heads(self) -> tuple[list[TrainedHead], list[str]]:
        return load_heads(self.config, self.vlm)

    def path_costs(self, scored: ScoredPasses) -> PathCosts | None:
        """FLOPs and milliseconds of the passes that these were scored from, each measured once; None: not asked for."""
        options, keys = self.experiment.options, self.config.eval
        if not keys.path_samples:
            return None
        place = (id(self.vlm), scored.data_hash, options.decoding, options.reuse, keys.path_samples)
        costs = self._models.paths.setdefault(place, PathCosts(min(keys.path_samples, len(scored))))
        lacking = [name for name in ways(scored) if name not in costs.ms]
        if lacking:
            with self.report.status("measuring the passes one question at a time"):
                measure(self.vlm, scored, lacking, options, keys.path_samples, costs)
        return costs

    @cached_property
    def experiment(self) -> Experiment:
        """The model's cached passes."""
        return Experiment(self.config, self.vlm, score_row, self.world.rank, self.world.size)


class _LastModel:
    """The model that was loaded last, for the next variant that names the same."""

    def __init__(self) -> None:
        self._source: ModelSource | None = None
        self._vlm: VLMLike | None = None
        self.paths: dict[object, PathCosts] = {}
        """What passes of it take."""

    def load(self, config: VqaConfig, device: str) -> VLMLike:
        source = model_source(config)
        if self._vlm is None or source != self._source:
            self.paths.clear()
            self._vlm = None  # its memory is free before the next one is loaded
            self._source, self._vlm = source, load_model(config, device)
        return self._vlm


def written_by(study: Study) -> Path | None:
    """The folder that this process writes to; None: another one writes for all."""
    if not study.is_main:
        return None
    prepare_folder(study.folder, study.config.language)  # what cannot be made is told as the flag that named it
    return study.folder


def prepare_folder(folder: Path, language: str) -> None:
    """Make the output folder, and see that plots can be labelled: what must fail fails before the work.

    Raises:
        FoveateError: the folder cannot be written, or there is no font for the language.
    """
    labels_of(language)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoveateError(f"--output_dir {folder}: cannot be made ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise FoveateError(f"--output_dir {folder}: cannot be written; choose another")
