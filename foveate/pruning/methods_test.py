"""Every method on one tiny prefix. A new method is one line in CASES."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.pruning import (
    CONFIGS,
    DART,
    VLAADP,
    CDPruner,
    DepthDrop,
    DivPrune,
    Downsample,
    FastV,
    GridS,
    LightVLA,
    NoPruning,
    PrunerConfig,
    Random,
    SparseVLM,
    TopKNorm,
    UniformStride,
    VisionZip,
    VLAPruner,
    make_pruner,
)
from foveate.pruning.base import TokenPruner, centres
from foveate.pruning.downsample import pooled_grid
from foveate.pruning.uniform_stride import lattice
from foveate.testing.pruning import prune
from foveate.types import Prefix, Span, TokenLayout

CASES: dict[str, PrunerConfig] = {
    "none": NoPruning(),
    "random": Random(keep_ratio=0.25, seed=3),
    "random_tokens": Random(keep_tokens=5),
    "stride": UniformStride(keep_ratio=0.25),
    "topk_norm": TopKNorm(keep_ratio=0.25),
    "downsample": Downsample(keep_ratio=0.25),
    "grids": GridS(keep_tokens=4),
    "divprune": DivPrune(keep_ratio=0.25),
    "cdpruner": CDPruner(keep_ratio=0.25),
    "dart": DART(keep_ratio=0.5),
    "dart_tokens": DART(keep_tokens=3),
    "visionzip": VisionZip(keep_ratio=0.5),
    "fastv": FastV(keep_ratio=0.25),
    "sparsevlm": SparseVLM(keep_ratio=0.25),
    "vla_adp": VLAADP(keep_ratio=0.25, gate=False),
    "vla_pruner": VLAPruner(keep_ratio=0.25),
    "depth_drop": DepthDrop(keep_ratio=0.25),
    "lightvla": LightVLA(),
    "lightvla_joint": LightVLA(scope="joint", min_keep=9),
    "lightvla_ratio": LightVLA(keep_ratio=0.25),
    "lightvla_renumbered": LightVLA(keep_tokens=3, position_ids="renumbered"),
}
FIXED = {"random": 4, "random_tokens": 5, "stride": 4, "topk_norm": 4, "downsample": 4, "grids": 4, "lightvla_ratio": 4}
FIXED |= {"divprune": 4, "cdpruner": 4, "dart": 8, "dart_tokens": 3, "visionzip": 8}
FIXED |= {"fastv": 4, "sparsevlm": 4, "vla_adp": 4, "vla_pruner": 4, "depth_drop": 16}
"""Patches kept per view of 4 x 4, where the budget alone decides."""
MIXING = ("downsample", "grids", "visionzip", "sparsevlm")
"""Cases that change the tokens that they keep."""

LAYOUT = TokenLayout(
    (
        Span("corner", "image", 0, 16, (4, 4)),
        Span("wrist", "image", 16, 32, (4, 4)),
        Span("text", "text", 32, 38),
    )
)


def tiny_prefix(batch: int = 3, seed: int = 0, layout: TokenLayout = LAYOUT) -> Prefix:
    """Sample 1 has no wrist camera, sample 2 two padded text tokens; position ids skip what is masked."""
    embeds = torch.randn(batch, len(layout), 8, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(batch, len(layout), dtype=torch.bool)
    if batch > 1:
        mask[1, layout.images[1].start : layout.images[1].stop] = False
    if batch > 2:
        mask[2, -2:] = False
    return Prefix(embeds, mask, (mask.long().cumsum(-1) - 1).clamp_min(0), layout)


def rows(prefix: Prefix, index: slice) -> Prefix:
    return dataclasses.replace(
        prefix, embeds=prefix.embeds[index], mask=prefix.mask[index], position_ids=prefix.position_ids[index]
    )


def build(case: str) -> TokenPruner:
    pruner = make_pruner(CASES[case])
    assert pruner is not None
    torch.manual_seed(0)
    pruner.begin(8)
    return pruner


def attend(prefix: Prefix) -> torch.Tensor:
    """A tiny backbone: each sample's last real token attends to all, by content and position."""
    position = torch.sin(prefix.position_ids[..., None] * torch.arange(1, 9) / 7.0)
    tokens = prefix.embeds + position
    last = prefix.position_ids.masked_fill(~prefix.mask, -1).argmax(-1)
    query = tokens[torch.arange(len(tokens)), last]
    weight = torch.einsum("bd,bnd->bn", query, tokens).masked_fill(~prefix.mask, -torch.inf).softmax(-1)
    return torch.einsum("bn,bnd->bd", weight, tokens)


