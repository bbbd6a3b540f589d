"""What the tests of the value-of-vision verbs share: a model of arithmetic, a folder to work in, and the commands."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from foveate.cli.main import main

MODEL = ("--model.path", "fake_vlm:FakeVLM")
SECTION_0 = {"results.csv", "summary.json", "config.yaml", "run.json"}
COLUMNS = {
    "baseline_name", "lambda_cost", "threshold", "pruning_ratio", "action_rate_no", "action_rate_coarse",
    "action_rate_full", "action_ratio", "accuracy", "avg_cost", "latency", "mem", "dataset", "fallback_trigger_rate",
    "remaining_vision_tokens",
}  # fmt: skip


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """An empty folder, the working directory of all commands of a test file."""
    folder = tmp_path_factory.mktemp("value")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def trained(elsewhere):
    """A policy in `outputs`, there."""
    run(
        "train", "value", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", "300",
        "--training.stage2_epochs", "10", "--training.save_every", "20",
    )  # fmt: skip


def run(*words: str) -> None:
    assert main([*words]) == 0


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def evaluate(out: str, *words: str, verb: tuple[str, ...] = ("eval", "vqa")) -> list[dict[str, str]]:
    run(*verb, *MODEL, "--dataset_config", "mixed", "--max_samples", "80", "--output_dir", out, *words)
    assert {p.name for p in Path(out).iterdir()} >= SECTION_0
    rows = rows_of(f"{out}/results.csv")
    assert set(rows[0]) >= COLUMNS
    summary = json.loads((Path(out) / "summary.json").read_text())
    assert summary["seed"] == 0
    hashes_of(out)
    return rows


def hashes_of(out: str, dataset: str = "mixed") -> dict:
    """What section 0 asks of every command; the summary."""
    assert {p.name for p in Path(out).iterdir()} >= SECTION_0
    summary = json.loads((Path(out) / "summary.json").read_text())
    assert len(summary["config_hash"]) == len(summary["data"][dataset]["hash"]) == 16
    assert "config" in summary and "seed" in summary and summary["versions"] and summary["rows"]
    return summary


TIMED = ("latency", "latency_p95", "mem", "path_ms", "path_ms_share", "path_ms_std", "path_ms_share_std")
"""What the clock and the memory say; the rest of a row is the same in every run."""


def untimed(rows: list[dict[str, str]], *names: str) -> list[dict[str, str]]:
    """Rows without what is measured anew by each run, and without these columns."""
    return [{key: value for key, value in row.items() if key not in (*TIMED, *names)} for row in rows]
