"""Value of vision on a small random Qwen3-VL of the real class: both stages, every pass, profile, reuse, sampling."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.models.vlm.load import save_vlm
from foveate.testing.vlm import tiny_vlm
from foveate.vision_value.checkpoint import adopt_weights, load_head
from foveate.vision_value.config import HeadConfig


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


def drop(rows: list[dict[str, str]], *names: str) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


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
    assert float(matrix["learned λ=0"]["latency"]) > 0
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
        tables.append(drop(rows, "cache_reuse", "loss_nats", "threshold", "coarse_threshold", "row"))
    assert tables[0] == tables[1] == tables[2]


def test_a_prompt_that_does_not_allow_reuse_says_so(model):
    late = ("--data.prompt_template", "{image}\\n{question}", "--training.output_dir", "none")
    assert main(["eval", "vqa", *words(model, "late", *late, "--policy.baseline_name", "always_full")]) == 0
    assert "stands behind {image}" in rows_of(model / "late" / "results.csv")[0]["cache_reuse"]


def test_checkpoints_of_other_trainers(tmp_path):
    """DDP files and accelerate state folders with a head of theirs; a pickle with code in it is refused."""
    from safetensors.torch import save_file

    weights = {
        "module.vow_head.net.0.weight": torch.randn(256, 130),
        "module.vow_head.net.0.bias": torch.randn(256),
        "module.vow_head.net.2.weight": torch.randn(3, 256),
        "module.vow_head.net.2.bias": torch.randn(3),
        "module.vlm.layer.weight": torch.randn(4, 4),
    }
    torch.save({"model": weights, "step": 7}, tmp_path / "checkpoint-7.pt")
    (tmp_path / "state").mkdir()
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    save_file(plain, tmp_path / "state" / "model.safetensors")
    inputs = torch.randn(5, 130)
    hidden = torch.nn.functional.gelu(inputs @ plain["vow_head.net.0.weight"].T + plain["vow_head.net.0.bias"])
    logits = hidden @ plain["vow_head.net.2.weight"].T + plain["vow_head.net.2.bias"]
    for place in (tmp_path / "checkpoint-7.pt", tmp_path, tmp_path / "state"):
        head = load_head(place, HeadConfig()).head
        assert head.shape.hidden_size == 128 and head.shape.learns == "policy"
        assert torch.allclose(head(inputs), logits - logits[:, :1], atol=1e-4)
    # A trainer keeps the state of its random generators beside the weights, and its head may have another activation.
    state = {"numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    torch.save({"model": weights, "rng": state}, tmp_path / "checkpoint-8.pt")
    other = load_head(tmp_path / "checkpoint-8.pt", HeadConfig(vow_activation="relu")).head
    hidden = (inputs @ plain["vow_head.net.0.weight"].T + plain["vow_head.net.0.bias"]).relu()
    logits = hidden @ plain["vow_head.net.2.weight"].T + plain["vow_head.net.2.bias"]
    assert torch.allclose(other(inputs), logits - logits[:, :1], atol=1e-4)
    torch.save({"model": weights, "code": Path}, tmp_path / "checkpoint-9.pt")
    with pytest.raises(FoveateError, match="code is not run"):
        load_head(tmp_path, HeadConfig())
    torch.save({"model": {"other": torch.zeros(2)}}, tmp_path / "checkpoint-11.pt")
    with pytest.raises(FoveateError, match=r"no policy head in it.*found other"):
        load_head(tmp_path, HeadConfig())


def test_tuned_weights_of_another_trainer_are_adopted():
    vlm = tiny_vlm()
    name, value = next((n, v) for n, v in vlm.model.state_dict().items() if v.ndim == 2)
    weights = {f"vlm.{name}": torch.full_like(value, 0.5), "vlm.other": torch.zeros(3), "vow_head.0.weight": value}
    assert adopt_weights(vlm.model, weights) == 1
    assert (vlm.model.state_dict()[name] == 0.5).all()


@pytest.mark.slow
def test_ray_gives_the_same_rows(model, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (pip install .[ray])")
    base = ("--training.output_dir", "none")
    assert main(["eval", "vqa", *words(model, "local", *base, "--eval.cache_dir", str(model / "c1"))]) == 0
    on_ray = ("--eval.workers", "ray", "--eval.cache_dir", str(model / "c2"))
    assert main(["eval", "vqa", *words(model, "ray", *base, *on_ray)]) == 0
    assert rows_of(model / "ray" / "eval_matrix.csv") == rows_of(model / "local" / "eval_matrix.csv")


def test_ray_that_is_not_there_is_told(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["eval", "vqa", *words(model, "x", "--eval.workers", "ray", "--training.output_dir", "none")]) == 1
    assert 'pip install "foveate[ray]"' in capsys.readouterr().err