def test_every_method_of_the_registry_is_in_the_matrix():
    assert {type(config) for config in CASES.values()} == set(CONFIGS.values())


@pytest.mark.parametrize("case", CASES)
def test_evaluation_drops_exactly_what_the_keep_set_says(case):
    prefix = tiny_prefix()
    thin, keep = prune(build(case), prefix)
    patches = torch.as_tensor(LAYOUT.patch_index)
    valid = prefix.mask[:, patches]
    assert keep.layout is LAYOUT and thin.layout is LAYOUT
    assert keep.keep_mask.dtype == torch.bool and keep.keep_mask.shape == (3, 32)
    assert torch.equal(keep.valid, valid)
    assert not (keep.keep_mask & ~valid).any(), "an absent camera's patch was kept"
    assert keep.counts()[1] > 0 and keep.counts_per_view()["wrist"][1] == 0
    for sample in range(3):
        real = thin.mask[sample]
        expected = torch.cat([patches[keep.keep_mask[sample]], torch.arange(32, 38)[prefix.mask[sample, 32:]]])
        assert torch.equal(thin.source[sample, real], expected), "kept tokens in original order, text untouched"
        assert (thin.source[sample, ~real] == -1).all()
        text = thin.source[sample] >= 32
        assert torch.equal(thin.embeds[sample, text], prefix.embeds[sample, 32:][prefix.mask[sample, 32:]])
        if case in ("lightvla_renumbered", "grids"):
            positions = thin.position_ids[sample, real].tolist()
            assert (sorted(positions) if case == "grids" else positions) == list(range(int(real.sum())))
        else:
            assert torch.equal(thin.position_ids[sample, real], prefix.position_ids[sample, expected])
        if case not in MIXING:
            assert torch.equal(thin.embeds[sample, real], prefix.embeds[sample, expected])


@pytest.mark.parametrize(("case", "count"), FIXED.items())
def test_budget_is_kept_to_in_every_view(case, count):
    _, keep = prune(build(case), tiny_prefix())
    assert keep.counts_per_view()["corner"].tolist() == [count] * 3
    assert keep.counts_per_view()["wrist"].tolist() == [count, 0, count]


