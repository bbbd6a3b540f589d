"""The files and plots of an evaluation; their columns are in docs/value-of-vision.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError
from foveate.evaluation.vqa.benchmarks import circular_accuracies, unparsed_answers
from foveate.evaluation.vqa.cache import config_hash
from foveate.evaluation.vqa.compare import COLUMNS as COMPARED
from foveate.evaluation.vqa.files import (
    CATEGORY_COLUMNS,
    RUN_FILES,
    SCHEMA_VERSION,
    SLICE_COLUMNS,
    by_category,
    error_slices,
    remove_earlier,
    submission_stem,
    write_both,
    write_predictions,
    write_table,
)
from foveate.evaluation.vqa.matrix import Experiment, reuse_note
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.submission import write_submission
from foveate.studies.value.result import EvaluationResult, Row, asked_mode, data_facts
from foveate.types import LEVELS
from foveate.util.files import write_json
from foveate.util.provenance import provenance
from foveate.util.run_folder import to_dict, write_run_files
from foveate.vision_value.checkpoint import TrainedHead
from foveate.viz.value.bars import plot_errors
from foveate.viz.value.curves import plot_rows


def write_files(experiment: Experiment, result: EvaluationResult, heads: Sequence[TrainedHead], seconds: float) -> None:
    """`results.csv`, `eval_matrix.*`, `summary.json`, error slices, accuracy by category, `config.yaml`, `run.json`."""
    config, folder = experiment.config, result.folder
    remove_earlier(folder, RUN_FILES)
    write_run_files(folder, config, config.training.seed)
    _write_submissions(result)
    rows = [item.row for item in result.rows]
    write_table(folder / "results.csv", rows)
    write_both(folder, "eval_matrix", result.table)
    write_predictions(folder / "predictions.jsonl", result.datasets, result.every_row)
    slices, examples, categories = [], [], []
    for name, scored in result.datasets.items():
        mine = [item for item in result.rows if item.row["dataset"] == name]
        categories += by_category(scored, mine)
        for item in mine:
            found, wrong = _slices(result, item)
            slices += found
            examples += [{"row": item.row["row"], **example} for example in wrong]
    write_table(folder / "error_slices.csv", slices, SLICE_COLUMNS)
    unparsed = unparsed_answers(result.datasets)
    write_json(folder / "error_slices.json", {"slices": slices, "examples": examples, "unparsed": unparsed})
    write_table(folder / "categories.csv", categories, CATEGORY_COLUMNS)
    margins = result.comparison()
    if margins:
        write_table(folder / "comparison.csv", margins, COMPARED)
    write_summary(
        folder,
        config,
        config.training.seed,
        {
            "data": data_facts(result.datasets),
            "model": experiment.meta,
            "cache_folder": str(experiment.cache.folder),
            "cache_reuse": reuse_note(experiment.vlm, config.eval.cache_reuse),
            "policies": [{"path": p.path, **p.facts} for p in heads],
            "mean_gains": result.mean_gains,
            "path": {name: vars(costs) for name, costs in result.paths.items()},
            "comparison": margins,
            "rows": rows,
            "circular_accuracy": circular_accuracies(result.datasets, result.rows),
            "warnings": result.warnings,
            "seconds": round(seconds, 2),
        },
    )


def write_summary(folder: Path, config: Any, seed: Any, content: Mapping[str, Any]) -> None:
    """`summary.json`: the content, between the configuration it belongs to and where it came from."""
    plain = to_dict(config)
    about = {"schema_version": SCHEMA_VERSION, "seed": seed, "config": plain, "config_hash": config_hash(plain)}
    write_json(folder / "summary.json", {**about, **content, **provenance()})


def draw(result: EvaluationResult) -> list[Path]:
    """The plots of a result's rows, beside its tables."""
    paths = plot_rows(result.table, result.folder, result.config.language, asked_mode(result.config))
    chosen = [item for item in result.matrix if item.row["chosen"] and all(item is not row for row in result.rows)]
    slices = [row for item in [*result.rows, *chosen] for row in _slices(result, item)[0]]
    if slices:
        paths.append(plot_errors(slices, result.folder / "error_slices.png", result.config.language))
    return paths


def _slices(result: EvaluationResult, item: RuleResult) -> tuple[list[Row], list[Row]]:
    """Where a row's answers are wrong, by action and category, and examples; none of a pruned look."""
    return error_slices(result.datasets[item.row["dataset"]], item) if hasattr(item.rule, "decide") else ([], [])


def _write_submissions(result: EvaluationResult) -> None:
    """Of sets whose answers are not public: each row's answers in the form that the set's server takes."""
    for item in result.rows:
        scored = result.datasets[item.row["dataset"]]
        if any(sample.answers for sample in scored.samples) or not hasattr(item.rule, "decide"):
            continue
        texts = [scored.answers[LEVELS[a]][i]["text"] for i, a in enumerate(item.decisions.action)]
        stem = submission_stem(scored.dataset, item.row["row"])
        try:
            path = write_submission(result.folder / stem, scored.samples, texts)
        except FoveateError as error:  # the results are worth keeping without it
            result.warnings.append(f"{scored.dataset}: the answers are not public; no file for its server: {error}")
        else:
            result.warnings.append(f"{scored.dataset}: the answers are not public; for its server: {path}")
