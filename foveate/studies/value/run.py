"""The evaluation that every study here is made of: passes, rows, files, plots.

with open_study(config) as study:
    result = evaluate(study)
print([row["accuracy"] for row in result.table], result.warnings)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from foveate.data.vqa.leakage import leak_warnings
from foveate.evaluation.vqa.cluster import run_on_ray
from foveate.evaluation.vqa.load import untuned
from foveate.evaluation.vqa.matrix import asked, asked_rules, matrix_rules, need_head
from foveate.evaluation.vqa.passes import PrunedPass, inspect_images
from foveate.evaluation.vqa.path import add_path
from foveate.evaluation.vqa.profile import executable, profile_rows
from foveate.studies.value.report import draw, write_files
from foveate.studies.value.result import EvaluationResult, Rules
from foveate.studies.value.study import Study, written_by
from foveate.types import VQASample
from foveate.util.files import alone_in
from foveate.vision_value.checkpoint import TrainedHead


@alone_in(written_by, "evaluating")
def evaluate(
    study: Study,
    rules: Rules | None = None,
    *,
    matrix: bool = True,
    needs: frozenset[str] | None = None,
    heads: Sequence[TrainedHead] | None = None,
    plots: bool = True,
) -> EvaluationResult:
    """Make the passes that are lacking, look the rows up, write every file of a run.

    Args:
        rules: rows of `results.csv`; None: as `policy.baseline_name` says.
        matrix: write `eval_matrix.*` with all that these rows must be compared with.
        needs: passes to make, of `text`, `NO`, `COARSE`, `FULL`; None: as the configuration asks.
        heads: in place of the study's own.
        plots: draw the rows beside the tables.
    Raises:
        FoveateError: the folder cannot be written, and whatever is wrong with model, questions or heads.
    """
    start, config = time.monotonic(), study.config
    questions = study.prepare()
    result = EvaluationResult(config)
    if heads is None:
        # Where no head is looked up, or one that was trained a moment ago, there is nothing that stage 1 could lack.
        heads, result.warnings = study.heads, [*untuned(config), *study.head_warnings]
    need_head(config, heads)
    passes, pruned = asked(config)
    passes = passes if needs is None else needs
    make_passes(study, questions, passes, pruned)
    if study.is_main:
        trained_on = [trained.facts.get("trained_on") for trained in heads]
        result.warnings += leak_warnings([*trained_on, config.data.train_jsonl], questions)
        for name, samples in questions.items():
            scored = result.datasets[name] = study.experiment.scored(name, samples, passes, pruned)
            wanted = (rules or asked_rules)(config, scored, heads)
            if wanted:
                result.rows += study.experiment.rows(scored, wanted)
            if matrix:
                result.matrix += study.experiment.rows(scored, matrix_rules(config, scored, heads))
        result.rows = result.rows or result.matrix
        result.matrix = result.matrix or result.rows
        add_paths(study, result)
        if config.eval.profile:
            profile(study, result)
        write_files(study.experiment, result, heads, time.monotonic() - start)
        if plots and result.matrix:
            result.plots = draw(result)
    study.world.barrier()  # what the main process has written is there for the others
    return result


def make_passes(
    study: Study,
    questions: Mapping[str, Sequence[VQASample]],
    needs: frozenset[str],
    pruned: Sequence[PrunedPass] = (),
) -> None:
    """Passes over every data set; other processes do their share meanwhile."""
    experiment = study.experiment
    for name, samples in questions.items():
        if study.is_main:
            inspect_images(samples, experiment.cache, experiment.options.max_pixels)
        study.world.barrier()
        with study.report.bar(f"{name}: answers", "answers") as bar:
            if study.config.eval.workers == "ray":
                run_on_ray(experiment, samples, needs, pruned, bar.begin, bar.advance)
            else:
                experiment.make_passes(samples, needs, pruned, bar.begin, bar.advance)
        study.world.barrier()
    experiment.cache.close()


def add_paths(study: Study, result: EvaluationResult) -> None:
    """FLOPs and milliseconds of the whole path beside every cost."""
    for name, scored in result.datasets.items():
        try:
            costs = study.path_costs(scored)
        except Exception as error:  # of the model or its processor, on one question; the rows are worth keeping
            result.warnings.append(f"{name}: FLOPs and milliseconds could not be measured: {error}")
            continue
        if costs is not None:
            result.paths[name] = costs
            add_path([item for item in (*result.rows, *result.matrix) if item.row["dataset"] == name], costs)


def profile(study: Study, result: EvaluationResult) -> None:
    """Execute the rows of the results, in turns; a row's twin in the matrix takes its figures over."""
    limit, options = study.config.eval.profile_samples, study.experiment.options
    rows = [item for item in result.rows if executable(item)]
    total = sum(min(limit, len(result.datasets[item.row["dataset"]])) for item in rows)
    with study.report.bar("profile", "questions", total) as bar:
        for name, scored in result.datasets.items():
            mine = [item for item in rows if item.row["dataset"] == name]
            for item, found in zip(
                mine, profile_rows(study.vlm, scored, mine, options, limit, bar.advance), strict=True
            ):
                if found.rerouted:
                    result.warnings.append(
                        f"{item.row['row']}: {found.rerouted} of {len(found.answers)} profiled questions were routed "
                        "otherwise than looked up (rounding in a batch of one)"
                    )
    figures = {(i.row["dataset"], i.row["row"]): i.row for i in rows}
    for item in result.matrix:
        twin = figures.get((item.row["dataset"], item.row["row"]))
        if twin is not None:
            item.row.update({key: twin[key] for key in ("latency", "latency_p95", "mem", "mem_of")})
