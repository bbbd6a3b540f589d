"""Captured parts behind a stand-in for a CUDA graph: the same actions, own memory, nothing captured on the way.

The stand-in computes what was captured once more and writes it where it wrote it first, as a graph does. What only a
GPU can show (that a capture is allowed, what it saves) is left to benchmarks/gpu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.engine import registry
from foveate.engine.config import Compiled
from foveate.engine.graphs import CapturedParts, Replay
from foveate.engine.parts import tensors_of
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine, first_sample
from foveate.engine.staged_test import EveryOther, three_samples
from foveate.errors import FoveateError
from foveate.models.pi0 import model_test as pi0
from foveate.pruning import make_pruner

CAPTURED = dict.fromkeys(("vision", "prefill", "denoise"), "cuda_graph")


def recorded(function: Callable[[], Any]) -> tuple[Replay, Any]:
    """A graph's stand-in."""
    result = function()

    def replay() -> None:
        for mine, new in zip(tensors_of(result), tensors_of(function()), strict=True):
            mine.copy_(new)

    return replay, result


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StagedEngine]:
    monkeypatch.setitem(registry.BACKENDS, "cuda_graph", lambda freeze: CapturedParts(recorded))
    monkeypatch.setattr(registry, "on_cuda", lambda model: True)
    return lambda model, **options: make_engine(model, Compiled(**CAPTURED, **options))


@pytest.mark.parametrize("family", ["pi0", "pi05", "openvla_oft"])
def test_a_captured_engine_acts_as_the_eager_one(family: str, captured: Callable[..., StagedEngine]) -> None:
    model, inputs, noise = three_samples(family)
    eager, engine = make_engine(model), captured(model, buckets=(48, 64))
    first = first_sample(inputs), None if noise is None else noise[:1]
    engine.prepare(*first)
    engine.prepare(*first, EveryOther(0))
    made = engine.report()["compiled"]
    for pruner in (None, make_pruner("lightvla"), make_pruner({"name": "stride", "keep_tokens": 2}), EveryOther(0)):
        for given in (first, (inputs, noise)):
            result, expected = engine.run(*given, pruner=pruner), eager.run(*given, pruner=pruner)
            torch.testing.assert_close(result.actions, expected.actions, rtol=1e-3, atol=1e-4)
    report = engine.report()
    assert report["compiled"] == made and report["parts_as_written"] == 0


def test_results_are_not_overwritten_by_the_next_query(captured: Callable[..., StagedEngine]) -> None:
    """What is kept of an inference to go on from stays what it was."""
    model, inputs = pi0.make_model(True), pi0.make_inputs(2, [[True, True], [True, True]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    engine, one = captured(model, buckets=(64,)), first_sample(inputs)
    other = type(inputs)(**{name: value[1:] for name, value in vars(inputs).items() if torch.is_tensor(value)})
    engine.prepare(one, noise[:1])
    before = engine.run(one, noise[:1])
    kept = before.actions.clone()
    engine.run(other, noise[1:])
    assert torch.equal(before.actions, kept)
    assert torch.equal(engine.run(one, noise[:1], prefilled=before.prefilled).actions, kept)


def test_a_prefix_above_the_longest_bucket_runs_as_written(captured: Callable[..., StagedEngine]) -> None:
    model, inputs = pi0.make_model(True), pi0.make_inputs(1)
    noise, engine = model.draw_noise(1, "cpu"), captured(model, buckets=(4, 6))
    engine.prepare(inputs, noise)
    result = engine.run(inputs, noise)
    torch.testing.assert_close(result.actions, make_engine(model).run(inputs, noise).actions, rtol=1e-3, atol=1e-4)
    report = engine.report()
    assert report["buckets"]["above"] and report["parts_as_written"] == 2, "the prefill and the denoising"


def test_out_of_memory_at_capture_names_fewer_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(function: Callable[[], Any]) -> tuple[Replay, Any]:
        result = recorded(function)
        if any(tensor.shape[1:2] == (64,) for tensor in tensors_of(result[1])):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setitem(registry.BACKENDS, "cuda_graph", lambda freeze: CapturedParts(full))
    monkeypatch.setattr(registry, "on_cuda", lambda model: True)
    model, inputs = pi0.make_model(True), pi0.make_inputs(1)
    engine = make_engine(model, Compiled(**CAPTURED, buckets=(32, 48, 64)))
    with pytest.raises(FoveateError, match=r"64 tokens, after 2 of 3 lengths; .*--engine.buckets 32,48"):
        engine.prepare(inputs, model.draw_noise(1, "cpu"))
