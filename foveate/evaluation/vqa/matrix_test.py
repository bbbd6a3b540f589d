"""The three-pass comparison on a model of arithmetic: prices, equality with lone runs, resuming, shards, bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.evaluation.vqa.compare import compare
from foveate.evaluation.vqa.config import DataConfig, EvalConfig, ModelConfig, VqaConfig
from foveate.evaluation.vqa.files import by_category, predictions, read_rows, write_predictions, write_table
from foveate.evaluation.vqa.matrix import UNSEEN, Experiment, asked, asked_rules, matrix_rules
from foveate.evaluation.vqa.oracle import ChanceCorrected, analyse
from foveate.evaluation.vqa.passes import PrunedPass, inspect_images
from foveate.evaluation.vqa.profile import executable, profile_row, profile_rows, spread
from foveate.evaluation.vqa.rows import RuleResult, rule_results
from foveate.evaluation.vqa.scored import ScoredPasses, clusters_of
from foveate.testing.golden import REPO
from foveate.training.value.stage2 import fit, split_by_image
from foveate.types import VQASample
from foveate.vision_value.baselines import EVERY_PASS, Always, Cascade, Oracle, RandomMatched, StringLookup
from foveate.vision_value.baselines.uncertainty_threshold import between
from foveate.vision_value.checkpoint import load_head, save_head
from foveate.vision_value.choose import LAMBDAS
from foveate.vision_value.config import HeadConfig, TrainingConfig
from foveate.vision_value.cost import ratio_of_totals
from foveate.vision_value.outcomes import Outcomes

sys.path.append(str(REPO / "tests"))
from fake_vlm import FakeVLM, fake_samples


def score(sample, row):
    return (float(row["text"] == sample.answers[0]) if sample.answers else float("nan")), True


def make(folder: Path, vlm=None, **policy) -> Experiment:
    config = VqaConfig(
        model=ModelConfig(path="fake"),
        policy=HeadConfig(**policy),
        eval=EvalConfig(cache_dir=str(folder), batch_size=16, bootstrap=200),
        training=TrainingConfig(stage2_epochs=30, batch_size=32),
        pareto=(0.0, 0.1, 0.5) if not policy.get("baseline_name") else (),
    )
    return Experiment(config, vlm or FakeVLM(), score)


def scored_of(experiment: Experiment, samples, needs=EVERY_PASS, pruned=()):
    inspect_images(samples, experiment.cache)
    experiment.make_passes(samples, needs, pruned)
    return experiment.scored("fake", samples, needs, pruned)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A trained head, the passes of the test set, and its matrix."""
    folder = tmp_path_factory.mktemp("whole")
    experiment = make(folder / "cache")
    training = scored_of(experiment, fake_samples(300, seed=1))
    held = split_by_image([s.image for s in training.samples], 0.3)
    config = experiment.config
    trained = fit(
        training.outcomes.take(~held), training.outcomes.take(held), config.policy, config.training, model="fake"
    )
    experiment.vlm.calls.clear()
    samples = fake_samples(200)
    scored = scored_of(experiment, samples)
    experiment.cache.close()
    return experiment, trained, scored, experiment.rows(scored, matrix_rules(config, scored, [trained])), samples


def test_a_matrix_costs_three_passes(whole):
    experiment, _, _, rows, samples = whole
    made = {}
    for name, count in experiment.vlm.calls:
        made[name] = made.get(name, 0) + count
    assert made == {"text": 200, "NO": 200, "COARSE": 200, "FULL": 200}
    assert len(rows) >= 20
    before = len(experiment.vlm.calls)
    scored_of(experiment, samples)
    assert len(experiment.vlm.calls) == before, "everything was cached"


