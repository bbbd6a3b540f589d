"""Pruning inside the real classes: which tokens stay, how many, and what the language model then reads."""

from __future__ import annotations

import math

import pytest
import torch

from foveate.models.vlm.backbone import Backbone
from foveate.models.vlm.families import VisionFeatures
from foveate.models.vlm.model import _seed
from foveate.pruning import make_pruner
from foveate.pruning.base import centres
from foveate.pruning.downsample import pooled_grid
from foveate.testing.vlm import samples, tiny_vlm

METHODS = ("lightvla", "downsample", "stride", "topk_norm", "random", "divprune", "cdpruner", "dart")


def opened(kind, count=2):
    """A model, questions about pictures of one shape, and the parts that pruning works on."""
    vlm = tiny_vlm(kind)
    some = [s for i, s in enumerate(samples(3 * count)) if i % 3 != 2][:count]
    images = [vlm.image(sample, "FULL") for sample in some]
    prompts = [vlm.prompts.prompt(sample) for sample in some]
    with torch.no_grad():
        features = vlm.backbone.encode(images)
    return vlm, some, images, prompts, features


def pruned(vlm, images, prompts, features, **keys):
    seeds = torch.arange(len(images))
    return vlm.backbone.prune(make_pruner(keys).eval(), prompts, images[0], features, seeds)


@pytest.mark.parametrize("kind", ["qwen3_vl", "llava"])
@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.25])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_left_is_the_budget(kind, method, ratio):
    vlm, some, images, *_ = opened(kind)
    answers = vlm.answer(some, "FULL", pruner=make_pruner({"name": method, "keep_ratio": ratio}).eval())
    whole = images[0].tokens
    expected = math.ceil(whole * ratio)
    if method == "downsample":
        expected = math.prod(pooled_grid(images[0].grid or (1, whole), expected))
    assert [a.remaining_vision_tokens for a in answers] == [expected] * len(some)
    assert [a.vision_tokens for a in answers] == [whole] * len(some)


@pytest.mark.parametrize("kind", ["qwen3_vl", "llava"])
def test_lightvla_keeps_what_the_question_asks_for(kind):
    vlm, _, images, prompts, features = opened(kind)
    keep, left = pruned(vlm, images, prompts, features, name="lightvla", keep_ratio=0.25)
    table = vlm.backbone.base.get_input_embeddings().weight

    def unit(rows):
        rows = [row.tolist() if isinstance(row, torch.Tensor) else row for row in rows]
        return [[x / math.sqrt(sum(y * y for y in row) / len(row) + 1e-6) for x in row] for row in rows]

    for i, prompt in enumerate(prompts):
        patches, words = unit(features.tokens[i]), unit(table.detach()[list(prompt.text)])
        width, best = len(patches[0]), [-math.inf] * len(patches)
        queries = []
        for patch in patches:
            weights = [math.exp(sum(a * b for a, b in zip(patch, w, strict=True)) / math.sqrt(width)) for w in words]
            mean = [sum(v * w[d] for v, w in zip(weights, words, strict=True)) / sum(weights) for d in range(width)]
            queries.append(mean)
        for query in unit(queries):
            for j, patch in enumerate(patches):
                best[j] = max(best[j], sum(a * b for a, b in zip(query, patch, strict=True)) / math.sqrt(width))
        chosen = sorted(sorted(range(len(best)), key=lambda j: -best[j])[: math.ceil(len(best) / 4)])
        assert keep[i].nonzero().flatten().tolist() == chosen
    assert torch.equal(left.tokens, features.tokens), "patches are chosen, not changed"


def test_lightvla_asks_with_the_question():
    vlm, some, images, prompts, features = opened("qwen3_vl")
    same = VisionFeatures(features.tokens[:1].expand(2, -1, -1), features.deep)
    keep, _ = pruned(vlm, images, prompts, same, name="lightvla", keep_ratio=0.5)
    assert some[0].question != some[1].question and not torch.equal(keep[0], keep[1])


def test_pool_averages_the_cells_it_stands_for_in_every_layer():
    vlm, _, images, prompts, features = opened("qwen3_vl")
    keep, left = pruned(vlm, images, prompts, features, name="downsample", keep_ratio=0.5)
    (height, width), (rows, columns) = images[0].grid, pooled_grid(images[0].grid, 8)
    assert (height, width, rows, columns) == (4, 4, 2, 4)
    assert len(features.deep) > 0
    for before, after in ((features.tokens, left.tokens), *zip(features.deep, left.deep, strict=True)):
        for r, row in enumerate(centres(rows, height)):
            for c, column in enumerate(centres(columns, width)):
                place = row * width + column
                cell = [y * width + x for y in (2 * r, 2 * r + 1) for x in (c,)]
                assert keep[:, place].all()
                assert torch.allclose(after[:, place], before[:, cell].mean(1), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_answers_equal_a_prompt_that_holds_the_kept_tokens_alone(method):
    """The reference lays the embeddings, positions and deep features of what is left out by hand."""
    vlm, some, images, prompts, features = opened("qwen3_vl")
    keys = {"name": method, "keep_ratio": 0.5}
    backbone: Backbone = vlm.backbone
    pruner = make_pruner(keys).eval()
    seeds = torch.tensor([_seed(sample.id) for sample in some])
    keep, left = backbone.prune(pruner, prompts, images[0], features, seeds)
    answers = vlm.answer(some, "FULL", pruner=pruner)
    for i, prompt in enumerate(prompts):
        full = backbone.rows([prompt], [images[i]], None)[0]
        stays = (full.slot < 0) | keep[i][full.slot.clamp_min(0)]
        seen = full.slot[stays] >= 0
        embeds = backbone.embed(full.ids[stays])[None].clone()
        embeds[0, seen] = left.tokens[i][keep[i]]
        with torch.no_grad():
            hidden = backbone.decode(
                embeds,
                torch.ones(1, int(stays.sum()), dtype=torch.bool),
                full.positions[:, stays][:, None],
                None,
                visual_pos_masks=seen[None],
                deepstack_visual_embeds=[layer[i][keep[i]] for layer in left.deep],
            )
            chances = backbone.head(hidden[:, -1]).softmax(-1)[0]
        entropy = -(chances * chances.clamp_min(1e-30).log()).sum().item()
        assert answers[i].entropy == pytest.approx(entropy, abs=1e-4)
