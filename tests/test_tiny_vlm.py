"""The shipped Qwen3-VL answers what its card says, and pays what it looks at."""

from __future__ import annotations

import csv

import pytest

from foveate.cli.main import main
from foveate.data.vqa.mixed import facts_of, generate
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.load import load_vlm
from foveate.util.shipped import VLMS


def test_the_shipped_model_sees_what_the_level_shows():
    vlm = load_vlm("tiny_qwen3vl", batch_size=64)
    assert sum(path.stat().st_size for path in (VLMS / "tiny_qwen3vl").glob("*")) < 12e6
    assert vlm.reuse_obstacle == ""
    samples = generate("val", 200)
    text = vlm.text_pass(samples)
    right = {}
    for level in ("NO", "COARSE", "FULL"):
        answers = vlm.answer(samples, level, decoding=Decoding(max_new_tokens=2), reuse=text)
        right[level] = [a.text == s.answers[0] for a, s in zip(answers, samples, strict=True)]
        assert {a.vision_tokens for a in answers} == {{"NO": 0, "COARSE": 1, "FULL": 16}[level]}
        assert all(a.loss_nats is not None for a in answers)
    for need, floor, below in (("COARSE", 0.9, "NO"), ("FULL", 0.9, "COARSE")):
        these = [i for i, s in enumerate(samples) if facts_of(s).need == need]
        assert sum(right[need][i] for i in these) > floor * len(these)
        assert sum(right[below][i] for i in these) < 0.6 * len(these)


@pytest.mark.slow
def test_the_shipped_policy_keeps_the_accuracy_of_full_at_six_tenths_of_its_cost(tmp_path, capsys):
    """On the whole test split, at the lambda that validation has chosen, and better than every rival at that cost."""
    assert main(["demo", "vqa", "--max_samples", "3000", "--out", str(tmp_path)]) == 0
    with (tmp_path / "eval_matrix.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    (chosen,) = (row for row in rows.values() if row["chosen"])
    accuracy = {name: float(row["accuracy"]) for name, row in rows.items()}
    assert accuracy[chosen["row"]] > accuracy["always_full"] - 0.01 and float(chosen["avg_cost"]) < 0.6
    assert f"{chosen['row']}, 3,000 questions: {100 * accuracy[chosen['row']]:.1f} %" in capsys.readouterr().out
    with (tmp_path / "comparison.csv").open(newline="") as file:
        margins = [row for row in csv.DictReader(file) if row["row"] == chosen["row"]]
    rivals = {m["rival"]: float(m["margin_low"]) for m in margins}
    for rival in ("random_policy_matched", "string_lookup", "uncertainty_threshold", "cascade"):
        assert rivals[rival] > 0, rivals
