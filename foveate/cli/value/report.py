"""What the value-of-vision verbs leave behind: tables on the screen, files of a run, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.cli.eval.vqa import Finished
    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.matrix import Experiment
    from foveate.evaluation.vqa.scored import ScoredPasses
    from foveate.vision_value.checkpoint import TrainedHead


def write_files(
    experiment: Experiment,
    done: Finished,
    heads: Sequence[TrainedHead],
    seconds: float,
) -> None:
    """`results.csv`, `eval_matrix.*`, `summary.json`, error slices, accuracy by category, `config.yaml`, `run.json`."""
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
        write_both,
        write_table,
    )
    from foveate.evaluation.vqa.matrix import reuse_note
    from foveate.util.files import write_json
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import to_dict, write_run_files

    config, folder = experiment.config, done.folder
    remove_earlier(folder, RUN_FILES)
    write_run_files(folder, config, config.training.seed)
    write_submissions(done)
    write_table(folder / "results.csv", [item.row for item in done.rows])
    write_both(folder, "eval_matrix", [item.row for item in done.matrix])
    slices, examples, categories = [], [], []
    for name, scored in done.datasets.items():
        mine = [item for item in done.rows if item.row["dataset"] == name]
        categories += by_category(scored, mine)
        for item in mine:
            if hasattr(item.rule, "decide"):
                found, wrong = error_slices(scored, item)
                slices += found
                examples += [{"row": item.row["row"], **example} for example in wrong]
    write_table(folder / "error_slices.csv", slices, SLICE_COLUMNS)
    unparsed = unparsed_answers(done.datasets)
    write_json(folder / "error_slices.json", {"slices": slices, "examples": examples, "unparsed": unparsed})
    write_table(folder / "categories.csv", categories, CATEGORY_COLUMNS)
    margins = compare_all(done, config.training.seed)
    if margins:
        write_table(folder / "comparison.csv", margins, COMPARED)
    plain = to_dict(config)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "seed": config.training.seed,
        "config": plain,
        "config_hash": config_hash(plain),
        "data": data_facts(done.datasets),
        "model": experiment.meta,
        "cache_folder": str(experiment.cache.folder),
        "cache_reuse": reuse_note(experiment.vlm, config.eval.cache_reuse),
        "policies": [{"path": p.path, **p.facts} for p in heads],
        "mean_gains": mean_gains(done.datasets),
        "comparison": margins,
        "rows": [item.row for item in done.rows],
        "circular_accuracy": circular_accuracies(done.datasets, done.rows),
        "warnings": done.warnings,
        "seconds": round(seconds, 2),
        **provenance(),
    }
    write_json(folder / "summary.json", summary)


def data_facts(datasets: Mapping[str, ScoredPasses]) -> dict[str, Any]:
    """Data set -> its hash, questions, and those that were left out with the reason."""
    return {
        name: {"hash": scored.data_hash, "samples": len(scored), "skipped": scored.broken}
        for name, scored in datasets.items()
    }


def compare_all(done: Finished, seed: int) -> list[dict[str, Any]]:
    """The learned rows of each data set against the rivals' curves, at the same cost."""
    from foveate.evaluation.vqa.compare import compare

    return [
        margin
        for name in done.datasets
        for margin in compare([item for item in done.matrix if item.row["dataset"] == name], seed=seed)
    ]


def write_submissions(done: Finished) -> None:
    """Of sets whose answers are not public: each row's answers in the form that the set's server takes."""
    from foveate.errors import FoveateError
    from foveate.evaluation.vqa.files import submission_stem
    from foveate.evaluation.vqa.submission import write_submission
    from foveate.vision_value.config import LEVELS

    for item in done.rows:
        scored = done.datasets[item.row["dataset"]]
        if any(sample.answers for sample in scored.samples) or not hasattr(item.rule, "decide"):
            continue
        texts = [scored.answers[LEVELS[a]][i]["text"] for i, a in enumerate(item.decisions.action)]
        stem = submission_stem(scored.dataset, item.row["row"])
        try:
            path = write_submission(done.folder / stem, scored.samples, texts)
        except FoveateError as error:  # the results are worth keeping without it
            done.warnings.append(f"{scored.dataset}: the answers are not public; no file for its server: {error}")
        else:
            done.warnings.append(f"{scored.dataset}: the answers are not public; for its server: {path}")


