"""Choices, costs, rules, losses and the head, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.vision_value.baselines import (
    Always,
    Cascade,
    Oracle,
    RandomMatched,
    StringLookup,
    UncertaintyThreshold,
    make_rule,
)
from foveate.vision_value.baselines.random_matched import apportion, bucket_of, bucket_ratios
from foveate.vision_value.baselines.string_lookup import fit_lookup, wording
from foveate.vision_value.choose import best_action
from foveate.vision_value.config import HeadConfig, TrainingConfig
from foveate.vision_value.cost import action_costs
from foveate.vision_value.head import HeadShape, ValueHead, features
from foveate.vision_value.learned import Learned, WithFallback
from foveate.vision_value.losses import gain_ranking, gain_regression, soft_mixture, straight_through
from foveate.vision_value.outcomes import Outcomes


def outcomes(**changes) -> Outcomes:
    """Four questions: the first needs nothing, then COARSE, FULL, and one that nothing helps."""
    values = {
        "questions": ("What?", "what", "Which one?", "Which one"),
        "correct": np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], float),
        "loss": np.array([[0.1, 0.1, 0.1], [2.0, 0.2, 0.1], [2.0, 1.9, 0.1], [2.0, 2.0, 2.0]]),
        "tokens": np.array([[0, 4, 16]] * 4, float),
        "answer_entropy": np.array([[0.1, 0, 0], [0.9, 0.1, 0], [0.9, 0.8, 0], [0.9, 0.9, 0.9]], float),
        "answer_margin": np.array([[0.9, 1, 1], [0.1, 0.9, 1], [0.1, 0.2, 1], [0.1, 0.1, 0.1]], float),
        "entropy": np.array([0.1, 0.4, 0.7, 1.0]),
        "margin": np.array([0.9, 0.6, 0.3, 0.1]),
        "hidden": np.arange(8, dtype=np.float32).reshape(4, 2),
    }
    return Outcomes(**values | changes)


def test_full_costs_one_and_every_look_pays_the_overhead():
    config = HeadConfig(cost_overhead_tokens=2)
    assert action_costs(np.array([[0, 4, 16.0], [0, 0, 0]]), config).tolist() == [[0, 6 / 18, 1], [0, 0, 0]]
    assert action_costs(np.array([[0, 4, 16.0]]), HeadConfig(cost_unit="tokens")).tolist() == [[0, 4, 16]]


def test_the_choice_pays_lambda_for_cost():
    gains = np.array([[0, 0.30, 0.35]])
    tokens = np.array([[0, 4, 16.0]])
    config = HeadConfig(cost_overhead_tokens=2)  # costs 0, 1/3, 1
    for lam, action in ((0.0, 2), (0.07, 2), (0.08, 1), (0.89, 1), (0.91, 0)):
        assert best_action(gains, tokens, lam, config) == [action], lam
    binary = dataclasses.replace(config, action_space="binary")
    assert [int(best_action(gains, tokens, lam, binary)[0]) for lam in (0.34, 0.36)] == [2, 0]
    raw = HeadConfig(cost_unit="tokens", cost_scale=0.01)  # 0.04 and 0.16 a look
    assert [int(best_action(gains, tokens, lam, raw)[0]) for lam in (0.4, 0.5, 8)] == [2, 1, 0]


def test_gains_are_what_the_loss_falls_by():
    assert outcomes().gains[2].tolist() == pytest.approx([0, 0.1, 1.9])


def test_fixed_rules_and_the_oracle():
    assert Always("COARSE").decide(outcomes()).action.tolist() == [1, 1, 1, 1]
    oracle = Oracle().decide(outcomes())
    assert oracle.action.tolist() == [0, 1, 2, 0] and oracle.ratios.tolist() == [0.5, 0.25, 0.25]


def test_thresholds_of_entropy_and_margin():
    assert UncertaintyThreshold(0.4).decide(outcomes()).action.tolist() == [0, 0, 2, 2]
    margin = UncertaintyThreshold(0.5, "margin", "coarse").decide(outcomes())
    assert margin.action.tolist() == [0, 0, 1, 1]


def test_a_cascade_pays_every_pass():
    decisions = Cascade(0.5).decide(outcomes())
    assert decisions.action.tolist() == [0, 1, 2, 2]
    assert decisions.paid.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_random_actions_are_counted_out():
    assert apportion(10, (0.25, 0.25, 0.5)).tolist() == [3, 2, 5] and apportion(3, (1, 1, 1)).tolist() == [1, 1, 1]
    many = outcomes().take(np.arange(400) % 4)
    decisions = RandomMatched((0.2, 0.3, 0.5)).decide(many)
    assert decisions.ratios.tolist() == [0.2, 0.3, 0.5]
    assert (decisions.action == RandomMatched((0.2, 0.3, 0.5)).decide(many).action).all()
    assert (decisions.action != RandomMatched((0.2, 0.3, 0.5), seed=1).decide(many).action).any()


def test_ratios_per_entropy_bucket():
    assert bucket_of(np.array([0.1, 0.5, 0.9]), (0.3, 0.7)).tolist() == [0, 1, 2]
    ratios = bucket_ratios(np.array([0.1, 0.2, 0.9]), np.array([0, 1, 2]), (0.3, 0.7))
    assert ratios == [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]]
    rule = RandomMatched(bucket_ratios=((1, 0, 0), (0, 1, 0), (0, 0, 1)), bucket_thresholds=(0.3, 0.8))
    assert rule.decide(outcomes()).action.tolist() == [0, 1, 1, 2]


def test_a_lookup_knows_the_wording_alone():
    assert wording("  What, is THIS?") == "what is this"
    table = fit_lookup(outcomes())
    assert table["what"] == pytest.approx((0, 0.9, 0.95)) and table["which one"] == pytest.approx((0, 0.05, 0.95))
    unseen = outcomes(questions=("what?", "which one", "new", "new"))
    assert StringLookup(table, 0.5).decide(unseen).action.tolist() == [1, 2, 2, 2]


def test_fallback_raises_no_alone():
    rule = WithFallback(Always("NO"), "full", entropy_threshold=0.5)
    decisions = rule.decide(outcomes())
    assert decisions.action.tolist() == [0, 0, 2, 2] and decisions.fallback.tolist() == [False, False, True, True]
    assert decisions.paid[2].tolist() == [False, False, True] and rule.needs == {"NO", "text", "FULL"}
    assert not WithFallback(Always("COARSE"), "full", margin_threshold=2.0).decide(outcomes()).fallback.any()


@pytest.mark.parametrize(("mode", "width"), [("hidden", 2), ("hidden_entropy", 3), ("hidden_entropy_margin", 4)])
def test_features_by_mode(mode, width):
    seen = features(outcomes(), mode)
    assert seen.shape == (4, width) == (4, HeadShape(2, mode).features)
    if mode == "hidden_entropy_margin":
        assert seen[1].tolist() == pytest.approx([2, 3, 0.4, 0.6])


def test_the_head_standardises_and_scores_against_no():
    head = ValueHead(HeadShape(2, "hidden", 8))
    inputs = torch.from_numpy(features(outcomes(), "hidden"))
    head.standardise(inputs)
    assert head.mean.tolist() == [3, 4] and head.std.tolist() == pytest.approx([math.sqrt(5)] * 2)
    scores = head.scores(outcomes())
    assert scores.shape == (4, 3) and (scores[:, 0] == 0).all()
    binary = ValueHead(HeadShape(2, "hidden", 8, "binary"))
    assert (Learned(binary, 0.0).decide(outcomes()).action != 1).all()
    with pytest.raises(FoveateError, match="belongs to another model"):
        ValueHead(HeadShape(5, "hidden", 8)).scores(outcomes())


SCORES = torch.tensor([[0.0, 0.5, 1.0]])
LOSS = torch.tensor([[2.0, 1.0, 0.5]])  # gains 0, 1, 1.5
COST = torch.tensor([[0.0, 0.25, 1.0]])


def test_gain_losses_by_hand():
    all_three = torch.tensor([True, True, True])
    assert float(gain_regression(SCORES, LOSS, all_three)) == pytest.approx((0.125 + 0.125) / 2)
    assert float(gain_regression(SCORES, LOSS, torch.tensor([True, False, True]))) == pytest.approx(0.125)
    # Pairs (NO, COARSE): margin 1, apart 0.5; (NO, FULL): 1.5, 1; (COARSE, FULL): 0.5, 0.5.
    assert float(gain_ranking(SCORES, LOSS, all_three)) == pytest.approx((0.5 + 0.5 + 0.0) / 3)


def test_losses_in_batches_against_float64_loops():
    """Every formula again, sample by sample and action by action, in float64."""
    rng = np.random.default_rng(0)
    scores, loss, cost = rng.normal(size=(3, 7, 3)) + np.array([0.0, 2.0, 1.0])[:, None, None]
    scores[:, 0] = 0.0
    tensors = [torch.from_numpy(x) for x in (scores, loss, cost)]
    lam, actions = 0.3, [0, 1, 2]
    smooth = [
        0.5 * d * d if abs(d) < 1 else abs(d) - 0.5
        for s, t in zip(scores, loss, strict=True)
        for d in (s[a] - (t[0] - t[a]) for a in actions[1:])
    ]
    hinge = []
    for s, t in zip(scores, loss, strict=True):
        for a in actions:
            for b in actions[a + 1 :]:
                more = (t[0] - t[a]) - (t[0] - t[b])
                hinge.append(max(0.0, abs(more) - math.copysign(1, more) * (s[a] - s[b])))
    mixed, relaxed = [], np.zeros_like(scores)
    for s, t, c in zip(scores, loss, cost, strict=True):
        p = [math.exp(x) / sum(map(math.exp, s)) for x in s]
        mixed.append(-math.log(sum(p[a] * math.exp(-t[a]) for a in actions)) + lam * sum(p[a] * c[a] for a in actions))
    all_three = torch.tensor([True] * 3)
    assert float(gain_regression(tensors[0], tensors[1], all_three)) == pytest.approx(np.mean(smooth), abs=1e-12)
    assert float(gain_ranking(tensors[0], tensors[1], all_three)) == pytest.approx(np.mean(hinge), abs=1e-12)
    assert float(soft_mixture(*tensors, lam)) == pytest.approx(np.mean(mixed), abs=1e-12)
    # Straight-through: the drawn actions' worth forward, the relaxed draw's gradient backward.
    leaf = tensors[0].clone().requires_grad_()
    value = straight_through(leaf, tensors[1], tensors[2], lam, 0.7, torch.Generator().manual_seed(1))
    value.backward()
    uniform = torch.rand((7, 3), generator=torch.Generator().manual_seed(1)).tolist()
    drawn = []
    for i, (s, t, c) in enumerate(zip(scores, loss, cost, strict=True)):
        noisy = [(x - math.log(-math.log(u))) / 0.7 for x, u in zip(s, uniform[i], strict=True)]
        p = [math.exp(x) / sum(map(math.exp, noisy)) for x in noisy]
        worth = [t[a] + lam * c[a] for a in actions]
        drawn.append(worth[p.index(max(p))])
        mean = sum(p[a] * worth[a] for a in actions)
        relaxed[i] = [p[a] * (worth[a] - mean) / 0.7 / 7 for a in actions]
    # The noise itself is drawn in float32.
    assert float(value.detach()) == pytest.approx(np.mean(drawn), abs=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), relaxed, atol=1e-6)


def test_costs_and_choices_against_float64_loops():
    """Any picture sizes, overheads, prices and scales; the choice is the best of three sums."""
    rng = np.random.default_rng(1)
    full = rng.integers(1, 400, 50).astype(float)
    tokens = np.stack([np.zeros(50), np.ceil(full * rng.uniform(0.05, 1, 50)), full], axis=1)
    tokens[::9] = 0  # questions without a picture
    gains = rng.normal(size=(50, 3)) * [0, 1, 1]
    for overhead, scale, lam in ((0.0, 1.0, 0.2), (2.0, 1.0, 0.5), (7.5, 0.4, 3.0)):
        config = HeadConfig(cost_overhead_tokens=overhead, cost_scale=scale)
        costs = [[0.0 if not t else (t + overhead) / (row[2] + overhead) for t in row] for row in tokens]
        np.testing.assert_allclose(action_costs(tokens, config), costs, atol=1e-12)
        worth = [[g - lam * scale * c for g, c in zip(*pair, strict=True)] for pair in zip(gains, costs, strict=True)]
        assert best_action(gains, tokens, lam, config).tolist() == [w.index(max(w)) for w in worth]


def test_policy_losses_by_hand():
    p = SCORES.softmax(-1)[0]
    expected = -math.log(float((p * torch.exp(-LOSS[0])).sum())) + 0.3 * float((p * COST[0]).sum())
    assert float(soft_mixture(SCORES, LOSS, COST, 0.3)) == pytest.approx(expected, abs=1e-6)
    sure = torch.tensor([[0.0, 50.0, 0.0]])
    value = straight_through(sure, LOSS, COST, 0.3, 1.0, torch.Generator().manual_seed(0))
    assert float(value) == pytest.approx(1.0 + 0.3 * 0.25)


@pytest.mark.parametrize("gumbel", [True, False])
def test_policy_losses_teach_the_cheapest_good_action(gumbel):
    """The task loss depends on the action, so nothing collapses to NO as long as a look earns its price."""
    for lam, best in ((0.1, 2), (1.0, 1), (20.0, 0)):
        scores = torch.zeros(1, 3, requires_grad=True)
        optimizer, draws = torch.optim.Adam([scores], lr=0.1), torch.Generator().manual_seed(0)
        for _ in range(150):
            many = scores.expand(32, 3)
            loss = (
                straight_through(many, LOSS.expand(32, 3), COST.expand(32, 3), lam, 1.0, draws)
                if gumbel
                else soft_mixture(many, LOSS, COST, lam)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert int(scores.detach().argmax()) == best, (lam, scores)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"baseline_name": "uncertainty_threshold"}, "needs policy.baseline_uncertainty"),
        ({"baseline_threshold": 0.3}, "is a threshold of what"),
        ({"baseline_name": "random_policy_matched"}, "foveate value buckets"),
        ({"baseline_target_ratios": (0.5, 0.1, 0.1)}, "sum to 1"),
        ({"baseline_bucket_ratios": ((1, 0, 0), (0.5, 0, 0), (1, 0, 0))}, "sum to 1"),
        ({"baseline_bucket_thresholds": (0.3, 0.1)}, "two ascending entropies"),
        ({"baseline_pruning_ratio": 0.0}, r"share in \(0, 1\]"),
        ({"fallback_mode": "full"}, "needs policy.fallback_entropy_threshold"),
        ({"fallback_entropy_threshold": 0.5}, "policy.fallback_mode is not"),
        (
            {"fallback_mode": "coarse", "fallback_entropy_threshold": 1, "action_space": "binary"},
            "not among the actions",
        ),
        ({"lambda_cost": -1.0}, "at least 0"),
    ],
)
def test_contradictions_are_spelled_out(keys, said):
    with pytest.raises(FoveateError, match=said):
        HeadConfig(**keys)


def test_more_contradictions():
    with pytest.raises(FoveateError, match="val_fraction"):
        TrainingConfig(val_fraction=1.0)
    with pytest.raises(FoveateError, match="foveate train value"):
        make_rule(HeadConfig(baseline_name="string_lookup"))
