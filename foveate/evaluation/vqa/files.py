"""The files of a value-of-vision run: tables (CSV and JSON), `summary.json`, error slices, accuracy by category.

Every file is replaced at once. The columns are in docs/value-of-vision.md.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.evaluation.vqa.oracle import ChanceCorrected
from foveate.evaluation.vqa.rows import COLUMNS, RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.types import LEVELS
from foveate.util.files import draft, write_json, write_text

SCHEMA_VERSION = "foveate.vqa/v1"
SLICE_COLUMNS = (
    "dataset", "row", "action", "category", "samples", "accuracy", "wrong", "wrong_looked_too_little",
    "wrong_at_every_action", "right_but_looked_too_much", "unparsed",
)  # fmt: skip
CATEGORY_COLUMNS = (
    "dataset", "category", "samples", "accuracy_no", "accuracy_coarse", "accuracy_full", "blind_answerable",
    "row", "accuracy", "avg_cost", "accuracy_where_blind_answerable", "accuracy_elsewhere",
)  # fmt: skip
PLOTS = ("pareto_{dataset}.png", "action_ratio_{dataset}.png", "pruning_{dataset}.png")
RUN_FILES = (
    "comparison.csv", "predictions.jsonl", "error_slices.csv", "error_slices.json", "error_slices.png",
    "categories.csv", "analysis_oracle.json", "analysis_oracle.png", "ablation_{dataset}.png", *PLOTS,
    *(f"{stem}.{suffix}" for suffix in ("csv", "json")
      for stem in ("eval_matrix", "pareto_lambda", "pareto_threshold", "pareto_pruning", "ablation")),
    *(f"{{submission}}.{suffix}" for suffix in ("xlsx", "json", "jsonl")),
)  # fmt: skip
"""What one of `foveate eval vqa`, `sweep` and `value ablate` writes, and another in the same folder may not."""


def remove_earlier(folder: Path, names: Sequence[str]) -> None:
    """Remove files that an earlier run left in this folder, just before the next one writes its own.

    Args:
        names: files; what stands in braces comes out of the rows of the `summary.json` there. Without one of ours
            nothing is removed.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        ours = summary["schema_version"] == SCHEMA_VERSION
        known = {(row["dataset"], submission_stem(row["dataset"], row["row"])) for row in summary["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    for dataset, submission in known if ours else ():
        for name in names:
            path = folder / name.format(dataset=dataset, submission=submission)
            if path.parent == folder and path.is_file():  # a summary of somebody else's making may hold a slash
                path.unlink()


def submission_stem(dataset: str, row: str) -> str:
    """The name, without its suffix, of the file with a row's answers for the server of a data set."""
    return f"submission_{dataset}_{''.join(c if c.isalnum() or c in '.=-' else '_' for c in row)}"


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """A CSV; numbers with all their digits, nothing where a column does not concern a row."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _cell(row.get(key)) for key in columns} for row in rows)
    write_text(path, table.getvalue())


def write_both(folder: Path, stem: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """`stem.csv` and `stem.json` of the same rows."""
    write_table(folder / f"{stem}.csv", rows, columns)
    write_json(folder / f"{stem}.json", {"schema_version": SCHEMA_VERSION, "rows": list(rows)})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `results.csv` or `eval_matrix.csv`, numbers as numbers, empty cells as None.

    Raises:
        FoveateError: there is no such file, or a column that tables need is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise FoveateError(f"{path}: no results there ({error.strerror}); `foveate eval vqa` writes them") from error
    missing = {"dataset", "baseline_name", "accuracy", "avg_cost"} - set(rows[0] if rows else {})
    if missing:
        raise FoveateError(
            f"{path}: expected the columns of a results.csv; {', '.join(sorted(missing))} not among "
            f"{', '.join(rows[0]) if rows else 'no rows at all'}"
        )
    return [{key: _number(key, value) for key, value in row.items()} for row in rows]


def predictions(scored: ScoredPasses, result: RuleResult) -> Iterator[dict[str, Any]]:
    """What a row did with each question: `dataset row id action answer correct cost tokens`.

    `correct` is null where the answer is not public; `tokens` are those of every look that was paid. Of a rule that
    draws this is its first draw; of the oracle without lucky guesses, which answers nothing, there is none.
    """
    if isinstance(result.rule, ChanceCorrected):
        return
    pruned = result.rule if isinstance(result.rule, PrunedOutcomes) else None
    paid = np.where(result.decisions.paid, scored.outcomes.tokens, 0.0).sum(-1) if pruned is None else pruned.remaining
    for i, sample in enumerate(scored.samples):
        level = LEVELS[result.decisions.action[i]]
        correct = float(result.correct[i])
        yield {
            "dataset": scored.dataset,
            "row": result.row["row"],
            "id": sample.id,
            "action": level,
            "answer": scored.answers[level if pruned is None else pruned.spec.name][i]["text"],
            "correct": correct if math.isfinite(correct) else None,
            "cost": float(result.cost[i]),
            "tokens": int(paid[i]),
        }


def write_predictions(path: Path, datasets: Mapping[str, ScoredPasses], rows: Sequence[RuleResult]) -> None:
    """`predictions` of all rows, a line each."""
    with draft(path) as begun, begun.open("w", encoding="utf-8") as file:
        for item in rows:
            for line in predictions(datasets[item.row["dataset"]], item):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def error_slices(scored: ScoredPasses, result: RuleResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Where a rule goes wrong: one row per action and category (and over all), and examples of wrong answers.

    `looked_too_little`: a dearer action would have been right; `looked_too_much`: a cheaper one would have been. A
    count is None where it hangs on a pass that was not made. A question whose answer is not public is in none.
    """
    outcomes, action = scored.outcomes, result.decisions.action
    n = len(scored)
    right, correct, public = result.correct > 0.5, outcomes.correct > 0.5, np.isfinite(result.correct)
    unknown = ~np.isfinite(outcomes.correct)
    column = np.arange(3)
    dearer, cheaper, other = (compare(column, action[:, None]) for compare in (np.greater, np.less, np.not_equal))

    def right_at(member: np.ndarray, actions: np.ndarray) -> int | None:
        """How many members one of these actions gets right, actions [n, 3]; None where that is not known."""
        found = (correct & actions).any(-1)
        return None if (member & ~found & (unknown & actions).any(-1)).any() else int((member & found).sum())

    parsed = scored.parsed[np.arange(n), action]
    categories = np.array([s.category or "" for s in scored.samples])
    groups = [("", public), *((c, public & (categories == c)) for c in sorted(set(categories) - {""}))]
    rows = []
    for number, level in ((None, "all"), *enumerate(LEVELS)):
        for category, member in groups:
            here = member if number is None else member & (action == number)
            if not here.any():
                continue
            wrong, solvable = here & ~right, right_at(here & ~right, other)
            rows.append(
                {
                    "dataset": scored.dataset,
                    "row": result.row["row"],
                    "action": level,
                    "category": category or "all",
                    "samples": int(here.sum()),
                    "accuracy": float(result.correct[here].mean()),
                    "wrong": int(wrong.sum()),
                    "wrong_looked_too_little": right_at(wrong, dearer),
                    "wrong_at_every_action": None if solvable is None else int(wrong.sum()) - solvable,
                    "right_but_looked_too_much": right_at(here & right, cheaper),
                    "unparsed": int((here & ~parsed).sum()),
                }
            )
    examples = []
    for i in np.flatnonzero(public & ~right)[:50]:
        sample, level = scored.samples[i], LEVELS[action[i]]
        examples.append(
            {
                "dataset": scored.dataset,
                "id": sample.id,
                "question": sample.question,
                "expected": list(sample.answers),
                "action": level,
                "answer": scored.answers[level][i]["text"],
                "right_at": [name for name, ok in zip(LEVELS, correct[i], strict=True) if ok],
                "unknown_at": [name for name, absent in zip(LEVELS, unknown[i], strict=True) if absent],
                "parsed": bool(parsed[i]),
            }
        )
    return rows, examples


def by_category(scored: ScoredPasses, results: Sequence[RuleResult]) -> list[dict[str, Any]]:
    """Accuracy per category of each rule, of questions with a public answer; those that are right without looking are
    shown apart, where the NO pass was made."""
    outcomes = scored.outcomes
    categories = np.array([s.category or "" for s in scored.samples])
    every = np.ones(len(scored), dtype=bool)
    groups = [("all", every), *((c, categories == c) for c in sorted(set(categories) - {""}))]
    blind, seeing = outcomes.correct[:, 0] > 0.5, outcomes.correct[:, 0] <= 0.5  # neither without a NO pass
    rows = []
    public = np.isfinite(outcomes.correct).any(-1)
    for category, asked in groups:
        member = asked & public if (asked & public).any() else asked
        no, coarse, full = outcomes.correct[member].mean(0)
        for item in results:
            rows.append(
                {
                    "dataset": scored.dataset,
                    "category": category,
                    "samples": int(member.sum()),
                    "accuracy_no": float(no),
                    "accuracy_coarse": float(coarse),
                    "accuracy_full": float(full),
                    "blind_answerable": _mean_of(blind, member & (blind | seeing)),
                    "row": item.row["row"],
                    "accuracy": float(item.mean_correct[member].mean()),
                    "avg_cost": float(item.mean_cost[member].mean()),
                    "accuracy_where_blind_answerable": _mean_of(item.mean_correct, member & blind),
                    "accuracy_elsewhere": _mean_of(item.mean_correct, member & seeing),
                }
            )
    return rows


def _mean_of(values: np.ndarray, member: np.ndarray) -> float | None:
    return float(values[member].mean()) if member.any() else None


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return f"[{', '.join(str(_cell(item)) for item in value)}]"
    if isinstance(value, float):
        return repr(float(value)).removesuffix(".0") if math.isfinite(value) else ""
    return "" if value is None else value


def _number(key: str, value: str | None) -> Any:
    if value in (None, ""):
        return "" if key in ("baseline_name", "row", "dataset") else None
    try:
        return value if key in ("baseline_name", "row", "dataset", "checkpoint") else float(value)
    except ValueError:
        return value
