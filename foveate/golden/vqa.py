"""The golden group `vqa/`: how answers are normalised, scored and read off, as the public harness does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foveate.evaluation.vqa.metrics import mmmu_open_correct, normalise, parse_mmmu_choice, vqa_accuracy
from foveate.golden.report import Report

CHECKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "vqa_normalise": (lambda case: normalise(case["in"]), "out"),
    "textvqa_accuracy": (lambda case: round(vqa_accuracy(case["prediction"], case["answers"]), 9), "accuracy"),
    "mmmu_multi_choice": (lambda case: parse_mmmu_choice(case["response"], case["options"]), "parsed"),
    "mmmu_open": (lambda case: mmmu_open_correct(case["response"], [case["gold"]]), "correct"),
}
"""Group -> what we make of a case, and the field that holds what is right."""


def run(folder: Path, report: Report) -> None:
    path = folder / "vqa_metrics.json"
    if not path.exists():
        report.skip("vqa", "*", "absent", f"{path.name} is not in the folder")
        return
    for group, cases in json.loads(path.read_text(encoding="utf-8")).items():
        if group not in CHECKS:
            report.skip("vqa", group, "not compared", "this version of foveate does not know it")
            continue
        ours, expected = CHECKS[group]
        for case in cases:
            got = ours(case)
            given = {key: value for key, value in case.items() if key != expected}
            report.exact("vqa", group, got == case[expected], f"{given}: expected {case[expected]!r}, got {got!r}")
