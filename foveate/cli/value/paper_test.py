"""Warnings of the paper's steps reach its log and its summary; the steps themselves are in tests/test_value_cli.py."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from foveate.cli.value import tables
from foveate.cli.value.paper import Paper
from foveate.cli.value.seeds import SeedsConfig
from foveate.util.files import write_json

LEAK = "mmbench leaks into train[1].jsonl: of 50 questions, ..."
RUNS = {
    "seeds": {"seed_0": [LEAK], "seed_1": [LEAK, "seed 1 has no tuned model"]},
    "pareto": {".": [LEAK]},
    "baselines": {"fixed": []},
    "random_matched": {"global": [LEAK]},
    "generalization": {".": [LEAK, "mmmu is small"]},
    "ablation": {".": []},
    "profile": {"reuse": ["rerouted"]},
}


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the paper on steps that only leave warnings; returns the lines of its log that have some."""

    def step_of(runs: dict[str, list[str]]):
        def step(self: Paper, folder: Path) -> None:
            for name, warnings in runs.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                write_json(folder / name / "summary.json", {"rows": [], "warnings": warnings})
            (folder / "averaged").mkdir(exist_ok=True)
            write_json(folder / "averaged" / "summary.json", {"rows": []})

        return step

    def write_tables(config: tables.TablesConfig):
        out = Path(config.output_dir)
        out.mkdir(parents=True, exist_ok=True)
        for name in ("results.csv", "config.yaml", "run.json"):
            (out / name).write_text("")
        write_json(out / "summary.json", {"rows": [1], "warnings": ["other questions"]})
        return [], ["other questions"]

    for name, runs in RUNS.items():
        monkeypatch.setattr(Paper, name, step_of(runs))
    monkeypatch.setattr(Paper, "identity", lambda self, device: "same")
    monkeypatch.setattr(tables, "write_tables", write_tables)

    def run() -> list[str]:
        file = io.StringIO()
        config = SeedsConfig(dataset_config="mmbench", output_dir=str(tmp_path / "paper"))
        Paper(config, Console(file=file, width=60)).run()
        return [line.removeprefix("warning: ") for line in file.getvalue().splitlines() if line.startswith("warning")]

    return run


def test_each_steps_warnings_are_told_once_and_the_summary_holds_all(paper, tmp_path: Path) -> None:
    told = [
        f"1_seeds: {LEAK}", "1_seeds: seed 1 has no tuned model", f"2_pareto: {LEAK}", f"4_random_matched: {LEAK}",
        f"5_generalization: {LEAK}", "5_generalization: mmmu is small", "7_profile: rerouted",
        "8_tables: other questions",
    ]  # fmt: skip
    assert paper() == told
    for folder in (tmp_path / "paper", tmp_path / "paper" / "8_tables"):
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["rows"] == [1]
        assert summary["warnings"] == [
            LEAK,
            "seed 1 has no tuned model",
            "mmmu is small",
            "rerouted",
            "other questions",
        ]
    assert paper() == told, "steps that are passed over tell theirs again"
