"""Value of vision on a small random Qwen3-VL of the real class: both stages, every pass, profile, reuse, sampling."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from value_commands import untimed

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.models.vlm.load import save_vlm
from foveate.testing.vlm import tiny_vlm
from foveate.vision_value.checkpoint import load_head


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    save_vlm(tiny_vlm(), folder / "model")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(model, monkeypatch):
    """Caches are made in the working directory."""
    monkeypatch.chdir(model)


def words(model: Path, out: str, *more: str) -> list[str]:
    return [
        "--model.path", str(model / "model"), "--data.train_jsonl", "mixed", "--max_train_samples", "40",
        "--dataset_config", "mixed", "--max_samples", "12", "--eval.batch_size", "4", "--eval.max_new_tokens", "2",
        "--training.output_dir", str(model / "out"), "--eval.bootstrap", "20", "--output_dir", str(model / out), *more,
    ]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_stages_and_a_matrix(model, capsys):
    tuning = ("--training.stage1_epochs", "1", "--training.stage1_lr", "1e-3", "--training.batch_size", "8")
    assert main(["train", "value", *words(model, "out", *tuning, "--training.stage2_epochs", "2")]) == 0
    assert (model / "out" / "stage1" / "config.json").exists() and list((model / "out").glob("checkpoint-*.pt"))
    more = (*tuning, "--pareto", "0", "0.5", "--ratios", "0.5", "--eval.profile", "--eval.profile_samples", "2")
    assert main(["eval", "vqa", *words(model, "matrix", *more)]) == 0
    matrix = {row["row"]: row for row in rows_of(model / "matrix" / "eval_matrix.csv")}
    assert float(matrix["always_full"]["vision_tokens"]) > float(matrix["always_coarse"]["vision_tokens"]) > 0
    for mode in ("stride", "random", "downsample"):
        (pruned,) = (row for row in matrix.values() if (row["pruning_mode"], row["pruning_ratio"]) == (mode, "0.5"))
        left = float(pruned["remaining_vision_tokens"])
        assert left < float(matrix["always_full"]["remaining_vision_tokens"]), mode
    assert float(matrix["learned λ=0"]["latency"]) > 0 and matrix["learned λ=0"]["mem_of"].startswith("process on")
    assert float(matrix["always_full"]["gflops_share"]) == float(matrix["always_full"]["path_ms_share"]) == 1
    flops = [float(matrix[row]["gflops"]) for row in ("no_vision", "always_coarse", "always_full")]
    assert 0 < flops[0] < flops[1] < flops[2] and float(matrix["learned λ=0"]["path_ms"]) > 0
    summary = json.loads((model / "matrix" / "summary.json").read_text())
    assert summary["policies"][0]["model"] == summary["model"]["fingerprint"], "the tuned model was evaluated"
    assert summary["cache_reuse"] == "true"
    # The folder alone is enough: no word of stage 1 in this configuration.
    assert main(["eval", "vqa", *words(model, "named", "--checkpoint", str(model / "out"))]) == 0
    named = json.loads((model / "named" / "summary.json").read_text())
    assert named["model"]["fingerprint"] == summary["model"]["fingerprint"]
    # Another model's name does not get this one's tuned weights.
    other = ("--model.path", "tiny_qwen3vl", "--training.stage1_epochs", "1")
    assert main(["eval", "vqa", *words(model, "other", *other)]) == 1
    assert "was tuned from" in " ".join(capsys.readouterr().err.split())


def test_stage_1_is_not_reused_for_other_training(model, capsys):
    tuning = ("--training.stage1_epochs", "1", "--training.batch_size", "8", "--training.stage2_epochs", "1")
    assert main(["train", "value", *words(model, "twice", *tuning)]) == 0
    assert main(["train", "value", *words(model, "twice", *tuning)]) == 0
    assert "done before" in capsys.readouterr().out
    assert main(["train", "value", *words(model, "twice", *tuning, "--training.stage1_lr", "0.01")]) == 1
    said = capsys.readouterr().err
    assert "stage1_lr: 1e-05 there, 0.01 now" in said and "stage1_run" in said


def test_stage_1_passes_over_broken_pictures(model):
    from foveate.data.vqa.mixed import generate

    lines = []
    for i, sample in enumerate(generate("train", 30)):
        (model / f"{i}.png").write_bytes(sample.image if i % 10 else b"no picture")
        lines.append(json.dumps({"question": sample.question, "image": f"{i}.png", "answer": sample.answers[0]}))
    (model / "own.jsonl").write_text("\n".join(lines))
    tuning = ("--training.stage1_epochs", "1", "--training.batch_size", "8", "--training.stage2_epochs", "1")
    assert (
        main(["train", "value", *words(model, "broken", *tuning), "--data.train_jsonl", str(model / "own.jsonl")]) == 0
    )
    summary = json.loads((model / "broken" / "summary.json").read_text())
    assert len(summary["data"]["training"]["skipped"]) == 3 and summary["data"]["training"]["samples"] == 27


@pytest.mark.slow
def test_reuse_and_batches_change_no_row(model):
    tables = []
    for name, more in (
        ("reused", ()),
        ("fresh", ("--eval.cache_reuse", "false")),
        ("one", ("--eval.batch_size", "1", "--eval.cache_reuse", "false")),
    ):
        own = ("--eval.do_sample", "true", "--eval.cache_dir", str(model / f"cache_{name}"))
        assert main(["eval", "vqa", *words(model, name, "--training.output_dir", "none", *own, *more)]) == 0
        rows = rows_of(model / name / "eval_matrix.csv")
        tables.append(
            untimed(rows, "gflops", "gflops_share", "cache_reuse", "loss_nats", "threshold", "coarse_threshold", "row")
        )
    assert tables[0] == tables[1] == tables[2]


def test_a_prompt_that_does_not_allow_reuse_says_so(model):
    late = ("--data.prompt_template", "{image}\\n{question}", "--training.output_dir", "none")
    assert main(["eval", "vqa", *words(model, "late", *late, "--policy.baseline_name", "always_full")]) == 0
    assert "stands behind {image}" in rows_of(model / "late" / "results.csv")[0]["cache_reuse"]


def test_a_checkpoint_of_another_trainer_is_no_head(tmp_path):
    torch.save({"model": {"head.weight": torch.zeros(3, 4)}, "step": 7}, tmp_path / "checkpoint-7.pt")
    with pytest.raises(FoveateError, match=r"checkpoint-7\.pt: no head in it.*found model, step"):
        load_head(tmp_path)
    torch.save({"model": {"head.weight": torch.zeros(3, 4)}, "code": Path}, tmp_path / "checkpoint-9.pt")
    with pytest.raises(FoveateError, match="code is not run"):
        load_head(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FoveateError, match=r"expected a checkpoint-\*\.pt or a folder of them"):
        load_head(tmp_path / "state")


@pytest.mark.slow
def test_ray_gives_the_same_rows(model, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (pip install .[ray])")
    base = ("--training.output_dir", "none")
    assert main(["eval", "vqa", *words(model, "local", *base, "--eval.cache_dir", str(model / "c1"))]) == 0
    on_ray = ("--eval.workers", "ray", "--eval.cache_dir", str(model / "c2"))
    assert main(["eval", "vqa", *words(model, "ray", *base, *on_ray)]) == 0
    matrices = [rows_of(model / name / "eval_matrix.csv") for name in ("ray", "local")]
    assert untimed(matrices[0], "loss_nats") == untimed(matrices[1], "loss_nats")
    # Ray gives a worker one thread, and sums of another order: the same up to float32's rounding.
    losses = [[float(row["loss_nats"]) for row in rows] for rows in matrices]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_ray_that_is_not_there_is_told(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["eval", "vqa", *words(model, "x", "--eval.workers", "ray", "--training.output_dir", "none")]) == 1
    assert 'pip install "foveate[ray]"' in capsys.readouterr().err


@pytest.mark.slow
def test_the_readme_says_what_the_demo_prints(tmp_path):
    from foveate.studies.value.config import DemoVqaConfig
    from foveate.studies.value.demo import run_demo, verdict
    from foveate.testing.golden import REPO

    result = run_demo(DemoVqaConfig(out=str(tmp_path / "demo"), ratios=()))  # the pruned looks alone are left out
    told = " ".join(verdict(result))
    rows = {row["baseline_name"]: row for row in result.table if row["baseline_name"] == "always_full" or row["chosen"]}
    chosen, full = rows[""], rows["always_full"]
    share = chosen["gflops_share"]
    readme = " ".join((REPO / "README.md").read_text(encoding="utf-8").split())
    said = f"{100 * chosen['accuracy']:.1f} % at {chosen['avg_cost']:.2f} of the cost (vision tokens)"
    assert f"(`foveate demo vqa`, {chosen['samples']} mixed questions): {said}" in readme
    assert f"and {share:.2f} of all FLOPs" in readme and f"which answers {100 * full['accuracy']:.1f} %" in readme
    assert f"{100 * share:.0f} % of its FLOPs" in told and f"{chosen['samples']} questions" in told
