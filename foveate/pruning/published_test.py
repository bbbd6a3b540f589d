"""What published methods mean where their code departs from it: budgets, ties, zeros, rows and views apart."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from foveate.errors import FoveateError
from foveate.pruning import DART, CDPruner, DivPrune, VisionZip, make_pruner
from foveate.pruning.methods_test import LAYOUT, tiny_prefix
from foveate.testing.pruning import inside_of, prune
from foveate.types import Prefix, Span, TokenLayout

METHODS = {"divprune": DivPrune, "cdpruner": CDPruner, "dart": DART, "visionzip": VisionZip}


def with_patches(prefix: Prefix, patches: torch.Tensor) -> Prefix:
    embeds = prefix.embeds.clone()
    embeds[:, : patches.shape[-2]] = patches
    return dataclasses.replace(prefix, embeds=embeds)


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 15, 16, 40])
@pytest.mark.parametrize("method", METHODS)
def test_the_budget_is_met_exactly_whatever_the_patches(method: str, budget: int) -> None:
    """Also of equal, zero and repeated patches, where published code repeats indices or yields NaN."""
    prefix = tiny_prefix()
    repeated = prefix.embeds[:, :4].repeat(1, 8, 1)
    for patches in (prefix.embeds[:, :32], torch.zeros(3, 32, 8), torch.ones(3, 32, 8), repeated):
        thin, keep = prune(make_pruner(METHODS[method](keep_tokens=budget)), with_patches(prefix, patches))
        left = min(budget, 16)
        assert keep.counts_per_view()["corner"].tolist() == [left] * 3
        assert keep.counts_per_view()["wrist"].tolist() == [left, 0, left]
        assert torch.isfinite(thin.embeds).all()
        assert keep.scores is None or torch.isfinite(keep.scores).all()


@pytest.mark.parametrize("method", METHODS)
def test_views_and_rows_do_not_touch_each_other(method: str) -> None:
    prefix, pruner = tiny_prefix(), make_pruner(METHODS[method](keep_ratio=0.5))
    other = prefix.embeds.clone()
    generator = torch.Generator().manual_seed(5)
    other[:, 16:32] = 9 * torch.randn(3, 16, 8, generator=generator)  # the other view
    other[1:] = 9 * torch.randn(2, 38, 8, generator=generator)  # the other rows
    before, after = (prune(pruner, dataclasses.replace(prefix, embeds=e))[1].keep_mask for e in (prefix.embeds, other))
    assert torch.equal(before[0, :16], after[0, :16]) and not torch.equal(before[1, :16], after[1, :16])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reference", [False, True])
def test_ties_go_to_the_first_patch(method: str, reference: bool) -> None:
    prefix = with_patches(tiny_prefix(batch=1), torch.ones(1, 32, 8))
    if method == "cdpruner" and reference:
        return  # every gain is NaN there
    keep = prune(make_pruner(METHODS[method](keep_tokens=8, reference=reference)), prefix)[1]
    assert keep.indices()[0][0] == 0


def test_divprune_is_the_best_of_a_greedy_search() -> None:
    """Against plain loops in float64; two to one of the best subset of all (Ravi et al. 1994)."""
    prefix = tiny_prefix(batch=1)
    unit = torch.nn.functional.normalize(prefix.embeds[0, :16].double(), dim=-1)
    apart = 1 - unit @ unit.T
    for count in (2, 3, 5):
        nearest = [min(apart[i, j].item() for j in range(16) if j != i) for i in range(16)]
        chosen = [max(range(16), key=lambda i: nearest[i])]
        while len(chosen) < count:
            rest = [i for i in range(16) if i not in chosen]
            chosen.append(max(rest, key=lambda i: min(apart[i, j].item() for j in chosen)))
        keep = prune(make_pruner(DivPrune(keep_tokens=count)), prefix)[1].keep_mask[0, :16]
        assert keep.nonzero().flatten().tolist() == sorted(chosen)


def test_cdpruner_maximises_the_determinant_greedily() -> None:
    prefix, pruner = tiny_prefix(batch=1), make_pruner(CDPruner(keep_tokens=4))
    keep = prune(pruner, prefix)[1]
    unit = torch.nn.functional.normalize(prefix.embeds[0, :16].double(), dim=-1)
    words = torch.nn.functional.normalize(prefix.embeds[0, 32:].double(), dim=-1)
    near = (unit @ words.T).mean(-1)
    relevance = (near - near.min()) / (near.max() - near.min())
    torch.testing.assert_close(keep.scores[0, :16].double(), relevance, rtol=0, atol=1e-5)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    chosen: list[int] = []
    while len(chosen) < 4:
        rest = [i for i in range(16) if i not in chosen]
        chosen.append(max(rest, key=lambda i: torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]).item()))
    assert keep.keep_mask[0, :16].nonzero().flatten().tolist() == sorted(chosen)


def test_cdpruner_needs_words() -> None:
    layout = TokenLayout(LAYOUT.spans[:2])
    with pytest.raises(FoveateError, match=r"needs text behind the pictures.*divprune"):
        prune(make_pruner(CDPruner(keep_ratio=0.5)), tiny_prefix(layout=layout))


def test_dart_shares_what_the_pivots_leave_evenly() -> None:
    """By hand: two image pivots, one word; the budget of six leaves four, and the first pivot takes one more."""
    prefix = tiny_prefix(batch=1)
    config = DART(keep_tokens=6, image_pivots=2, text_pivots=1)
    keep = prune(make_pruner(config), prefix)[1].keep_mask[0, :16]
    x = prefix.embeds[0].double()
    strength = x.abs().sum(-1)
    pivots = strength[:16].argsort(descending=True)[:2].tolist()
    word = 32 + int(strength[32:].argmax())
    kept = set(pivots)
    for pivot, count in zip([*pivots, word], (2, 1, 1), strict=True):
        free = [i for i in range(16) if i not in kept]
        like = {i: torch.nn.functional.cosine_similarity(x[i], x[pivot], dim=0).item() for i in free}
        kept |= set(sorted(free, key=lambda i: like[i])[:count])
    assert keep.nonzero().flatten().tolist() == sorted(kept)


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(80, 0.1, 4), (80, 0.2, 12), (64, 0.25, 20), (64, 0.05, 4)])
def test_dart_counts_as_published(patches: int, ratio: float, kept: int) -> None:
    """int(P (1 - reduction) / 8) in binary numbers: 80 patches less 90 % leave 7.999..., and no pivot picks."""
    assert kept == 4 + 8 * int(patches * (1 - round(1 - ratio, 6)) / 8)
    layout = TokenLayout((Span("image", "image", 0, patches), Span("text", "text", patches, patches + 6)))
    keep = prune(make_pruner(DART(keep_ratio=ratio, reference=True)), tiny_prefix(batch=1, layout=layout))[1]
    assert keep.counts().tolist() == [kept]


def test_visionzip_loses_nothing_that_it_merges() -> None:
    """Weighted by how many patches a token stands for, the merged tokens have the mean of the patches they took in."""
    prefix = tiny_prefix(batch=1)
    thin, keep = prune(make_pruner(VisionZip(keep_tokens=6, contextual=0.5)), prefix)
    sources, kept = keep.sources[0, :16], keep.indices()[0]
    assert keep.keep_mask[0, :16].sum() == 6 and (sources >= 0).sum() == 10
    total = prefix.embeds[0, :16].sum(0)
    stands_for = torch.ones(16) + torch.zeros(16).index_add(0, sources[sources >= 0], torch.ones(10))
    place = {int(p): i for i, p in enumerate(kept.tolist())}
    ours = sum(thin.embeds[0, place[int(p)]] * stands_for[int(p)] for p in kept[kept < 16])
    torch.testing.assert_close(ours, total, rtol=0, atol=1e-5)
    dominant = prefix.embeds[0, :16].norm(dim=-1).argsort(descending=True)[:3]
    assert keep.keep_mask[0, dominant].all() and set(sources[sources >= 0].tolist()).isdisjoint(dominant.tolist())


@pytest.mark.parametrize(
    ("method", "match"), [("visionzip", "attention of the vision tower"), ("dart", "needs the keys")]
)
def test_a_method_that_needs_attention_says_so_where_there_is_none(method: str, match: str) -> None:
    options = {"layer": 0} if method == "dart" else {}
    pruner = METHODS[method](keep_ratio=0.5, **options).build()
    with pytest.raises(FoveateError, match=match):
        pruner.select(tiny_prefix())


def test_dart_behind_a_layer_reads_a_packed_prefix() -> None:
    """The same choice, packed or not: where patches stand is asked of the prefix."""
    from foveate.models.base import pack

    whole, pruner = tiny_prefix(), make_pruner(DART(keep_ratio=0.5, layer=0))
    for prefix, other in itertools.pairwise((whole, pack(whole))):
        first, second = (pruner.select(p, inside=inside_of(p)).keep for p in (prefix, other))
        assert torch.equal(first.keep_mask, second.keep_mask) and torch.equal(first.valid, second.valid)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DivPrune(), "no budget"),
        (lambda: DART(keep_ratio=0.5, image_pivots=0), "at least 1 image pivot"),
        (lambda: VisionZip(keep_ratio=0.5, contextual=1.0), r"\[0, 1\)"),
    ],
)
def test_contradictions_are_spelled_out(make, message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        make()