@pytest.mark.parametrize("case", CASES)
def test_a_batch_equals_its_samples(case):
    prefix = tiny_prefix()
    together, keep = prune(build(case), prefix)
    single = build(case)  # one pruner for all samples: `random` goes on in its stream
    for sample in range(3):
        alone, keep_alone = prune(single, rows(prefix, slice(sample, sample + 1)))
        assert torch.equal(keep.keep_mask[sample], keep_alone.keep_mask[0])
        real = together.mask[sample]
        torch.testing.assert_close(together.embeds[sample, real], alone.embeds[0, alone.mask[0]], rtol=0, atol=1e-6)
        assert torch.equal(together.position_ids[sample, real], alone.position_ids[0, alone.mask[0]])
        torch.testing.assert_close(attend(together)[sample], attend(alone)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_training_sees_what_evaluation_sees(case):
    pruner, prefix = build(case), tiny_prefix()
    if case.startswith("random"):  # a new draw per call: only the amount is alike
        counts = prune(pruner, prefix)[1].counts()
        assert torch.equal(prune(pruner.train(), prefix)[1].counts(), counts)
        return
    evaluated, keep = prune(pruner, prefix)
    trained, keep_train = prune(pruner.train(), prefix)
    assert torch.equal(keep.keep_mask, keep_train.keep_mask)
    torch.testing.assert_close(attend(trained), attend(evaluated), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_kept_token(case):
    prefix = tiny_prefix()
    leaf = prefix.embeds.clone().requires_grad_()
    trained, keep = prune(build(case).train(), dataclasses.replace(prefix, embeds=leaf))
    (attend(trained) ** 2).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[:, :32][keep.keep_mask].abs().sum(-1) > 0).all()
    assert (leaf.grad[1, 16:32] == 0).all(), "gradient into an absent camera"


@pytest.mark.parametrize("case", CASES)
def test_no_patches_to_prune_and_all_cameras_absent(case):
    prefix = tiny_prefix(batch=1)
    blind = dataclasses.replace(prefix, mask=prefix.mask & (torch.arange(38) >= 32))
    for mode in (True, False):
        thin, keep = prune(build(case).train(mode), blind)
        assert keep.counts().tolist() == [0]
        assert int(thin.mask.sum()) == 6
        assert torch.isfinite(thin.embeds).all()


@pytest.mark.parametrize("case", CASES)
def test_views_of_unequal_size(case):
    layout = TokenLayout(
        (Span("a", "image", 0, 16, (4, 4)), Span("b", "image", 16, 28, (3, 4)), Span("text", "text", 28, 33))
    )
    thin, keep = prune(build(case), tiny_prefix(layout=layout))
    kept = keep.counts_per_view()
    assert (kept["a"] > 0).all() or case == "lightvla_joint"
    assert kept["b"][1] == 0
    assert torch.equal(thin.mask.sum(-1), keep.counts() + torch.tensor([5, 5, 3]))


@pytest.mark.parametrize("case", CASES)
def test_an_already_packed_prefix_is_refused(case):
    thin, keep = prune(build(case), tiny_prefix())
    if build(case).late:  # it works on packed prefixes; what was dropped is not there any more
        assert not (prune(build(case), thin)[1].keep_mask & ~keep.keep_mask).any()
        return
    with pytest.raises(FoveateError, match="prune before packing"):
        prune(build(case), thin)


@pytest.mark.parametrize("case", CASES)
def test_stats_and_noise_scale(case):
    pruner = build(case)
    assert pruner.stats()["last_kept_per_sample"] is None
    pruner.set_noise_scale(0.5)
    _, keep = prune(pruner, tiny_prefix())
    stats = pruner.stats()
    assert stats == {
        "enabled": case != "none",
        "noise_scale": 0.5,
        "last_kept_per_sample": keep.counts().tolist(),
        "last_kept_per_view": {v: c.tolist() for v, c in keep.counts_per_view().items()},
    }
    prune(pruner.train(), tiny_prefix())
    assert (pruner.stats()["last_kept_per_sample"] is None) == case.startswith("lightvla")
    assert bool(list(pruner.parameters())) == (case == "grids")
    with pytest.raises(FoveateError, match="at least 0"):
        pruner.set_noise_scale(-1.0)
    for no_number in ("0.5", float("nan"), float("inf"), True, [0.5]):
        with pytest.raises(FoveateError, match="noise scale: expected a finite number of at least 0"):
            pruner.set_noise_scale(no_number)
    assert pruner.stats()["noise_scale"] == 0.5
    pruner.set_noise_scale(None)
    assert pruner.stats()["noise_scale"] is None


@pytest.mark.parametrize("case", CASES)
def test_inference_mode_first_then_training(case):
    """What is cached while serving must not break a later backward pass."""
    layout = TokenLayout((*LAYOUT.spans[:2], Span("instruction", "text", 32, 38)))
    prefix = tiny_prefix(layout=layout)
    with torch.inference_mode():
        prune(build(case), prefix)
    leaf = prefix.embeds.clone().requires_grad_()
    trained, _ = prune(build(case).train(), dataclasses.replace(prefix, embeds=leaf))
    trained.embeds.sum().backward()
    assert leaf.grad is not None


def test_random_is_seeded_in_evaluation_and_uniform():
    prefix = tiny_prefix(batch=1)
    first, second = make_pruner(Random(keep_ratio=0.25, seed=1)), make_pruner(Random(keep_ratio=0.25, seed=1))
    draws = [prune(first, prefix)[1].keep_mask for _ in range(400)]
    assert torch.equal(prune(second, prefix)[1].keep_mask, draws[0]) and not torch.equal(draws[0], draws[1])
    first.restart()
    assert torch.equal(prune(first, prefix)[1].keep_mask, draws[0])
    frequency = torch.cat(draws).float().mean(0)
    assert (frequency - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 400)
    other = make_pruner(Random(keep_ratio=0.25, seed=2))
    assert not torch.equal(prune(other, prefix)[1].keep_mask, draws[0])


def test_random_training_follows_torchs_generator():
    prefix, pruner = tiny_prefix(batch=1), make_pruner(Random(keep_ratio=0.25))
    pruner.train()
    torch.manual_seed(5)
    first, second = prune(pruner, prefix)[1].keep_mask, prune(pruner, prefix)[1].keep_mask
    torch.manual_seed(5)
    assert torch.equal(prune(pruner, prefix)[1].keep_mask, first) and not torch.equal(first, second)


def test_topk_norm_takes_the_largest_and_of_equals_the_first():
    prefix = tiny_prefix(batch=1)
    embeds = torch.zeros_like(prefix.embeds)
    embeds[0, [3, 7, 9, 20], 0] = torch.tensor([2.0, -5.0, 2.0, 1.0])
    _, keep = prune(make_pruner(TopKNorm(keep_tokens=2)), dataclasses.replace(prefix, embeds=embeds))
    assert keep.indices()[0].tolist() == [3, 7, 16, 20]
    assert keep.scores[0, [3, 7, 9, 20]].tolist() == [2.0, 5.0, 2.0, 1.0]


def test_downsample_pools_cells_at_their_centres():
    prefix = tiny_prefix(batch=1)
    thin, keep = prune(make_pruner(Downsample(keep_ratio=0.25)), prefix)
    assert keep.indices()[0].tolist() == [0, 2, 8, 10, 16, 18, 24, 26]
    cell = prefix.embeds[0, [2, 3, 6, 7]].mean(0)
    torch.testing.assert_close(thin.embeds[0, 1], cell)


@pytest.mark.parametrize(
    ("grid", "count", "pooled"),
    [
        ((8, 8), 16, (4, 4)),
        ((8, 8), 8, (2, 4)),
        ((8, 8), 7, (2, 3)),
        ((8, 8), 1, (1, 1)),
        ((8, 8), 64, (8, 8)),
        ((16, 16), 26, (5, 5)),
        ((4, 8), 8, (2, 4)),
        ((1, 12), 3, (1, 3)),
    ],
)
def test_pooled_grid(grid, count, pooled):
    assert pooled_grid(grid, count) == pooled


def test_lattice_is_exact_and_even():
    assert lattice((4, 4), 4) == [0, 2, 8, 10]
    assert lattice((8, 8), 16) == [8 * r + c for r in (0, 2, 4, 6) for c in (0, 2, 4, 6)]
    for grid in ((8, 8), (16, 16), (3, 7), (1, 9), (9, 1)):
        for count in range(1, grid[0] * grid[1] + 1):
            cells = lattice(grid, count)
            assert len(set(cells)) == count and cells == sorted(cells) and cells[0] >= 0 and cells[-1] < math.prod(grid)
    assert centres(2, 5) == [1, 3] and centres(1, 4) == [1] and centres(3, 3) == [0, 1, 2]


def test_make_pruner_names_configs_and_mappings():
    assert make_pruner(None) is None
    assert make_pruner("lightvla").config == LightVLA()
    assert make_pruner({"name": "random", "keep_ratio": 0.5}).config == Random(keep_ratio=0.5)
    assert make_pruner(Random(keep_ratio=0.5)).training is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LightVLA(keep_ratio=0.5, keep_tokens=3), "both set"),
        (lambda: Random(keep_ratio=0.5, keep_tokens=3), "both set"),
        (lambda: LightVLA(keep_ratio=0.0), r"\(0, 1\]"),
        (lambda: UniformStride(keep_ratio=1.5), r"\(0, 1\]"),
        (lambda: TopKNorm(keep_ratio=float("nan")), r"\(0, 1\]"),
        (lambda: Downsample(keep_tokens=0), "at least 1"),
        (lambda: Random(), "no budget"),
        (lambda: LightVLA(min_keep=-1), "min_keep"),
        (lambda: LightVLA(min_keep=5, keep_tokens=4), "more than keep_tokens"),
        (lambda: make_pruner({"name": "lightvla", "scope": "views"}), "'view', 'joint'"),
        (lambda: make_pruner({"name": "lightvla", "train_form": "dedup"}), "'paper', 'deduplicated'"),
        (lambda: make_pruner("lightvlaa"), "did you mean 'lightvla'"),
        (lambda: make_pruner({"name": "stride", "ratio": 0.5}), "options: keep_ratio, keep_tokens"),
        (lambda: make_pruner({"keep_ratio": 0.5}), "'name'"),
        (lambda: make_pruner(3), "expected a config"),  # type: ignore[arg-type]
    ],
)
def test_contradictions_are_spelled_out(make, message):
    with pytest.raises(FoveateError, match=message):
        make()


def test_ratio_is_rounded_up_and_not_by_binary_noise():
    assert [Random(keep_ratio=r).of(n) for r, n in ((0.125, 64), (0.07, 100), (0.1, 16), (0.01, 16), (1.0, 7))] == [
        8,
        7,
        2,
        1,
        7,
    ]
    assert Random(keep_tokens=20).of(16) == 16
    assert np.all([Random(keep_ratio=k / 256).of(256) == k for k in range(1, 257)])
