"""A study from Python: silent, read once, its variants over one model."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import DataConfig, EvalConfig, ModelConfig, VqaConfig
from foveate.studies.value import sweeps
from foveate.studies.value.buckets import matched_ratios
from foveate.studies.value.config import BucketsConfig
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import open_study
from foveate.studies.value.train import train_head
from foveate.testing.golden import REPO
from foveate.util.progress import Reporter
from foveate.vision_value.config import HeadConfig, TrainingConfig

sys.path.append(str(REPO / "tests"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VqaConfig:
    monkeypatch.chdir(tmp_path)
    return VqaConfig(
        model=ModelConfig(path="fake_vlm:FakeVLM"),
        data=DataConfig(train_jsonl="mixed"),
        eval=EvalConfig(bootstrap=20),
        training=TrainingConfig(stage2_epochs=2),
        dataset_config="mixed",
        max_samples=40,
        max_train_samples=60,
        output_dir="out",
    )


def test_a_study_returns_results_and_says_nothing(config: VqaConfig, capsys) -> None:
    with open_study(config) as study:
        result = evaluate(study)
    assert capsys.readouterr() == ("", "")
    assert {"always_full", "no_vision", "oracle"} <= {row["baseline_name"] for row in result.table}
    assert len(result.datasets["mixed"]) == 40 and set(result.mean_gains["mixed"]) == {"coarse", "full"}
    assert all(path.exists() for path in result.plots) and (result.folder / "summary.json").exists()


def test_a_reporter_hears_of_the_work(config: VqaConfig) -> None:
    file = io.StringIO()
    with open_study(config, Reporter(Console(file=file, width=200))) as study:
        train_head(study)
    assert "training: answers" in file.getvalue() and "stage 2: gains are learned" in file.getvalue()


def test_variants_share_the_model_while_they_name_the_same(config: VqaConfig) -> None:
    with open_study(config) as study:
        assert study.vlm is study.variant(ratios=(0.5,), output_dir="other").vlm
        other = study.variant(eval=dataclasses.replace(config.eval, batch_size=4))
        assert other.vlm is not study.vlm and other.questions == study.questions


def test_a_trained_head_is_that_of_the_next_evaluation(config: VqaConfig) -> None:
    with open_study(config) as study:
        trained = train_head(study.variant(output_dir="head"))
        assert trained.trained is not None and trained.table[0]["baseline_name"] == "always_full"
        evaluate(study.variant(checkpoint=(str(trained.folder),), pareto=(0.1, 0.5)))
        matched = matched_ratios(BucketsConfig("out", lambda_cost=0.5))
        again = matched.apply(HeadConfig(baseline_name="always_full", lambda_cost=0.3))
        assert again.baseline_name == "random_policy_matched" and again.lambda_cost == 0.3
        (row,) = evaluate(study.variant(policy=again, output_dir="matched")).table
    rates = [row[f"action_rate_{level}"] for level in ("no", "coarse", "full")]
    assert rates == pytest.approx(matched.rates, abs=0.02)


def test_a_sweep_has_its_own_rows_and_folder(config: VqaConfig) -> None:
    with open_study(dataclasses.replace(config, output_dir=None)) as study:
        assert sweeps.pruning(study).folder == Path("outputs/sweep_pruning")
        assert sweeps.oracle(study).analysis["mixed"]["samples"] == 40
        with pytest.raises(FoveateError, match="a sweep has its own rows"):
            sweeps.pareto(study.variant(policy=HeadConfig(baseline_name="no_vision")))
