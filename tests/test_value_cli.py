"""The value-of-vision verbs from end to end on a model of arithmetic: every command of the users' pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from value_commands import MODEL, SECTION_0, elsewhere, evaluate, hashes_of, rows_of, run, trained, untimed  # noqa: F401 - fixtures

from foveate.cli.main import main
from foveate.testing.golden import REPO

pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.slow
def test_the_chosen_lambda_holds_under_its_own_prices_alone():
    chosen = [
        [row["row"] for row in rows_of(f"outputs/{unit}/eval_matrix.csv") if row["chosen"]]
        for unit in ("full", "tokens")
        if evaluate(f"outputs/{unit}", "--pareto", "0.1", "--policy.cost_unit", unit)
    ]
    assert len(chosen[0]) == 1 and not chosen[1]


def test_a_curve_over_lambda():
    rows = evaluate("outputs/pareto", "--pareto", "0", "0.1", "0.5")
    assert [r["lambda_cost"] for r in rows] == ["0", "0.1", "0.5"] and {r["baseline_name"] for r in rows} == {""}
    matrix = rows_of("outputs/pareto/eval_matrix.csv")
    assert {r["baseline_name"] for r in matrix} >= {"always_full", "no_vision", "cascade", "string_lookup", "oracle"}
    assert Path("outputs/pareto/pareto_mixed.png").exists()
    names = [r["row"] for r in matrix]
    assert len(set(names)) == len(names), "each row can be told from the others"
    assert [r["lambda_cost"] for r in matrix if r["matched"] == "global"][:3] == ["0", "0.1", "0.5"]
    rates = [float(rows[0][f"action_rate_{level}"]) for level in ("no", "coarse", "full")]
    assert json.loads(rows[0]["action_ratio"]) == pytest.approx(rates)


@pytest.mark.parametrize("by", ["global", pytest.param("entropy", marks=pytest.mark.slow)])
def test_ratios_of_a_run_make_a_matched_random_policy(by):
    evaluate("outputs/for_buckets", "--pareto", "0.1", "0.5")
    run("value", "buckets", "outputs/for_buckets", "--lambda_cost", "0.5", "--by", by, "--out", f"{by}.yaml")
    learned = next(r for r in rows_of("outputs/for_buckets/results.csv") if r["lambda_cost"] == "0.5")
    matched = evaluate(f"outputs/matched_{by}", "--config", f"{by}.yaml")[0]
    for key in ("action_rate_no", "action_rate_coarse", "action_rate_full"):
        assert float(matched[key]) == pytest.approx(float(learned[key]), abs=0.02)
    source = hashes_of("outputs/for_buckets")
    text = Path(f"{by}.yaml").read_text()
    assert source["config_hash"] in text and source["data"]["mixed"]["hash"] in text


def test_overlays_of_the_pipeline_choose_one_rule():
    words = ["--config", str(REPO / "configs" / "baseline_always_full.yaml")]
    row = evaluate("outputs/full", *words, "--eval.profile", "--eval.profile_samples", "3")[0]
    assert row["baseline_name"] == "always_full" and float(row["latency"]) > 0 and float(row["mem"]) > 0


def test_a_fixed_rule_has_its_pruned_looks_in_the_matrix():
    evaluate("outputs/full_pruned", "--policy.baseline_name", "always_full", "--ratios", "0.5", "--mode", "stride")
    overlay = str(REPO / "configs" / "baseline_pruning_ratio_050.yaml")
    (row,) = evaluate("outputs/pruned", "--config", overlay)
    assert (row["pruning_mode"], row["pruning_ratio"]) == ("stride", "0.5")
    for name, first in (("full_pruned", "always_full"), ("pruned", "vision_token_pruning_proxy")):
        rows = rows_of(f"outputs/{name}/eval_matrix.csv")
        assert rows[0]["baseline_name"] == first
        assert {row["pruning_mode"] for row in rows if row["pruning_mode"]} == {"stride", "random", "downsample"}
        assert len({row["row"] for row in rows}) == len(rows)


def test_fallback_is_counted():
    words = ("--policy.fallback_mode", "full", "--policy.fallback_entropy_threshold", "0.3", "--pareto", "0.9")
    row = evaluate("outputs/fallback", *words)[0]
    assert 0 < float(row["fallback_trigger_rate"]) < 1


def test_sweeps_write_their_files():
    words = ("--thresholds", "0.10", "0.50", "--uncertainty", "entropy", "--vision", "full")
    rows = evaluate("outputs/threshold", *words, verb=("sweep", "threshold"))
    assert float(rows[0]["avg_cost"]) > float(rows[1]["avg_cost"]), "a lower threshold looks more"
    assert len(rows_of("outputs/threshold/pareto_threshold.csv")) == 2
    assert [r["baseline_name"] for r in rows[2:]] == ["always_full", "no_vision"], "the ends, of the same passes"
    rows = evaluate("outputs/pruning", "--ratios", "1.0", "0.5", "--mode", "stride", verb=("sweep", "pruning"))
    left = {r["row"]: float(r["remaining_vision_tokens"]) for r in rows}
    assert {r["pruning_ratio"] for r in rows if r["pruning_mode"] == "stride"} == {"1", "0.5"}
    assert left["stride 1"] == left["always_full"] == 16 and left["stride 0.5"] == left["random 0.5"] == 8
    assert left["downsample 0.5 (16 tokens)"] == 16, "what is really left is told"
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
    summary = hashes_of("outputs/plots")
    runs = [hashes_of("outputs/t1"), hashes_of("outputs/t2")]
    assert [run["config_hash"] for run in summary["runs"]] == [run["config_hash"] for run in runs]
    assert summary["seed"] == 0 and summary["warnings"] == []


@pytest.mark.slow
def test_tables_tell_other_questions_and_other_policies(capsys):
    words = ("--data.train_jsonl", "mixed", "--max_train_samples", "120", "--training.stage2_epochs", "1")
    run("train", "value", *MODEL, *words, "--output_dir", "outputs/other/outputs")
    evaluate("outputs/p1", "--pareto", "0.1")
    evaluate("outputs/p2", "--pareto", "0.1", "--checkpoint", "outputs/other/outputs", "--max_samples", "60")
    capsys.readouterr()
    run("value", "tables", "outputs/p1", "outputs/p2", "--output_dir", "outputs/differ")
    assert "different questions under the name mixed" in " ".join(capsys.readouterr().out.split())
    summary = json.loads(Path("outputs/differ/summary.json").read_text())
    assert set(summary["data"]) == {"mixed (p1)", "mixed (p2)"} and len(summary["warnings"]) == 1
    rows = rows_of("outputs/differ/results.csv")
    assert [(r["row"], r["checkpoint"]) for r in rows] == [("learned λ=0.1 (p1)", "p1"), ("learned λ=0.1 (p2)", "p2")]


@pytest.mark.slow
def test_tables_keep_every_row_once_with_what_any_run_measured():
    profiled = ("--eval.profile", "--eval.profile_samples", "2")
    evaluate("outputs/a", "--policy.baseline_name", "always_full")
    evaluate("outputs/b", "--policy.baseline_name", "always_full", *profiled)
    evaluate("outputs/c", "--policy.baseline_name", "always_full", *profiled, "--eval.cache_reuse", "false")
    for name, shares in (("d", ("0.5", "0.5", "0")), ("e", ("0", "0.5", "0.5"))):
        words = ("--policy.baseline_name", "random_policy_matched", "--policy.baseline_target_ratios", *shares)
        evaluate(f"outputs/{name}", *words)
    run("value", "tables", *(f"outputs/{name}" for name in "abcde"), "--output_dir", "outputs/merged")
    full, apart, *matched = rows_of("outputs/merged/main_table.csv")
    assert full["latency"] and apart["latency"] and (full["cache_reuse"], apart["cache_reuse"]) == ("true", "false")
    assert len(matched) == 2 and matched[0]["avg_cost"] != matched[1]["avg_cost"]


def test_all_tokens_kept_is_a_row_of_the_pruning_baseline():
    words = ("--policy.baseline_name", "vision_token_pruning_proxy", "--policy.baseline_pruning_ratio", "1.0")
    row = evaluate("outputs/whole", *words)[0]
    assert (row["baseline_name"], row["pruning_ratio"]) == ("vision_token_pruning_proxy", "1")
    assert row["vision_tokens"] == row["remaining_vision_tokens"]


def test_answers_that_are_not_public_leave_a_submission_and_no_wrong_ones():
    lines = [{"id": f"q{i}", "question": "what is it? need=NO"} for i in range(5)]
    Path("secret.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = Path("outputs/secret")
    run("eval", "vqa", *MODEL, "--dataset_config", "secret.jsonl", "--output_dir", str(out),
        "--policy.baseline_name", "no_vision")  # fmt: skip
    assert len((out / "submission_secret_no_vision.jsonl").read_text().splitlines()) == 5
    assert rows_of(f"{out}/error_slices.csv") == [] and rows_of(f"{out}/results.csv")[0]["accuracy"] == ""


def test_seeds_are_averaged_and_their_data_hashed(capsys):
    words = (
        "--data.train_jsonl", "mixed", "--max_train_samples", "120", "--training.stage2_epochs", "2", "--seeds", "3",
        "4", "--pareto", "0.1", "--eval.bootstrap", "20", "--dataset_config", "mixed", "--max_samples", "40",
    )  # fmt: skip
    run("sweep", "seeds", *MODEL, *words, "--output_dir", "outputs/seeds")
    assert hashes_of("outputs/seeds")["seed"] == [3, 4]
    mean = rows_of("outputs/seeds/seeds.csv")
    parts = [rows_of(f"outputs/seeds/seed_{seed}/eval_matrix.csv") for seed in (3, 4)]
    learned = [next(r for r in rows if r["baseline_name"] == "") for rows in (mean, *parts)]
    rates = [[float(row[f"action_rate_{level}"]) for level in ("no", "coarse", "full")] for row in learned]
    assert json.loads(learned[0]["action_ratio"]) == pytest.approx(rates[0])
    assert rates[0] == pytest.approx([(a + b) / 2 for a, b in zip(*rates[1:], strict=True)])
    assert "deviation over seeds" in capsys.readouterr().out


PRUNED = "vision_token_pruning_proxy"
PAPER = (
    "value", "paper", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", "120", "--dataset_config",
    "mixed", "--max_samples", "40", "--training.stage2_epochs", "2", "--eval.profile_samples", "2",
    "--eval.bootstrap", "20", "--seeds", "0", "1", "--pareto", "0.05", "0.5", "--eval.batch_size", "8",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole_paper():
    """Of one process."""
    run(*PAPER, "--output_dir", "outputs/paper", "--eval.cache_dir", "paper_cache")


@pytest.mark.slow
def test_the_whole_paper_resumes(whole_paper, capsys):
    steps = sorted(p.name for p in Path("outputs/paper").iterdir())
    assert [s[0] for s in steps if s[0].isdigit()] == list("12345678")
    averaged = rows_of("outputs/paper/1_seeds/seeds.csv")
    assert averaged[0]["accuracy_std"] != "" and len(rows_of("outputs/paper/6_ablation/ablation.csv")) > 12
    main = rows_of("outputs/paper/8_tables/main_table.csv")
    names = {r["baseline_name"] for r in main}
    assert names >= {
        "",
        "always_full",
        "no_vision",
        "oracle",
        "string_lookup",
        "cascade",
        "uncertainty_threshold",
        "random_policy_matched",
        PRUNED,
    }
    assert {r["pruning_mode"] for r in main} >= {"stride", "topk_norm", "pool", "lightvla", "random", "downsample"}
    assert not any((r["checkpoint"] or "").startswith("D1") for r in main), "ablated heads have a table of their own"
    assert {r["threshold"] for r in rows_of("outputs/paper/3_baselines/threshold_margin_full/results.csv")} > {"0.1"}
    assert rows_of("outputs/paper/results.csv") and hashes_of("outputs/paper")["runs"]
    for folder in Path("outputs/paper").glob("[1-8]_*/**/results.csv"):
        if folder.parent.name != "policy":
            hashes_of(str(folder.parent))
    capsys.readouterr()
    run(*PAPER, "--output_dir", "outputs/paper", "--eval.cache_dir", "paper_cache")
    assert capsys.readouterr().out.count("passed over") == 8


def test_the_paper_knows_when_questions_have_changed():
    from foveate.cli.config import parse
    from foveate.studies.value.config import SeedsConfig
    from foveate.studies.value.paper import Paper
    from foveate.studies.value.study import open_study

    questions = Path("own.jsonl")
    config = parse(SeedsConfig, [*MODEL, "--dataset_config", str(questions)], "foveate value paper")
    found = []
    for answer in ("red", "red", "blue"):
        questions.write_text(json.dumps({"question": "What colour is it?", "answer": answer}) + "\n")
        with open_study(config.base) as study:
            found.append(Paper(study, config.seeds).identity())
    assert found[0] == found[1] != found[2]


def torchrun(*words: str) -> None:
    """Two processes."""
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "foveate"]
    path = os.pathsep.join([str(REPO), str(REPO / "tests")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*call, *words], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_torchrun_gives_the_same_rows():
    words = ["--pareto", "0.1", "0.5", "--eval.batch_size", "8"]
    alone = evaluate("outputs/alone", *words, "--eval.cache_dir", "alone_cache")
    torchrun(
        "eval", "vqa", *MODEL, "--dataset_config", "mixed", "--max_samples", "80", "--output_dir", "outputs/both",
        "--eval.cache_dir", "both_cache", *words,
    )  # fmt: skip
    assert len(list(Path("both_cache").glob("FULL.*.jsonl"))) == 2, "both processes worked"
    assert untimed(rows_of("outputs/both/results.csv")) == untimed(alone)
    matrices = [untimed(rows_of(f"outputs/{name}/eval_matrix.csv")) for name in ("both", "alone")]
    assert matrices[0] == matrices[1]


@pytest.mark.slow
def test_a_command_of_several_experiments_runs_under_torchrun(whole_paper):
    torchrun(*PAPER, "--output_dir", "outputs/paper_both", "--eval.cache_dir", "paper_both_cache")
    assert len(list(Path("paper_both_cache").glob("FULL.*.jsonl"))) == 2, "both processes worked"
    for table in ("1_seeds/seeds.csv", "3_baselines/pruning_pool/results.csv", "6_ablation/ablation.csv"):
        assert untimed(rows_of(f"outputs/paper_both/{table}")) == untimed(rows_of(f"outputs/paper/{table}"))
    tables = [untimed(rows_of(f"outputs/{name}/8_tables/main_table.csv")) for name in ("paper_both", "paper")]
    assert tables[0] == tables[1]


def test_bad_input_is_told_in_one_paragraph(capsys):
    Path("empty.jsonl").write_text("")
    cases = {
        ("--dataset_config", "mbench"): "did you mean 'mmbench'",
        ("--dataset_config", "mixed", "--policy.baseline_threshold", "0.3"): "is a threshold of what?",
        ("--dataset_config", "mixed", "--policy.baseline_target_ratios", "0.5", "0.1", "0.1"): "sum to 1",
        ("--dataset_config", "mixed", "--data.split", "prod"): "unknown split of mixed 'prod'",
        ("--dataset_config", "mixed", "--checkpoint", "nowhere"): "nowhere: expected a checkpoint-*.pt",
        ("--dataset_config", "mixed", "--pareto", "0.1", "--training.output_dir", "x"): "there is no trained one",
        ("--dataset_config", "empty.jsonl"): "'empty.jsonl': it holds no question",
        ("--dataset_config", "mixed", "--output_dir", "empty.jsonl/x"): "--output_dir empty.jsonl/x: cannot be made",
        (): "no questions to evaluate",
    }
    for words, said in cases.items():
        assert main(["eval", "vqa", *MODEL, *words]) == 1
        assert said in capsys.readouterr().err
