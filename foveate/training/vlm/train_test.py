from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.models.vlm.load import load_vlm
from foveate.testing.vlm import samples, tiny_vlm
from foveate.training.config import LoopConfig, OptimConfig
from foveate.training.loop import Share
from foveate.training.vlm.aux_heads import IGNORE, VALUES, agreement, asked_value, item_of
from foveate.training.vlm.train import (
    LevelMix,
    QuestionBatch,
    QuestionLoss,
    QuestionsConfig,
    QuestionSource,
    TrainVlmConfig,
    load_questions,
    negated,
    train_vlm,
)

DATA = QuestionsConfig(sets=("mixed",))
MIX = LevelMix(blind=1, coarse=2, full=3, focus=0.5)


@pytest.fixture(scope="module")
def sets():
    return load_questions(DATA)


def test_every_portion_of_a_step_holds_the_levels_and_the_union_is_the_step(sets):
    source = QuestionSource(sets, [1.0], MIX, 0)
    whole = dict(source.batch(Share(3, 0, 48, 48)).rows)
    halves = [dict(source.batch(Share(3, start, start + 24, 48)).rows) for start in (0, 24)]
    assert [len(whole[level]) for level in ("NO", "COARSE", "FULL")] == pytest.approx([8, 16, 24], abs=1)
    for level, rows in whole.items():
        assert [s.id for s in rows] == [s.id for half in halves for s in half[level]]
        assert all(len(half[level]) == pytest.approx(len(rows) / 2, abs=2) for half in halves)
    needs = [item_of(s.id).facts.need for s in whole["FULL"]]
    assert needs.count("FULL") >= 12  # a third of all questions need it
    assert [s.id for s in dict(source.batch(Share(4, 0, 48, 48)).rows)["FULL"]] != [s.id for s in whole["FULL"]]


def test_labels_of_the_auxiliary_heads(sets):
    rng = np.random.default_rng(0)
    for sample in [sets[0].draw(rng, None) for _ in range(100)]:
        item = item_of(sample.id)
        assert item.question == sample.question and item.answer == sample.answers[0]
        value = asked_value(item, "FULL")
        if sample.answers[0] not in ("yes", "no") and value != IGNORE:
            assert VALUES[value] == sample.answers[0]
        if item.facts.need == "FULL":
            assert asked_value(item, "COARSE") == IGNORE
        if (agrees := agreement(item, "FULL")) != IGNORE:
            assert sample.answers[0] == ("yes" if agrees != negated(sample.question) else "no")
        assert not negated(sets[0].draw(rng, None, plain=True).question)


def test_training_runs_resumes_and_leaves_a_model_that_opens(tmp_path):
    config = TrainVlmConfig(
        out=str(tmp_path / "run"),
        data=DATA,
        levels=MIX,
        aux_weight=0.5,
        optim=OptimConfig(lr=2e-3, warmup_steps=1, ema_decay=0.5),
        loop=LoopConfig(steps=6, batch_size=12, log_every=2, save_every=3, device="cpu"),
    )
    folder = train_vlm(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/FULL"] < lines[0]["loss/FULL"]
    assert lines[-1]["aux_weight"] == 0.0
    vlm = load_vlm(folder)
    assert sum(p.numel() for p in vlm.model.parameters()) == pytest.approx(1.4e6, rel=0.1)
    assert vlm.reuse_obstacle == ""
    sample = load_questions(DATA)[0].draw(np.random.default_rng(0), None)
    assert [vlm.answer([sample], level)[0].vision_tokens for level in ("NO", "COARSE", "FULL")] == [0, 1, 16]
    assert all(len(vlm.prompts.answer(word)) == 1 for word in (*VALUES, "yes", "no") if word in sample.question)
    assert all(np.isfinite(p.detach().numpy()).all() and p.dtype == torch.float32 for p in vlm.model.parameters())


def test_contradictions():
    with pytest.raises(FoveateError, match="no questions to train on"):
        TrainVlmConfig()
    with pytest.raises(FoveateError, match="one above 0"):
        LevelMix(full=0.0)
    with pytest.raises(FoveateError, match="2 sets and 1 weights"):
        QuestionsConfig(sets=("mixed", "easy_vqa"), weights=(1.0,))


def test_kinds_narrow_the_sets_that_have_them(tmp_path):
    lines = [{"question": f"what {kind}?", "answer": "red", "category": kind} for kind in ("shape", "color", "size")]
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(map(json.dumps, lines)))
    sets = load_questions(QuestionsConfig((str(own), "mixed"), kinds=("shape", "color", "shape kind")))
    rng = np.random.default_rng(0)
    found = [{questions.draw(rng, None).category for _ in range(20)} for questions in sets]
    assert found == [{"shape", "color"}, {"shape kind"}]
    with pytest.raises(FoveateError, match="did you mean 'shape'"):
        load_questions(QuestionsConfig((str(own),), kinds=("shpae",)))


def test_a_picture_that_cannot_be_looked_at_is_left_out_of_its_step_and_named(caplog):
    vlm, (first, broken, last) = tiny_vlm(), samples(3)
    broken = dataclasses.replace(broken, image=b"no picture")
    loss = QuestionLoss(vlm, 0.0, 1.0)
    whole = loss(QuestionBatch((("FULL", (first, last)),)))
    for _ in range(2):
        assert loss(QuestionBatch((("FULL", (first, broken, last)),))).item() == pytest.approx(whole.item(), abs=1e-5)
    assert [record.getMessage()[:21] for record in caplog.records] == ["left out: sample s1: "]
    alone = loss(QuestionBatch((("FULL", (broken,)),)))
    alone.backward()
    assert alone.item() == 0
