"""The value-of-vision verbs from end to end on a model of arithmetic: every command of the users' pipeline."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.cli.main import main
from foveate.testing import REPO

MODEL = ("--model.path", "fake_vlm:FakeVLM")
SECTION_0 = {"results.csv", "summary.json", "config.yaml", "run.json"}
COLUMNS = {
    "baseline_name", "lambda_cost", "threshold", "pruning_ratio", "action_rate_no", "action_rate_coarse",
    "action_rate_full", "accuracy", "avg_cost", "latency", "mem", "dataset", "fallback_trigger_rate",
    "remaining_vision_tokens",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A folder with a trained policy, the working directory of all commands here."""
    folder = tmp_path_factory.mktemp("value")
    before = Path.cwd()
    os.chdir(folder)
    sys.path.append(str(REPO / "tests"))
    run(
        "train", "value", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", "300",
        "--training.stage2_epochs", "10", "--training.save_every", "20",
    )  # fmt: skip
    yield folder
    os.chdir(before)
    sys.path.remove(str(REPO / "tests"))


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
    assert summary["config_hash"] and summary["data"]["mixed"]["hash"] and summary["seed"] == 0
    return rows


def test_training_leaves_checkpoints_and_results():
    names = {p.name for p in Path("outputs").iterdir()}
    assert names >= SECTION_0 and len([n for n in names if n.startswith("checkpoint-")]) >= 2


def test_a_curve_over_lambda():
    rows = evaluate("outputs/pareto", "--pareto", "0", "0.1", "0.5")
    assert [r["lambda_cost"] for r in rows] == ["0", "0.1", "0.5"] and {r["baseline_name"] for r in rows} == {""}
    matrix = rows_of("outputs/pareto/eval_matrix.csv")
    assert {r["baseline_name"] for r in matrix} >= {"always_full", "no_vision", "cascade", "string_lookup", "oracle"}
    assert Path("outputs/pareto/pareto_mixed.png").exists()


@pytest.mark.parametrize("by", ["global", "entropy"])
def test_ratios_of_a_run_make_a_matched_random_policy(by):
    evaluate("outputs/for_buckets", "--pareto", "0.1", "0.5")
    run("value", "buckets", "outputs/for_buckets", "--lambda_cost", "0.5", "--by", by, "--out", f"{by}.yaml")
    learned = next(r for r in rows_of("outputs/for_buckets/results.csv") if r["lambda_cost"] == "0.5")
    matched = evaluate(f"outputs/matched_{by}", "--config", f"{by}.yaml")[0]
    for key in ("action_rate_no", "action_rate_coarse", "action_rate_full"):
        assert float(matched[key]) == pytest.approx(float(learned[key]), abs=0.02)


def test_overlays_of_the_pipeline_choose_one_rule():
    words = ["--config", str(REPO / "configs" / "baseline_always_full.yaml")]
    row = evaluate("outputs/full", *words, "--eval.profile", "--eval.profile_samples", "3")[0]
    assert row["baseline_name"] == "always_full" and float(row["latency"]) > 0 and float(row["mem"]) > 0


def test_fallback_is_counted():
    words = ("--policy.fallback_mode", "full", "--policy.fallback_entropy_threshold", "0.3", "--pareto", "0.9")
    row = evaluate("outputs/fallback", *words)[0]
    assert 0 < float(row["fallback_trigger_rate"]) < 1


