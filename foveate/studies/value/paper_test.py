"""Warnings of the paper's steps reach its log and its summary; the steps themselves are in tests/test_value_cli.py."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from foveate.evaluation.vqa.config import DataConfig, EvalConfig, ModelConfig, VqaConfig
from foveate.studies.value.paper import Paper
from foveate.studies.value.study import open_study
from foveate.util.files import write_json
from foveate.util.progress import Reporter
from foveate.vision_value.config import TrainingConfig

SEED = "seed 1 has no tuned model"
LEFT = {
    "baselines": {"fixed": []},
    "random_matched": {"global": ["LEAK"]},
    "generalization": {".": ["LEAK", "mmmu is small"]},
    "ablation": {".": []},
    "profile": {"reuse": ["rerouted"]},
}
"""Step that is replaced -> run in its folder -> the warnings that it leaves there."""


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the paper on the shipped model: seeds, curve and tables as they are, the other steps leave warnings alone.

    Returns the lines of its log that have some, and the leak that every real step has.
    """
    monkeypatch.chdir(tmp_path)
    lines = [{"id": f"q{i}", "question": f"Is {i} even?", "answer": ("yes", "no")[i % 2]} for i in range(16)]
    Path("own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    leak = (
        "own leaks into own.jsonl: of 16 questions, training holds the picture of 0, the wording of 16 and both "
        "together of 16"
    )

    def step_of(runs: dict[str, list[str]]):
        def step(self: Paper, folder: Path) -> None:
            for name, warnings in runs.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                told = [leak if warning == "LEAK" else warning for warning in warnings]
                write_json(folder / name / "summary.json", {"rows": [], "warnings": told})
            (folder / "averaged").mkdir(exist_ok=True)
            write_json(folder / "averaged" / "summary.json", {"rows": []})

        return step

    def of_other_questions(self: Paper, folder: Path) -> None:
        step_of(LEFT["generalization"])(self, folder)
        summary = json.loads((folder / "summary.json").read_text())
        write_json(folder / "summary.json", summary | {"data": {"own": {"hash": "0" * 16, "samples": 3}}})
        for name in ("results.csv", "eval_matrix.csv"):
            (folder / name).write_bytes((self.folder / "2_pareto" / name).read_bytes())

    seeds = Paper.seeds

    def with_one_more(self: Paper, folder: Path) -> None:
        seeds(self, folder)
        (folder / "seed_2").mkdir()
        write_json(folder / "seed_2" / "summary.json", {"rows": [], "warnings": [SEED]})

    for name, runs in LEFT.items():
        monkeypatch.setattr(Paper, name, step_of(runs))
    monkeypatch.setattr(Paper, "generalization", of_other_questions)
    monkeypatch.setattr(Paper, "seeds", with_one_more)
    config = VqaConfig(
        model=ModelConfig(path="tiny_qwen3vl"),
        data=DataConfig(train_jsonl="own.jsonl"),
        eval=EvalConfig(max_new_tokens=1, bootstrap=20),
        training=TrainingConfig(stage2_epochs=1),
        dataset_config="own.jsonl",
        output_dir="paper",
    )

    def run() -> list[str]:
        file = io.StringIO()
        with open_study(config, Reporter(Console(file=file, width=60))) as study:
            Paper(study, (0, 1)).run()
        return [line.removeprefix("warning: ") for line in file.getvalue().splitlines() if line.startswith("warning")]

    return run, leak


def test_each_steps_warnings_are_told_once_and_the_summary_holds_all(paper, tmp_path: Path) -> None:
    run, leak = paper
    told = run()
    other = told[-1].removeprefix("8_tables: ")
    assert "different questions under the name own" in other
    assert told == [
        f"1_seeds: {leak}", f"1_seeds: {SEED}", f"2_pareto: {leak}", f"4_random_matched: {leak}",
        f"5_generalization: {leak}", "5_generalization: mmmu is small", "7_profile: rerouted", f"8_tables: {other}",
    ]  # fmt: skip
    for folder in (tmp_path / "paper", tmp_path / "paper" / "8_tables"):
        summary = json.loads((folder / "summary.json").read_text())
        with (folder / "results.csv").open(newline="") as file:
            assert [row["row"] for row in summary["rows"]] == [row["row"] for row in csv.DictReader(file)]
        assert {"always_full", "no_vision", "oracle"} <= {row["baseline_name"] for row in summary["rows"]}
        assert summary["warnings"] == [leak, SEED, "mmmu is small", "rerouted", other]
    assert run() == told, "steps that are passed over tell theirs again"


def test_a_paper_that_was_moved_is_the_same_one(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"id": "q", "question": "Is 2 even?", "answer": "yes"}\n')
    found = []
    for place, seeds in (("here", (0, 1)), ("there", (0, 1)), ("there", (0, 2))):
        config = VqaConfig(
            model=ModelConfig(path="tiny_qwen3vl"),
            eval=EvalConfig(cache_dir=str(tmp_path / place / "cache")),
            training=TrainingConfig(output_dir=str(tmp_path / place / "policy")),
            dataset_config=str(tmp_path / "own.jsonl"),
            output_dir=str(tmp_path / place),
        )
        with open_study(config) as study:
            found.append(Paper(study, seeds).identity())
    assert found[0] == found[1] != found[2]