def mean_gains(datasets: Mapping[str, ScoredPasses]) -> dict[str, dict[str, float]]:
    """Data set -> nats per answer token that COARSE and FULL earn over NO, on average."""
    import numpy as np

    found = {}
    for name, scored in datasets.items():
        gains = scored.outcomes.gains[:, 1:]
        gains = gains[np.isfinite(gains).all(-1)]
        if len(gains):
            found[name] = dict(zip(("coarse", "full"), gains.mean(0).tolist(), strict=True))
    return found


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A row per rule: accuracy and cost with their intervals, action ratios, remaining tokens."""
    from rich.table import Table

    seeds = any(row.get("accuracy_std") is not None for row in rows)
    intervals = "mean ± deviation over seeds" if seeds else "95 % intervals: bootstrap over questions"
    table = Table(caption=f"{intervals}; cost: a FULL look is 1, or tokens")
    several = len({row["dataset"] for row in rows}) > 1
    timed = any(row.get("latency") is not None for row in rows)
    headings = [*(["set"] if several else []), "row", "accuracy", "cost", "no/coarse/full %", "tokens"]
    for heading in [*headings, *(["ms"] if timed else [])]:
        table.add_column(heading, justify="left" if heading in ("set", "row") else "right", no_wrap=heading != "row")
    for row in rows:
        accuracy = "not public"
        if row["accuracy"] is not None:
            bounds = f"({100 * row['accuracy_low']:.1f}-{100 * row['accuracy_high']:.1f})"
            if seeds:
                bounds = f"± {100 * row['accuracy_std']:.1f}"
            accuracy = f"{100 * row['accuracy']:.1f} {bounds}"
        rates = "/".join(f"{100 * row[f'action_rate_{level}']:.0f}" for level in ("no", "coarse", "full"))
        cells = [*([row["dataset"]] if several else []), row["row"], accuracy, f"{row['avg_cost']:.3f}", rates]
        cells.append(f"{row['remaining_vision_tokens']:.1f}")
        if timed:
            cells.append("" if row.get("latency") is None else f"{1000 * row['latency']:.0f}")
        table.add_row(*cells)
    return table


def tell(done: Finished, console: Console) -> None:
    """Mean gains (the scale of lambda), what was left out, warnings, and where the files are."""
    from foveate.vision_value.config import LEVELS

    for name, gains in mean_gains(done.datasets).items():
        console.print(
            f"{name}: a look earns {gains['coarse']:.3f} (coarse) and {gains['full']:.3f} (full) nats per answer token "
            "on average: the scale of lambda",
            highlight=False,
        )
    for name, scored in done.datasets.items():
        if scored.broken:
            first = next(iter(scored.broken.values()))
            console.print(f"[yellow]{name}: {len(scored.broken)} questions left out:[/] {first}", highlight=False)
        lacking = " and ".join(level for level in LEVELS if level not in scored.answers)
        if lacking:
            console.print(
                f"{name}: {lacking} passes were not made; what hangs on them is empty in error_slices.* and "
                "categories.csv (`foveate sweep oracle` makes all three)",
                highlight=False,
                soft_wrap=True,
            )
    notes = {item.row["cache_reuse"] for item in done.rows} - {"true", "false"}
    for note in notes:
        console.print(f"the text-first cache was not reused: {note.removeprefix('no: ')}", highlight=False)
    for warning in done.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)
    console.print(f"results: {done.folder / 'results.csv'}", soft_wrap=True, highlight=False)


def plot(done: Finished, config: VqaConfig, console: Console) -> None:
    """The plots of a run's rows, beside its tables."""
    from foveate.viz.value.bars import plot_errors
    from foveate.viz.value.curves import plot_rows

    paths = plot_rows([item.row for item in done.matrix], done.folder, config.language, asked_mode(config))
    chosen = [item for item in done.matrix if item.row["chosen"] and all(item is not row for row in done.rows)]
    slices = [row for item in [*done.rows, *chosen] for row in done.slices(item)]
    if slices:
        paths.append(plot_errors(slices, done.folder / "error_slices.png", config.language))
    for path in paths:
        console.print(f"plot: {path}", highlight=False, soft_wrap=True)


def asked_mode(config: VqaConfig) -> str:
    """Of the ways of showing less, the one that the user named; others stand beside it."""
    from foveate.evaluation.vqa.rows import PRUNING

    return config.policy.baseline_pruning_mode if config.policy.baseline_name == PRUNING else config.mode