LONE = {
    "always_full": {"baseline_name": "always_full"},
    "always_coarse": {"baseline_name": "always_coarse"},
    "no_vision": {"baseline_name": "no_vision"},
    "oracle": {"baseline_name": "oracle"},
    "uncertainty_threshold": {
        "baseline_name": "uncertainty_threshold", "baseline_uncertainty": "entropy", "baseline_threshold": 0.5,
    },
    "cascade": {"baseline_name": "cascade", "baseline_uncertainty": "entropy", "baseline_threshold": 0.5},
    "random_policy_matched": {"baseline_name": "random_policy_matched", "baseline_target_ratios": (0.2, 0.3, 0.5)},
}  # fmt: skip


@pytest.mark.parametrize("name", LONE)
def test_a_row_is_what_running_its_rule_alone_gives(whole, tmp_path, name):
    _, _, scored, _, samples = whole
    lone = make(tmp_path, **LONE[name])
    needs, _ = asked(lone.config)
    alone = scored_of(lone, samples, needs)
    expected = lone.rows(alone, asked_rules(lone.config, alone, []))
    result = lone.rows(scored, asked_rules(lone.config, scored, []))
    assert [i.row for i in result] == [i.row for i in expected]
    passes = {n for n, _ in lone.vlm.calls}
    assert passes == set(needs), "no pass too many"


def test_fixed_rules_have_their_ratios_and_costs(whole):
    rows = {i.row["row"]: i.row for i in whole[3]}
    rates = ("action_rate_no", "action_rate_coarse", "action_rate_full")
    assert [rows["always_full"][r] for r in rates] == [0, 0, 1] and rows["always_full"]["avg_cost"] == 1
    assert [rows["no_vision"][r] for r in rates] == [1, 0, 0] and rows["no_vision"]["avg_cost"] == 0
    assert rows["always_coarse"]["avg_cost"] == pytest.approx((4 + 2) / (16 + 2))
    assert rows["oracle"]["accuracy"] == max(r["accuracy"] for r in rows.values())
    for row in rows.values():
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]


def test_lambda_moves_the_learned_policy_towards_no(whole):
    learned = [i.row for i in whole[3] if i.row["baseline_name"] == "" and i.row["chosen"] is None]
    costs = [row["avg_cost"] for row in learned]
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
    full = next(i.row for i in whole[3] if i.row["row"] == "always_full")
    chosen = next(i.row for i in whole[3] if i.row["chosen"])
    assert chosen["accuracy"] >= full["accuracy"] - 0.03 and chosen["avg_cost"] < 0.75


def test_random_matched_hits_its_ratios(whole):
    rows = [i.row for i in whole[3]]
    learned = [r for r in rows if r["baseline_name"] == ""]
    matched = [r for r in rows if r["matched"] == "global"]
    for one, other in zip(learned, matched, strict=True):
        for level in ("no", "coarse", "full"):
            assert one[f"action_rate_{level}"] == pytest.approx(other[f"action_rate_{level}"], abs=0.02)


def test_a_profile_answers_as_the_look_up_says(whole):
    experiment, _, scored, rows, _ = whole
    for item in filter(executable, rows):
        found = profile_row(FakeVLM(), scored, item, experiment.options, 20)
        assert found.rerouted == 0
        for i, answer in zip(found.questions, found.answers, strict=True):
            assert float(answer.text == "yes") == item.correct[i], item.row["row"]
        assert item.row["latency"] > 0 and item.row["mem"] > 0


def test_shares_of_several_processes_merge_into_the_same_rows(whole, tmp_path):
    _, trained, _, rows, samples = whole
    parts = [make(tmp_path) for _ in range(3)]
    inspect_images(samples, parts[0].cache)
    for rank, part in enumerate(parts):
        part.rank, part.processes = rank, 3
        part.make_passes(samples, EVERY_PASS)
    assert len(list(tmp_path.glob("FULL.*.jsonl"))) == 3
    merged = parts[0].scored("fake", samples, EVERY_PASS)
    again = parts[0].rows(merged, matrix_rules(parts[0].config, merged, [trained]))
    for one, other in zip(rows, again, strict=True):
        assert {k: v for k, v in one.row.items() if k not in ("latency", "latency_p95", "mem", "mem_of")} == {
            k: v for k, v in other.row.items() if k not in ("latency", "latency_p95", "mem", "mem_of")
        }


