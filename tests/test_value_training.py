"""`foveate train value` on a model of arithmetic: what it leaves, what it tells, what it does not overwrite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from value_commands import MODEL, SECTION_0, elsewhere, evaluate, run, trained  # noqa: F401 - fixtures

from foveate.cli.main import main
from foveate.testing.golden import REPO
from foveate.vision_value.checkpoint import load_head

pytestmark = pytest.mark.usefixtures("trained")


def test_training_leaves_checkpoints_and_results():
    names = {p.name for p in Path("outputs").iterdir()}
    assert names >= SECTION_0 and len([n for n in names if n.startswith("checkpoint-")]) >= 2


def test_training_leaves_the_log_of_stage_2():
    lines = [json.loads(line) for line in Path("outputs/metrics.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if "val_loss" in line]
    summary = json.loads(Path("outputs/summary.json").read_text())
    assert epochs == list(range(1, 11)) and lines[-1]["step"] == summary["policy"]["steps"]
    assert min(line["val_loss"] for line in lines if "val_loss" in line) == summary["policy"]["val_loss"]


def test_training_tells_pictures_that_are_not_there(capsys):
    from PIL import Image

    Path("pictures").mkdir()
    names = [f"pictures/{n}.png" for n in range(20)]
    for n, name in enumerate(names[1:]):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(name)
    lines = [{"image": name, "question": "what? need=FULL", "answer": "a"} for name in names]
    Path("one_lacks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--data.train_jsonl", "one_lacks.jsonl", "--training.stage2_epochs", "1", "--output_dir", "outputs/lacks")
    run("train", "value", *MODEL, *words)
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: 1 of 20 training questions left out: " in told and names[0] in told


def test_a_shorter_training_in_the_same_folder_is_the_one_that_counts():
    for questions in ("300", "60"):
        run(
            "train", "value", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", questions,
            "--training.stage2_epochs", "2", "--training.save_every", "3", "--training.batch_size", "16",
            "--output_dir", "outputs/again",
        )  # fmt: skip
    assert Path("outputs/again/earlier_1/checkpoint-000030.pt").exists(), "what the first training left"
    evaluate("outputs/again_read", "--checkpoint", "outputs/again", "--pareto", "0.1")
    policy = json.loads(Path("outputs/again_read/summary.json").read_text())["policies"][0]
    assert policy["questions"]["train"] < 60


def test_another_objective_does_not_overwrite_a_policy(capsys):
    words = (
        "train", "value", *MODEL, "--data.train_jsonl", "mixed", "--max_train_samples", "60",
        "--training.stage2_epochs", "2", "--training.batch_size", "16", "--output_dir", "outputs/objectives",
    )  # fmt: skip
    run(*words)
    first = load_head("outputs/objectives")
    assert first.facts["trained_on"] == "mixed"
    capsys.readouterr()
    run(*words)
    assert "held a policy" not in capsys.readouterr().out and not Path("outputs/objectives/earlier_1").exists()
    run(*words, "--config", str(REPO / "configs" / "ablate_lambda0.yaml"))
    told = " ".join(capsys.readouterr().out.split())
    assert "held a policy of another configuration, now in outputs/objectives/earlier_1" in told
    assert "the policy is trained for lambda 0" in told
    kept, now = (load_head(f"outputs/objectives{f}") for f in ("/earlier_1", ""))
    assert kept.facts == first.facts and (kept.head.shape.learns, now.head.shape.learns) == ("gains", "policy")
    asked = ("--dataset_config", "mixed", "--max_samples", "40", "--pareto", "0", "0.1", "--training.seed", "3")
    run("eval", "vqa", *MODEL, *asked, "--checkpoint", "outputs/objectives", "--output_dir", "outputs/idle")
    warnings = "\n".join(json.loads(Path("outputs/idle/summary.json").read_text())["warnings"])
    assert "--pareto does nothing to it" in warnings and "was trained with seed 0" in warnings


def test_leaks_are_looked_for_in_what_the_policy_was_trained_on():
    lines = [{"id": f"q{i}", "question": f"what is it? {i} need=NO", "answer": "yes"} for i in range(40)]
    path = Path("seen.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(
        "train", "value", *MODEL, "--data.train_jsonl", str(path), "--training.stage2_epochs", "1",
        "--output_dir", "outputs/seen",
    )  # fmt: skip
    words = ("eval", "vqa", *MODEL, "--dataset_config", str(path), "--checkpoint", "outputs/seen")
    run(*words, "--output_dir", "outputs/leaks", "--data.train_jsonl", "gone.jsonl")
    warnings = json.loads(Path("outputs/leaks/summary.json").read_text())["warnings"]
    assert any(w.startswith("seen leaks into seen.jsonl: of 40 questions") for w in warnings), warnings
    assert any("was not checked: gone.jsonl is not there" in w for w in warnings), warnings


def test_each_configuration_gets_the_head_that_it_trained(capsys):
    """A0, then the overlays of D2 and D3 into the same folder: an evaluation of A0's configuration has A0's head."""
    own = ("--training.output_dir", "outputs/kept", "--data.train_jsonl", "mixed", "--max_train_samples", "60")
    own += ("--training.stage2_epochs", "1", "--training.batch_size", "16")
    soft = ("--config", str(REPO / "configs" / "ablate_soft_mixture.yaml"))
    free = ("--config", str(REPO / "configs" / "ablate_lambda0.yaml"))
    asked = ("eval", "vqa", *MODEL, "--dataset_config", "mixed", "--max_samples", "20", "--eval.bootstrap", "20")

    def taken(*words: str, out: str) -> tuple[dict, str]:
        run(*asked, *own, *words, "--output_dir", f"outputs/{out}")
        summary = json.loads(Path(f"outputs/{out}/summary.json").read_text())
        return summary["policies"][0], " ".join(summary["warnings"])

    for overlay in ((), soft, free):
        run("train", "value", *MODEL, *own, *overlay)
    head, warnings = taken(out="as_a0")
    assert head["objective"] == {"use_straight_through": None, "gain_loss": "regress"}
    assert Path(head["path"]) == Path("outputs/kept/earlier_1") and "not the newest head in outputs/kept" in warnings
    assert "policy.use_straight_through true in training, null now" in warnings
    assert taken(*soft, out="as_d2")[0]["objective"]["use_straight_through"] is False
    head, warnings = taken(*free, out="as_d3")
    assert (head["objective"]["use_straight_through"], head["lambda_cost"]) == (True, 0.0) and "not the" not in warnings
    capsys.readouterr()
    narrow = ("--config", str(REPO / "configs" / "ablate_hidden.yaml"), "--output_dir", "outputs/none")
    assert main([*asked, *own, *narrow]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "are not what this configuration trains" in told and "earlier_1" in told
    assert "policy.feature_mode hidden_entropy_margin in training, hidden now" in told
    run(*asked, *own, *narrow, "--policy.baseline_name", "no_vision")  # a fixed rule needs no head
    named, warnings = taken("--checkpoint", "outputs/kept", out="named")
    assert named["objective"]["use_straight_through"] is True and "is not what this configuration trains" in warnings


def test_of_several_heads_of_one_objective_the_one_of_the_same_options_is_taken():
    own = ("--training.output_dir", "outputs/same", "--data.train_jsonl", "mixed", "--max_train_samples", "60")
    asked = ("eval", "vqa", *MODEL, "--dataset_config", "mixed", "--max_samples", "20", "--eval.bootstrap", "20")
    for epochs in ("1", "2"):
        run("train", "value", *MODEL, *own, "--training.stage2_epochs", epochs)
    for epochs, place in (("1", "outputs/same/earlier_1"), ("2", "outputs/same"), ("3", "outputs/same")):
        run(*asked, *own, "--training.stage2_epochs", epochs, "--output_dir", "outputs/read")
        summary = json.loads(Path("outputs/read/summary.json").read_text())
        assert summary["policies"][0]["path"] == place
    assert "training.stage2_epochs 2 in training, 3 now" in " ".join(summary["warnings"])