def test_sweeps_write_their_files():
    words = ("--thresholds", "0.10", "0.50", "--uncertainty", "entropy", "--vision", "full")
    rows = evaluate("outputs/threshold", *words, verb=("sweep", "threshold"))
    assert float(rows[0]["avg_cost"]) > float(rows[1]["avg_cost"]), "a lower threshold looks more"
    assert len(rows_of("outputs/threshold/pareto_threshold.csv")) == 2
    rows = evaluate("outputs/pruning", "--ratios", "1.0", "0.5", "--mode", "stride", verb=("sweep", "pruning"))
    left = {r["row"]: float(r["remaining_vision_tokens"]) for r in rows}
    assert left["stride 0.5"] == 8 and left["always_full"] == 16 and {"random 0.5", "downsample 0.5"} <= set(left)
    assert Path("outputs/pruning/pareto_pruning.json").exists()
    evaluate("outputs/oracle", verb=("sweep", "oracle"))
    shares = json.loads(Path("outputs/oracle/analysis_oracle.json").read_text())["mixed"]["cheapest_right"]
    assert sum(shares.values()) == pytest.approx(1)


def test_tables_gather_runs():
    evaluate("outputs/t1", "--policy.baseline_name", "always_full")
    evaluate("outputs/t2", "--policy.baseline_name", "no_vision")
    run("value", "tables", "outputs/t1", "outputs/t2", "--output_dir", "outputs/plots")
    assert [r["baseline_name"] for r in rows_of("outputs/plots/pareto.csv")] == ["no_vision", "always_full"]
    assert len(rows_of("outputs/plots/main_table.csv")) == len(rows_of("outputs/plots/action_ratio.csv")) == 2


PAPER = (
    "value", "paper", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", "120", "--dataset_config",
    "mixed", "--max_samples", "40", "--training.stage2_epochs", "2", "--eval.profile_samples", "2",
    "--eval.bootstrap", "20", "--seeds", "0", "1", "--pareto", "0.05", "0.5", "--output_dir", "outputs/paper",
)  # fmt: skip


@pytest.mark.slow
def test_the_whole_paper_resumes(capsys):
    run(*PAPER)
    steps = sorted(p.name for p in Path("outputs/paper").iterdir())
    assert [s[0] for s in steps] == list("12345678")
    averaged = rows_of("outputs/paper/1_seeds/seeds.csv")
    assert averaged[0]["accuracy_std"] != "" and len(rows_of("outputs/paper/6_ablation/ablation.csv")) > 12
    assert Path("outputs/paper/8_tables/main_table.csv").exists()
    capsys.readouterr()
    run(*PAPER)
    assert capsys.readouterr().out.count("passed over") == 8


@pytest.mark.slow
def test_torchrun_gives_the_same_rows():
    words = ["--pareto", "0.1", "0.5", "--eval.batch_size", "8"]
    alone = evaluate("outputs/alone", *words, "--eval.cache_dir", "alone_cache")
    call = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617",
        "-m", "foveate", "eval", "vqa", *MODEL, "--dataset_config", "mixed", "--max_samples", "80",
        "--output_dir", "outputs/both", "--eval.cache_dir", "both_cache", *words,
    ]  # fmt: skip
    path = os.pathsep.join([str(REPO), str(REPO / "tests")])
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(Path("both_cache").glob("FULL.*.jsonl"))) == 2, "both processes worked"
    assert rows_of("outputs/both/results.csv") == alone
    assert rows_of("outputs/both/eval_matrix.csv") == rows_of("outputs/alone/eval_matrix.csv")


def test_bad_input_is_told_in_one_paragraph(capsys):
    cases = {
        ("--dataset_config", "mbench"): "did you mean 'mmbench'",
        ("--dataset_config", "mixed", "--policy.baseline_threshold", "0.3"): "is a threshold of what?",
        ("--dataset_config", "mixed", "--policy.baseline_target_ratios", "0.5", "0.1", "0.1"): "sum to 1",
        ("--dataset_config", "mixed", "--data.split", "prod"): "unknown split of mixed 'prod'",
        ("--dataset_config", "mixed", "--checkpoint", "nowhere"): "nowhere: expected a checkpoint-*.pt",
        ("--dataset_config", "mixed", "--pareto", "0.1", "--training.output_dir", "x"): "there is no trained one",
        (): "no questions to evaluate",
    }
    for words, said in cases.items():
        assert main(["eval", "vqa", *MODEL, *words]) == 1
        assert said in capsys.readouterr().err
