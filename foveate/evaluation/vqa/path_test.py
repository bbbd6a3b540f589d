"""FLOPs and milliseconds of whole paths: counted against the model's own sizes, rows added up by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from foveate.evaluation.vqa.passes import PassOptions, PrunedPass
from foveate.evaluation.vqa.path import PathCosts, add_path, along, measure, ways
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.models.vlm.decoding import Decoding
from foveate.testing.golden import REPO
from foveate.testing.vlm import tiny_vlm
from foveate.types import VQASample
from foveate.vision_value.baselines import Always, Cascade, Oracle, UncertaintyThreshold
from foveate.vision_value.outcomes import Decisions

sys.path.append(str(REPO / "tests"))
from fake_vlm import fake_samples

TABLE = PathCosts(
    8,
    {"text": 10, "NO": 11, "COARSE": 15, "FULL": 40, "NO after text": 1, "COARSE after text": 5,
     "FULL after text": 30, "FULL@stride0500": 25},
    {"text": 2, "NO": 3, "COARSE": 4, "FULL": 8, "NO after text": 1, "COARSE after text": 2.5,
     "FULL after text": 6, "FULL@stride0500": 7},
)  # fmt: skip


def result(rule: Any, action: list[int], paid: np.ndarray | None = None) -> RuleResult:
    decisions = Decisions.of(np.array(action))
    if paid is not None:
        decisions = Decisions(decisions.action, paid, decisions.fallback)
    return RuleResult({}, rule, decisions, np.ones(len(action)), np.ones(len(action)))


def test_a_row_pays_for_the_text_pass_and_for_every_look() -> None:
    full = result(Always("FULL"), [2, 2, 2, 2])
    routed = result(UncertaintyThreshold(0.5), [0, 0, 0, 2])
    cascade = result(Cascade(0.5), [0, 1, 2, 2], np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool))
    oracle = result(Oracle(), [0, 0, 1, 2])
    spec = PrunedPass("stride", 0.5)
    pruned = result(PrunedOutcomes(spec, *(np.ones(4) for _ in range(4))), [2, 2, 2, 2])
    rows = [full, routed, cascade, oracle, pruned]
    add_path(rows, TABLE)
    expected = [40, 10 + (3 * 1 + 30) / 4, 11 + 15 * 3 / 4 + 40 / 2, (2 * 11 + 15 + 40) / 4, 25]
    assert [item.row["gflops"] for item in rows] == pytest.approx(expected)
    assert [item.row["gflops_share"] for item in rows] == pytest.approx([value / 40 for value in expected])
    assert routed.row["path_ms"] == pytest.approx(2 + (3 * 1 + 6) / 4)
    assert routed.row["path_ms_share"] == pytest.approx((2 + 9 / 4) / 8), "a quarter of the looks, half of the time"
    assert along(routed, {"FULL": 40}) is None


def test_flops_are_those_of_the_models_sizes() -> None:
    """Every product of the text-first pass by hand; a look adds the encoder and the tokens that it lays in."""
    vlm = tiny_vlm()
    samples = [VQASample(s.id, "x", "is it red", ("yes",), s.image) for s in fake_samples(2)]
    made = {"text": ({},) * 2, "NO": ({},) * 2, "FULL": ({},) * 2}
    scored = ScoredPasses("set", tuple(samples), None, np.ones((2, 3), bool), made)  # type: ignore[arg-type]
    names = ways(scored)
    assert names == ["text", "NO", "FULL", "NO after text", "FULL after text"]
    costs = PathCosts(2)
    measure(vlm, scored, names, PassOptions(Decoding(max_new_tokens=1)), 2, costs)
    text = vlm.model.config.get_text_config()
    tokens = len(vlm.prompts.prompt(samples[0]).text)
    width, heads, pairs, head = (
        text.hidden_size, text.num_attention_heads, text.num_key_value_heads, text.head_dim,
    )  # fmt: skip
    projections = 2 * tokens * width * head * (2 * heads + 2 * pairs)
    attention = 2 * 2 * heads * tokens * tokens * head
    feed_forward = 3 * 2 * tokens * width * text.intermediate_size
    layers = text.num_hidden_layers * (projections + attention + feed_forward)
    assert costs.gflops["text"] == pytest.approx((layers + 2 * width * text.vocab_size) / 1e9, rel=1e-6)
    assert costs.gflops["FULL"] > costs.gflops["FULL after text"] > costs.gflops["NO after text"]
    assert costs.gflops["NO"] >= costs.gflops["text"] and all(ms > 0 for ms in costs.ms.values())
    plain = PathCosts(2)
    measure(vlm, scored, names, PassOptions(Decoding(max_new_tokens=1), reuse=False), 2, plain)
    assert plain.gflops["FULL after text"] == plain.gflops["FULL"] == costs.gflops["FULL"]