def test_a_run_goes_on_where_it_was_cut(tmp_path):
    samples = fake_samples(60)

    class Dying(FakeVLM):
        def answer(self, samples, level, **options):
            if len(self.calls) > 6:
                raise KeyboardInterrupt
            return super().answer(samples, level, **options)

    dying = make(tmp_path, Dying())
    with pytest.raises(KeyboardInterrupt):
        scored_of(dying, samples)
    dying.cache.close()
    with (tmp_path / "FULL.0.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')
    experiment = make(tmp_path)
    scored = scored_of(experiment, samples)
    made = sum(count for _, count in (*dying.vlm.calls, *experiment.vlm.calls))
    assert made == 4 * len(samples) and np.isfinite(scored.outcomes.loss).all()


def test_a_cache_of_another_model_is_refused(tmp_path):
    make(tmp_path, FakeVLM("one"))
    with pytest.raises(FoveateError, match="fingerprint: 'one' there, 'two' now"):
        make(tmp_path, FakeVLM("two"))


def test_a_broken_picture_is_marked_and_the_run_goes_on(tmp_path):
    samples = fake_samples(20)
    samples[3] = dataclasses.replace(samples[3], image=b"no picture")
    samples.append(VQASample("plain", "fake", "no image? need=NO", ("yes",), None))
    scored = scored_of(make(tmp_path), samples)
    assert len(scored) == 20 and list(scored.broken) == [samples[3].id]
    assert scored.outcomes.tokens[-1].tolist() == [0, 0, 0]


def test_pruned_looks_are_passes_of_their_own(tmp_path):
    from foveate.evaluation.vqa.matrix import pruned_passes

    experiment = make(tmp_path)
    pruned = pruned_passes((1.0, 0.5, 0.25), ("stride", "random", "downsample"))
    scored = scored_of(experiment, fake_samples(40), EVERY_PASS, pruned)
    rows = experiment.rows(scored, scored.pruned)
    left = {i.row["row"]: i.row["remaining_vision_tokens"] for i in rows}
    assert left["stride 1"] == 16 and left["stride 0.5"] == 8 and left["stride 0.25"] == 4 and len(rows) == 9
    made = {name: sum(n for kind, n in experiment.vlm.calls if kind == name) for name in ("FULL", "pruned")}
    assert made == {"FULL": 3 * 40, "pruned": 4 * 40}, "all tokens cost no pass, smaller pictures are FULL looks"


def test_a_policy_survives_its_file(whole, tmp_path):
    _, trained, scored, _, _ = whole
    path = save_head(tmp_path, 30, trained)
    for place in (path, tmp_path):
        again = load_head(place)
        assert np.array_equal(again.head.scores(scored.outcomes), trained.head.scores(scored.outcomes))
        assert again.lookup == trained.lookup and again.facts["model"] == "fake"


def test_a_question_without_an_answer_empties_no_category(tmp_path):
    samples = fake_samples(20)
    samples[3] = dataclasses.replace(samples[3], answers=())
    experiment = make(tmp_path, baseline_name="always_full")
    scored = scored_of(experiment, samples)
    (row,) = [r for r in by_category(scored, experiment.rows(scored, [Always("FULL")])) if r["category"] == "all"]
    known = [i for i in range(20) if i != 3]
    assert row["samples"] == 19 and row["accuracy"] == pytest.approx(scored.outcomes.correct[known, 2].mean())


def test_rows_are_called_apart_and_a_rule_that_goes_on_says_so():
    from foveate.evaluation.vqa.rows import label

    facts = {"threshold": 2.08114, "coarse_threshold": -1.0, "uncertainty": "entropy"}
    assert label("cascade", facts) == "cascade entropy 2.081/always on to FULL"
    assert label("cascade", facts | {"coarse_threshold": 0.3}) == "cascade entropy 2.081/0.3"
    assert label("uncertainty_threshold", {"threshold": 2.07652, "uncertainty": "entropy"}) == "threshold entropy 2.077"
    assert label("uncertainty_threshold", {"threshold": 0.12346, "uncertainty": "margin"}, 6).endswith("0.12346")


def alone(row: dict, config: VqaConfig) -> VqaConfig:
    """The configuration of one rule that a row of `eval_matrix.csv` describes."""
    read, name = {key: row[key] for key in row if row[key] is not None}, row["baseline_name"]
    own: dict = {"baseline_name": name or None, "lambda_cost": read.get("lambda_cost", 0.05)}
    if name in ("uncertainty_threshold", "cascade"):
        own |= {"baseline_threshold": read["threshold"], "baseline_uncertainty": read["uncertainty"]}
    if name == "uncertainty_threshold":
        own["baseline_vision"] = read["vision"]
    if name == "cascade":
        own["baseline_coarse_threshold"] = read["coarse_threshold"]
    return dataclasses.replace(config, policy=HeadConfig(**own), pareto=(read["lambda_cost"],) if not name else ())


def test_every_row_of_the_csv_can_be_run_alone(whole, tmp_path):
    experiment, trained, scored, rows, _ = whole
    write_table(tmp_path / "eval_matrix.csv", [item.row for item in rows])
    compared = 0
    for row, item in zip(read_rows(tmp_path / "eval_matrix.csv"), rows, strict=True):
        if row["matched"] or row["corrected"]:  # a random twin has the ratios of its learned row
            continue
        config = alone(row, experiment.config)
        (again,) = experiment.rows(scored, asked_rules(config, scored, [trained]))
        for key in ("accuracy", "avg_cost", "action_rate_no", "action_rate_full", "loss_nats"):
            assert again.row[key] == row[key] == item.row[key], (row["row"], key)
        assert (again.decisions.action == item.decisions.action).all()
        compared += 1
    assert compared > 20 and {r.row["baseline_name"] for r in rows} >= {"cascade", "string_lookup", ""}


def test_thresholds_lie_between_the_values_of_a_set():
    values = np.array([0.2, 0.2, 0.4, 0.5, 0.5, 0.9])
    assert between(values, [0.0, 0.5, 1.0]) == pytest.approx([0.3, 0.45, 1.25])
    for threshold in between(values, np.linspace(0, 1, 15).tolist()):
        assert abs(values - threshold).min() > 0.04
    assert between(np.full(4, 0.5), [0.5]) == [1.0] and between(np.array([np.nan]), [0.5]) == []


def test_a_random_row_is_the_mean_of_its_draws(whole):
    experiment, _, scored, _, _ = whole
    ratios = (0.2, 0.3, 0.5)
    rule = RandomMatched(ratios, draws=100)
    (item,) = experiment.rows(scored, [rule])
    correct, index = scored.outcomes.correct, np.arange(len(scored))
    singles = [RandomMatched(ratios, seed=42 + k).decide(scored.outcomes).action for k in range(100)]
    accuracies = [correct[index, action].mean() for action in singles]
    assert np.std(accuracies) > 0.01, "one draw is a lottery"
    assert item.row["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert (item.decisions.action == singles[0]).all() and (item.correct == correct[index, singles[0]]).all()
    assert item.row["avg_cost"] == pytest.approx(0.3 * 6 / 18 + 0.5) and item.row["action_rate_full"] == 0.5
    # Of infinitely many draws: each question's answers in these shares.
    assert item.row["accuracy"] == pytest.approx((correct @ np.array(ratios)).mean(), abs=4 * np.std(accuracies) / 10)


def test_the_wording_has_one_grid_whatever_lambdas_are_asked(whole):
    experiment, trained, scored, _, _ = whole
    grids = []
    for pareto in ((0.1,), (0.0, 0.5, 1.0, 2.0)):
        config = dataclasses.replace(experiment.config, pareto=pareto)
        rules = matrix_rules(config, scored, [trained])
        grids.append([rule.lambda_cost for rule in rules if isinstance(rule, StringLookup)])
    assert grids[0] == grids[1] and grids[0][0] == 0.0
    dense = [StringLookup(trained.lookup, lam, experiment.config.policy) for lam in LAMBDAS]
    distinct = {rule.decide(scored.outcomes).action.tobytes() for rule in dense}
    assert len(grids[0]) == len(distinct), "every operating point, each once"


def test_intervals_and_margins_draw_whole_clusters():
    """40 pictures of five questions that are all right or all wrong: the interval is that of 40 draws, not of 200."""
    samples = [dataclasses.replace(s, image=bytes([i // 5])) for i, s in enumerate(fake_samples(200))]
    right = np.repeat(np.arange(40) % 4 < 3, 5).astype(float)
    outcomes = Outcomes(
        questions=tuple(s.question for s in samples), correct=np.stack([0 * right, right, right], axis=1),
        loss=np.ones((200, 3)), tokens=np.tile([0.0, 4, 16], (200, 1)), answer_entropy=np.ones((200, 3)),
        answer_margin=np.ones((200, 3)), entropy=np.ones(200), margin=np.ones(200),
        hidden=np.zeros((200, 0), np.float32),
    )  # fmt: skip
    scored = ScoredPasses("set", tuple(samples), outcomes, np.ones((200, 3), bool), {})
    assert (scored.clusters == np.repeat(np.arange(40), 5)).all()
    (item,) = rule_results(scored, [Always("FULL")], HeadConfig(), resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert item.row["accuracy_high"] - item.row["accuracy_low"] == pytest.approx(2 * half, rel=0.08)
    plain = RuleResult({**item.row, "baseline_name": ""}, None, item.decisions, item.correct, 0.5 * item.cost)
    (margin,) = compare([item, plain], 4000, clusters=scored.clusters)
    assert margin["margin"] == 0
    none = rule_results(scored, [Always("NO")], HeadConfig())[0]
    shifted = RuleResult({**none.row, "baseline_name": "cascade"}, None, none.decisions, none.correct, none.cost)
    (_, margin) = compare([item, none, shifted, plain], 4000, clusters=scored.clusters)
    # Against half of FULL and half of NO: 0.75 less 0.375 per question, so half the spread of the accuracy.
    assert margin["margin"] == pytest.approx(0.375)
    assert margin["margin_high"] - margin["margin_low"] == pytest.approx(half, rel=0.08)


def test_orders_of_one_circular_question_are_one_cluster():
    ids = ("mmbench/dev/7", "mmbench/dev/8", "mmbench/dev/1000007", "mmbench/dev/2000007")
    samples = [VQASample(i, "mmbench", "?", ("A",), b"one" if i.endswith("8") else i.encode()) for i in ids]
    other = VQASample("mine/1", "mine", "?", ("A",), b"one")
    assert clusters_of([*samples, other, VQASample("mine/2", "mine", "?", ("A",), None)]).tolist() == [0, 1, 0, 0, 1, 2]


def test_cost_of_totals_weighs_large_pictures_more():
    tokens = np.array([[0.0, 4, 16], [0.0, 4, 64]])
    config = HeadConfig(cost_overhead_tokens=2)
    paid = np.array([[1.0, 0, 0], [0, 0, 1]])  # the large one fully, the small one not at all
    assert ratio_of_totals(tokens, tokens[:, 2], config, paid) == pytest.approx(66 / (18 + 66))
    assert ratio_of_totals(tokens, tokens[:, 2], HeadConfig(cost_unit="tokens"), paid) == pytest.approx(64 / 80)
    assert ratio_of_totals(tokens, np.array([np.nan, np.nan]), config, np.zeros((2, 3))) == 0.0


def test_the_oracle_without_lucky_guesses_by_hand():
    """Four options. Nothing is known at NO (a quarter is right by chance), half at COARSE, all at FULL."""
    n = 80
    samples = [VQASample(str(i), "set", "?", ("A",), None, ("a", "b", "c", "d")) for i in range(n)]
    known = np.arange(n) < n // 2
    lucky = np.arange(n) % 4 == 0
    correct = np.stack([lucky, known | lucky, np.ones(n, bool)], axis=1).astype(float)
    tokens = np.tile([0.0, 4, 16], (n, 1))
    outcomes = Outcomes(
        ("?",) * n, correct, 0 * correct, tokens, 0 * correct, 0 * correct, 0 * lucky, 0 * lucky,
        np.zeros((n, 0), np.float32),
    )  # fmt: skip
    scored = ScoredPasses("set", tuple(samples), outcomes, correct >= 0, {})
    plain, fair = rule_results(scored, [Oracle(), ChanceCorrected.of(scored)], HeadConfig(), resamples=50)
    assert plain.row["avg_cost"] == pytest.approx(0.375 * 6 / 18 + 0.375), "a quarter is right for nothing"
    assert fair.row["avg_cost"] == pytest.approx(0.5 * 6 / 18 + 0.5) and fair.row["accuracy"] == 1.0
    assert fair.row["action_ratio"] == pytest.approx([0, 0.5, 0.5]) and fair.row["corrected"] == "for chance"
    found = analyse(scored, HeadConfig())["chance_corrected"]
    assert (found["accuracy"], found["avg_cost"]) == pytest.approx((1.0, 0.5 * 6 / 18 + 0.5))
    plain_samples = tuple(dataclasses.replace(s, choices=()) for s in samples)
    assert ChanceCorrected.of(dataclasses.replace(scored, samples=plain_samples)) is None


def test_profiled_rows_take_turns_over_the_whole_set(whole, monkeypatch):
    """Rows interleaved, none first always, over spread questions; the text pass inside the clock, memory per row."""
    from foveate.evaluation.vqa import profile

    experiment, _, scored, rows, _ = whole
    by = {item.row["row"]: item for item in rows}
    three = [by["always_full"], by["no_vision"], next(item for item in rows if not item.row["baseline_name"])]
    assert spread(200, 4) == (25, 75, 125, 175) and spread(3, 50) == (0, 1, 2)
    order, resets = [], iter(range(1000))
    monkeypatch.setattr(profile, "reset_peak", lambda: order.append(next(resets)) or "test")
    monkeypatch.setattr(profile, "peak_mib", lambda: float(order[-1]))
    run, vlm, ways = profile.execute, FakeVLM(), []

    def execute(vlm, scored, result, options, i):
        before = len(vlm.calls)
        found = run(vlm, scored, result, options, i)
        ways.append((result.row["row"], i, [name for name, _ in vlm.calls[before:]]))
        return found

    monkeypatch.setattr(profile, "execute", execute)
    found = profile_rows(vlm, scored, three, experiment.options, 4)
    timed = ways[3 * 3 :]
    assert [i for _, i, _ in timed] == [i for i in (25, 75, 125, 175) for _ in three]
    firsts = [timed[k][0] for k in range(0, 12, 3)]
    assert firsts == [three[k % 3].row["row"] for k in range(4)], "each row comes first in turn"
    learned = [passes for name, _, passes in timed if name == three[2].row["row"]]
    assert all(passes[0] == "text" and len(passes) == 2 for passes in learned)
    assert all(passes == ["FULL"] for name, _, passes in timed if name == "always_full")
    assert [one.memory_mib for one in found] == [9.0, 10.0, 11.0], "each row's own peak"
    assert {item.row["mem_of"] for item in three} == {"test"}


class OneRefused(FakeVLM):
    """Stops at one question of a batch, as a foreign processor does at a picture it cannot take."""

    refused = "fake/7"

    def answer(self, samples, level, **options):
        if level != "NO" and any(s.id == self.refused for s in samples):
            raise ArithmeticError("aspect ratio")
        return super().answer(samples, level, **options)


def test_a_question_that_the_model_cannot_take_is_marked_and_the_others_are_evaluated(tmp_path):
    samples = fake_samples(40)
    samples[7] = dataclasses.replace(samples[7], id="fake/7")
    scored = scored_of(make(tmp_path / "cache", OneRefused()), samples)
    assert len(scored) == 39 and list(scored.broken) == ["fake/7"]
    assert scored.broken["fake/7"] == "sample fake/7: the model cannot take it: ArithmeticError: aspect ratio"
    # The next command tries it again.
    again = make(tmp_path / "cache")
    assert len(scored_of(again, samples)) == 40
    # Where none can be taken it is no matter of the questions.
    every = OneRefused()
    with pytest.raises(ArithmeticError):
        scored_of(make(tmp_path / "other", every), [dataclasses.replace(s, id="fake/7") for s in samples[:3]])


def test_a_picture_above_the_limit_is_marked_until_the_limit_is_raised(tmp_path):
    samples = fake_samples(4)
    samples[2] = dataclasses.replace(samples[2], image=png(40, 30))
    limited = make(tmp_path / "cache")
    limited.config = dataclasses.replace(limited.config, data=DataConfig(max_pixels=1199))
    assert list(scored_of(limited, samples).broken) == [samples[2].id]
    raised = make(tmp_path / "cache")
    assert len(scored_of(raised, samples)) == 4 and not scored_of(raised, samples).broken
    raised.cache.close()
    assert list(scored_of(limited, samples).broken) == [samples[2].id]


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_predictions_hold_every_row_and_question(whole, tmp_path):
    _, _, scored, rows, samples = whole
    write_predictions(tmp_path / "predictions.jsonl", {"fake": scored}, rows)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    executed = [item for item in rows if executable(item)]
    assert len(lines) == len(executed) * len(samples)
    for item in executed:
        mine = [line for line in lines if line["row"] == item.row["row"]]
        assert [line["id"] for line in mine] == [sample.id for sample in samples]
        drawn = item.correct.mean()
        assert np.mean([line["correct"] for line in mine]) == pytest.approx(drawn)
        if item.means is None:
            assert np.mean([line["cost"] for line in mine]) == pytest.approx(item.row["avg_cost"])
            assert np.mean([line["tokens"] for line in mine]) == pytest.approx(item.row["vision_tokens"])
    first = next(line for line in lines if line["row"] == "always_full")
    assert first.keys() == {"dataset", "row", "id", "action", "answer", "correct", "cost", "tokens"}
    assert (first["action"], first["cost"], first["tokens"]) == ("FULL", 1.0, 16)
    assert first["answer"] == scored.answers["FULL"][0]["text"]


def test_a_cascade_pays_the_tokens_of_every_look(whole, tmp_path):
    _, _, scored, _, _ = whole
    (item,) = rule_results(scored, [Cascade(-1.0)], HeadConfig(), resamples=5)
    lines = list(predictions(scored, item))
    assert {(line["action"], line["tokens"], line["cost"]) for line in lines} == {("FULL", 20, 6 / 18 + 1)}


def test_pruned_looks_of_a_shipped_model_say_that_they_are_new_to_it(tmp_path):
    for path, note in (("tiny_qwen3vl", UNSEEN), ("fake", None)):
        experiment = make(tmp_path / path)
        experiment.config = dataclasses.replace(experiment.config, model=ModelConfig(path=path))
        scored = scored_of(experiment, fake_samples(20), EVERY_PASS, [PrunedPass("stride", r) for r in (1.0, 0.5)])
        whole_look, half, full = experiment.rows(scored, [*scored.pruned, Always("FULL")])
        assert (whole_look.row["note"], half.row["note"], full.row["note"]) == (None, note, None)
