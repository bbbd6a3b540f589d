"""The shipped Qwen3-VL answers what its card says, and pays what it looks at."""

from __future__ import annotations

from foveate.data.vqa_mixed import facts_of, generate
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.load import SHIPPED, load_vlm


def test_the_shipped_model_sees_what_the_level_shows():
    vlm = load_vlm("tiny_qwen3vl", batch_size=64)
    assert sum(path.stat().st_size for path in (SHIPPED / "tiny_qwen3vl").glob("*")) < 12e6
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
