"""Counted against the formulas of `models/pi0/flops.py`, which another test holds against PyTorch's own counter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from foveate.bench.latency import observation
from foveate.bench.peak import Peak, largest
from foveate.bench.work import Work, count_work
from foveate.models.pi0.flops import gflops
from foveate.models.pi0.flops_test import TINY
from foveate.policy import Policy
from foveate.pruning import make_pruner
from foveate.training.policy import untrained


@pytest.fixture(params=[True, False], ids=["pi05", "pi0"])
def policy(request, monkeypatch) -> Policy:
    config = dataclasses.replace(TINY, pi05=request.param, views=("a", "b", "c"), vocab_size=1024, action_dim=8)
    monkeypatch.setitem(untrained.SIZES, "tiny", config)
    return untrained.untrained_policy("tiny")


@pytest.mark.parametrize("pruned", [False, True])
def test_what_is_computed_and_read_is_what_the_sizes_say(policy: Policy, pruned: bool) -> None:
    policy.pruner = make_pruner({"name": "random", "keep_tokens": 4}) if pruned else None
    seen, engine, model = observation(policy, 2, "go"), policy.engine, policy.engine.model
    text = int(policy.processor.inputs([seen]).token_masks.sum())
    tokens = 2 * (4 if pruned else 16) + text
    work = count_work(policy, seen)
    expected = gflops(model.config, views=2, tokens=tokens, num_steps=4)
    for stage in ("vision", "prefill", "denoise"):
        assert work[stage].flop / 1e9 == pytest.approx(expected[stage], rel=1e-12), stage
    assert policy.engine is engine  # as it was

    def size_of(parameter: torch.Tensor) -> int:
        return 4 * parameter.numel()

    def size(*modules: torch.nn.Module) -> int:
        return sum(size_of(p) for module in modules for p in module.parameters() if p.dim() > 1)

    assert work["vision"].working_set == size(model.vision, model.projector) - size_of(model.vision.position_embedding)
    keys_values = 2 * TINY.llm.num_kv_heads * TINY.llm.head_dim * TINY.llm.width * 4
    assert work["prefill"].working_set == size(*model.llm.layers[:-1]) + keys_values  # all that the last layer computes
    # Every step reads the expert's matrices and all keys and values; the modulations of all steps are one product.
    matrices = sum(size(layer.self_attn, layer.mlp) for layer in model.expert.layers)
    cached = 3 * (tokens + 5 + (not model.config.pi05)) * 2 * TINY.llm.num_kv_heads * TINY.llm.head_dim * 4
    assert work["denoise"].bytes > 4 * (matrices + cached)
    assert work["denoise"].bytes < 4 * (matrices + cached) + 4 * work["denoise"].working_set


def test_rates_and_floors_by_hand() -> None:
    """A product of 2e9 FLOP at 1e9 per second and one of 6e9 at 2e9: 2 + 3 seconds for 8e9."""
    work = Work(flop=9e9, bytes=3e6, weights={1: 1000})
    work.products[1000, 1000, 1000], work.products[1000, 1000, 3000] = 1, 1
    shapes = {(1000, 1000, 1000): 1e9, (1000, 1000, 3000): 2e9}
    peak = Peak(shapes, {1000: 1e6, 10**9: 5.0}, {shape: 4 * rate for shape, rate in shapes.items()})
    assert peak.flops == 2e9 and peak.rate(work) == pytest.approx(8e9 / 5)
    assert peak.rate(work, quantised=True) == pytest.approx(4 * 8e9 / 5)
    assert peak.read(work) == 3.0 and peak.floor(work) == 4.5
    work.bytes = 9e6
    assert peak.floor(work) == 9.0
    assert largest(work, covered=0.7) == [(1000, 1000, 3000)]
    assert largest(work, covered=0.8) == [(1000, 1000, 3000), (1000, 1000, 1000)]
