"""LightVLA against float64 formulas: scores, choice, what training sees and learns from."""

import dataclasses
import math

import pytest
import torch

from foveate.errors import FoveateError
from foveate.pruning.lightvla import LightVLA, LightVLAPruner
from foveate.pruning.methods_test import LAYOUT, attend, tiny_prefix
from foveate.testing.pruning import prune
from foveate.types import Span, TokenLayout


def pruner(**options) -> LightVLAPruner:
    return LightVLAPruner(LightVLA(**options)).eval()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error as a share of the largest value: gradients of zero tokens are in the hundreds."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1))


# ---- choice -----------------------------------------------------------------------------------------


def reference_score(patches: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
    """The formula, [K, D] and [T, D] -> [K, K], in the inputs' own type, without fused kernels."""

    def rms(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    patches, task = rms(patches), rms(task)
    scale = 1 / math.sqrt(patches.shape[-1])
    queries = rms((patches @ task.T * scale).softmax(-1) @ task)
    return queries @ patches.T * scale


def test_score_of_each_view_by_the_formula():
    prefix = tiny_prefix()
    _, keep = prune(pruner(store_raw_score=True), prefix)
    for sample in range(3):
        task = prefix.embeds[sample, 32:][prefix.mask[sample, 32:]].double()
        for view, span in LAYOUT.view_slices.items():
            if sample == 1 and view == "wrist":
                assert (keep.raw_score[sample, span] == -torch.inf).all()
                continue
            expected = reference_score(prefix.embeds[sample, span].double(), task)
            torch.testing.assert_close(keep.raw_score[sample, span, span].double(), expected, rtol=0, atol=1e-5)
            assert (
                sorted(set(expected.argmax(-1).tolist())) == keep.keep_mask[sample, span].nonzero().flatten().tolist()
            )
    assert (keep.raw_score[0, :16, 16:] == -torch.inf).all(), "views do not compete"


def test_joint_scope_ignores_absent_cameras():
    prefix = tiny_prefix()
    _, keep = prune(pruner(scope="joint", store_raw_score=True), prefix)
    expected = reference_score(prefix.embeds[1, :16].double(), prefix.embeds[1, 32:].double())
    torch.testing.assert_close(keep.raw_score[1, :16, :16].double(), expected, rtol=0, atol=1e-5)
    assert keep.keep_mask[1].nonzero().flatten().tolist() == sorted(set(expected.argmax(-1).tolist()))


def test_budget_ranks_by_the_largest_score_any_query_gives():
    prefix = tiny_prefix()
    _, keep = prune(pruner(keep_ratio=0.3), prefix)
    assert keep.counts_per_view()["corner"].tolist() == [5, 5, 5]
    best = keep.scores[0, :16]
    assert keep.keep_mask[0, :16].nonzero().flatten().tolist() == sorted(best.topk(5).indices.tolist())
    _, joint = prune(pruner(scope="joint", keep_ratio=0.3), prefix)
    assert joint.counts().tolist() == [10, 5, 10], "a share of the patches that are there"
    _, total = prune(pruner(scope="joint", keep_tokens=7), prefix)
    assert total.counts().tolist() == [7, 7, 7]


def test_min_keep_adds_to_what_is_asked_for():
    prefix = tiny_prefix()
    _, asked = prune(pruner(), prefix)
    _, topped = prune(pruner(min_keep=13), prefix)
    assert (topped.keep_mask | ~asked.keep_mask).all()
    assert topped.counts_per_view()["corner"].tolist() == [
        max(13, n) for n in asked.counts_per_view()["corner"].tolist()
    ]
    assert topped.counts_per_view()["wrist"][1] == 0
    added = topped.keep_mask[0, :16] & ~asked.keep_mask[0, :16]
    left = ~topped.keep_mask[0, :16]
    assert keep_scores(topped, added).min() >= keep_scores(topped, left).max()
    _, floor = prune(pruner(keep_ratio=0.1, min_keep=4), prefix)
    assert floor.counts_per_view()["corner"].tolist() == [4, 4, 4]


def keep_scores(keep, which):
    return keep.scores[0, :16][which]


def test_ties_go_to_the_first_patch():
    prefix = tiny_prefix(batch=1)
    embeds = prefix.embeds.clone()
    embeds[:, :16] = embeds[:, :1]
    equal = dataclasses.replace(prefix, embeds=embeds)
    assert prune(pruner(), equal)[1].indices()[0][0] == 0
    assert prune(pruner(), equal)[1].counts_per_view()["corner"].tolist() == [1]
    assert prune(pruner(keep_tokens=3), equal)[1].indices()[0][:3].tolist() == [0, 1, 2]


def test_what_the_queries_are_made_from():
    spans = (*LAYOUT.spans, Span("state", "state", 38, 40), Span("action", "action", 40, 43))
    prefix = tiny_prefix(batch=1, layout=TokenLayout(spans))
    extra = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(9))
    for queries, seen in (("text", 38), ("text+state", 40), ("text+state+action", 43)):
        _, keep = prune(pruner(queries=queries, store_raw_score=True), prefix, queries=extra)
        task = prefix.embeds[0, 32:seen]
        task = task if queries == "text" else torch.cat([task, extra[0]])
        expected = reference_score(prefix.embeds[0, :16].double(), task.double())
        torch.testing.assert_close(keep.raw_score[0, :16, :16].double(), expected, rtol=0, atol=1e-5)
        assert pruner(queries=queries).queries == queries


def test_no_text_is_an_error_and_empty_text_is_finite():
    layout = TokenLayout(LAYOUT.spans[:2])
    with pytest.raises(FoveateError, match="need text after the images"):
        prune(pruner(), tiny_prefix(batch=1, layout=layout))
    prefix = tiny_prefix(batch=1)
    silent = dataclasses.replace(prefix, mask=prefix.mask & (torch.arange(38) < 32))
    thin, keep = prune(pruner(keep_tokens=2), silent)
    assert keep.indices()[0].tolist() == [0, 1, 16, 17] and torch.isfinite(thin.embeds).all()


def test_score_stats_only_when_asked_for():
    prefix, asked = tiny_prefix(), pruner(store_raw_score=True)
    assert prune(asked, prefix)[1].score_stats is None
    _, keep = prune(asked, prefix, evidence="scores")
    raw = keep.raw_score[0, :16, :16].double()
    torch.testing.assert_close(keep.score_stats["max_per_query"][0, :16], raw.amax(-1).float(), rtol=0, atol=1e-6)
    entropy = torch.distributions.Categorical(logits=raw).entropy().float()
    torch.testing.assert_close(keep.score_stats["entropy_per_query"][0, :16], entropy, rtol=0, atol=1e-5)
    assert all(v.shape == (3, 32) and torch.isfinite(v).all() for v in keep.score_stats.values())
    assert not keep.score_stats["tied_per_query"].any()
    traced = pruner()
    assert prune(traced, prefix)[1].raw_score is None
    assert torch.equal(prune(traced, prefix, evidence="matrix")[1].raw_score, keep.raw_score)
    same = dataclasses.replace(prefix, embeds=torch.ones_like(prefix.embeds))
    assert prune(asked, same, evidence="scores")[1].score_stats["tied_per_query"][0].all()


def test_bfloat16_embeddings_and_autocast_score_in_float32():
    prefix = tiny_prefix()
    rounded = dataclasses.replace(prefix, embeds=prefix.embeds.bfloat16())
    _, expected = prune(pruner(store_raw_score=True), dataclasses.replace(prefix, embeds=rounded.embeds.float()))
    for form in ("paper", "deduplicated"):
        low = pruner(store_raw_score=True, train_form=form)
        thin, keep = prune(low, rounded)
        trained, _ = prune(low.train(), rounded)
        assert torch.equal(keep.raw_score, expected.raw_score)
        assert thin.embeds.dtype == trained.embeds.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            trained, keep = prune(low, prefix)
        assert trained.embeds.dtype == torch.float32
        torch.testing.assert_close(
            keep.raw_score, prune(pruner(store_raw_score=True), prefix)[1].raw_score, rtol=0, atol=0
        )


# ---- training ---------------------------------------------------------------------------------------


def test_paper_form_keeps_the_length_and_repeats_patches():
    prefix = tiny_prefix()
    out, keep = prune(pruner(train_form="paper").train(), prefix)
    assert out.embeds.shape == prefix.embeds.shape and torch.equal(out.mask, prefix.mask) and out.source is None
    slots = {tuple(p.tolist()) for p in out.embeds[0, :16].round(decimals=3)}
    assert len(slots) == keep.counts_per_view()["corner"][0]
    kept = set(prefix.position_ids[0, :16][keep.keep_mask[0, :16]].tolist())
    assert set(out.position_ids[0, :16].tolist()) == kept


def test_limits_may_act_in_evaluation_alone():
    prefix = tiny_prefix()
    free, limited = pruner(), pruner(keep_tokens=2, min_keep=1, budget_in_training=False)
    kept = [p.train().select(prefix).keep.keep_mask for p in (free, limited)]
    assert torch.equal(*kept)
    assert limited.eval().select(prefix).keep.counts_per_view()["corner"].tolist() == [2, 2, 2]
    assert pruner(keep_tokens=2).train().select(prefix).keep.counts_per_view()["corner"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("options", [{"keep_tokens": 2}, {"scope": "joint", "keep_ratio": 0.2}, {"min_keep": 12}])
def test_paper_form_chooses_within_the_budget(options):
    prefix = tiny_prefix()
    out, keep = prune(pruner(train_form="paper", **options).train(), prefix)
    kept = set(prefix.position_ids[0, :32][keep.keep_mask[0]].tolist())
    assert set(out.position_ids[0, :32].tolist()) <= kept
    renumbered, _ = prune(pruner(train_form="paper", position_ids="renumbered", **options).train(), prefix)
    assert int(renumbered.position_ids[0, :32].max()) < int(keep.counts()[0])


@pytest.mark.parametrize("position_ids", ["original", "renumbered"])
@pytest.mark.parametrize("scope", ["view", "joint"])
@pytest.mark.parametrize("budget", [{}, {"min_keep": 6}, {"min_keep": 13}, {"keep_tokens": 5}, {"keep_ratio": 0.4}])
def test_deduplicated_forward_is_evaluations_to_the_bit(budget, scope, position_ids):
    prefix = tiny_prefix()
    model = pruner(scope=scope, position_ids=position_ids, **budget)
    evaluated, keep = prune(model, prefix)
    trained, keep_train = prune(model.train(), prefix)
    assert torch.equal(keep.keep_mask, keep_train.keep_mask) and trained.embeds.shape == prefix.embeds.shape
    for sample in range(3):
        seen, real = trained.mask[sample], evaluated.mask[sample]
        assert torch.equal(trained.embeds[sample, seen], evaluated.embeds[sample, real])
        assert torch.equal(trained.position_ids[sample, seen], evaluated.position_ids[sample, real])
    torch.testing.assert_close(attend(trained), attend(evaluated), rtol=0, atol=1e-6)


def surrogate(embeds, span, choice, task_mask, raw, weight):
    """What the deduplicated form differentiates, in float64: the choice, the raw patches V and dL/dV' are held fixed.

    F = sum_j weight_j . (patch_j + mean over the queries i of choice j of softmax(score_i) V)
    """
    soft = reference_score(embeds[span], embeds[32:][task_mask]).softmax(-1)
    return sum((weight[j] * (embeds[span][j] + soft[rows].mean(0) @ raw)).sum() for j, rows in choice.items())


@pytest.mark.parametrize("budget", [{}, {"keep_tokens": 5}, {"min_keep": 13}])
def test_deduplicated_gradient_against_finite_differences(budget):
    """dL/d tokens by autograd in float32, and by central differences of the soft surrogate in float64."""
    prefix = tiny_prefix()
    sample, span = 2, slice(0, 16)  # the sample with padded text
    leaf = prefix.embeds.clone().requires_grad_()
    model = pruner(store_raw_score=True, **budget).train()
    out, keep = prune(model, dataclasses.replace(prefix, embeds=leaf))
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((out.embeds[sample, span] * weight * out.mask[sample, span, None]).sum(), leaf)

    score, kept = keep.raw_score[sample, span, span], keep.keep_mask[sample, span]
    favourite = score.masked_fill(~kept, -torch.inf).argmax(-1)
    choice = {}
    for j in kept.nonzero().flatten().tolist():
        voters = (favourite == j).nonzero().flatten().tolist()
        choice[j] = voters or [int(score[:, j].argmax())]
    embeds, mask = prefix.embeds[sample].double(), prefix.mask[sample, 32:]
    step, generator = 1e-5, torch.Generator().manual_seed(8)
    for _ in range(12):
        direction = torch.randn(embeds.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (
            surrogate(embeds + sign * step * direction, span, choice, mask, embeds[span], weight) for sign in (1, -1)
        )
        expected = float((ahead - behind) / (2 * step))
        got = float((gradient[sample].double() * direction).sum())
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_deduplicated_reduces_to_the_mean_of_straight_through_rows():
    """V'_j = mean of (W V)_i over the queries i that chose j, gradients included, by the issue's own words."""
    prefix = tiny_prefix(batch=1)
    leaf = prefix.embeds.clone().requires_grad_()
    out, keep = prune(pruner(store_raw_score=True).train(), dataclasses.replace(prefix, embeds=leaf))
    other = prefix.embeds.clone().requires_grad_()
    patches = other[0, :16]
    score = reference_score(patches, other[0, 32:])
    hard, soft = torch.nn.functional.one_hot(score.argmax(-1), 16).float(), score.softmax(-1)
    slots = (hard + soft - soft.detach()) @ patches
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    literal = sum((weight[j] * slots[score.argmax(-1) == j].mean(0)).sum() for j in set(score.argmax(-1).tolist()))
    ours = (out.embeds[0, :16] * weight)[keep.keep_mask[0, :16]].sum()
    torch.testing.assert_close(ours, literal, rtol=0, atol=1e-5)
    (got,), (expected,) = torch.autograd.grad(ours, leaf), torch.autograd.grad(literal, other)
    assert relative(got, expected) < 1e-5
    assert (got[0, 32:].abs().sum(-1) > 0).all(), "the instruction is learnt from"


def test_noise_explores_in_training():
    prefix = tiny_prefix(batch=1)
    model = pruner().train()
    model.set_noise_scale(5.0)
    torch.manual_seed(0)
    kept = {tuple(prune(model, prefix)[1].indices()[0].tolist()) for _ in range(5)}
    assert len(kept) > 1
    model.set_noise_scale(0.0)
    assert torch.equal(prune(model, prefix)[1].keep_mask, prune(model.eval(), prefix)[1].keep_mask)
