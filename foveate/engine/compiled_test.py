"""Compiled layers: the same actions, one compilation for each prepared shape, and none afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from foveate.engine import compiled, packing, precision, registry
from foveate.engine.base import fell_back
from foveate.engine.buckets import Buckets
from foveate.engine.compiled import CACHE, CompiledParts, keep_code, no_compilation
from foveate.engine.config import Compiled
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine
from foveate.engine.staged_test import EveryOther, batch_of, three_samples
from foveate.errors import FoveateError
from foveate.models.common.layers import RMSNorm
from foveate.models.pi0 import model_test as pi0
from foveate.pruning import make_pruner
from foveate.types import AttentionRequest
from foveate.util.progress import Reporter

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
BACKENDS = ["eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])]
"""`eager` traces and guards as `inductor` does, and takes seconds."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@needs_compiler
@torch.inference_mode()
def test_nine_lengths_of_one_part_are_nine_callables_and_none_falls_back() -> None:
    """After eight recompilations of one code object torch silently runs what was written; here none is one."""
    run, part = CompiledParts(), nn.Linear(8, 8)
    lengths = range(3, 12)
    with run.preparing():
        for n in lengths:
            run(part, torch.randn(1, n, 8))
    assert len(run) == compilations() == 9
    with no_compilation():
        for n in lengths:
            x = torch.randn(1, n, 8)
            torch.testing.assert_close(run(part, x), part(x))
        assert compilations() == 9 and run.unprepared == 0
        x = torch.randn(1, 40, 8)
        assert torch.equal(run(part, x), part(x))
        assert compilations() == 9 and run.unprepared == 1, "a length that is not prepared runs as written"
        x = torch.randn(2, 5, 8)
        torch.testing.assert_close(run(part, x), part(x))
        assert compilations() == 9 and run.unprepared == 1, "a batch runs in chunks through what one row has"
    run.forget(5)
    assert len(run) == 8


@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_batch_runs_in_chunks_of_the_size_that_was_prepared(backend: str) -> None:
    run, part = CompiledParts(backend), RMSNorm(8)
    with run.preparing():
        run(part, torch.randn(2, 3, 8))
    x = torch.randn(5, 3, 8)
    with no_compilation():
        torch.testing.assert_close(run(part, x), part(x))
        assert run.unprepared == 0 and len(run) == 1, "two, two, and one beside a copy of itself"
        run(part, x[:1])
    assert run.unprepared == 1, "one row alone is not what two were prepared for"


class Shifted(nn.Module):
    """A part that reads what no key knows."""

    def __init__(self) -> None:
        super().__init__()
        self.by = 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_what_the_key_does_not_know_runs_as_written_and_compiles_nothing(backend: str) -> None:
    run, part = CompiledParts(backend), Shifted()
    with run.preparing():
        run(part, torch.zeros(1, 6, 6))
    before = compilations()
    with no_compilation():
        x = torch.randn(1, 6, 6).transpose(1, 2)  # the same shape in other strides
        torch.testing.assert_close(run(part, x), x + 1)
        assert compilations() == before and run.unprepared == 0
        part.by = 2
        torch.testing.assert_close(run(part, x), x + 2)
        assert compilations() == before and run.unprepared == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["pi0", "pi05", "openvla_oft"])
def test_a_compiled_engine_acts_as_the_eager_one(family: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "compiled", lambda freeze: CompiledParts(backend, freeze))
    monkeypatch.setattr(registry, "missing_compiler", lambda: None)
    model, inputs, noise = three_samples(family)
    eager, engine = make_engine(model), make_engine(model, Compiled(buckets=(48, 64)))
    first = batch_of(inputs, 1), None if noise is None else noise[:1]
    engine.prepare(*first)
    engine.prepare(*first, EveryOther(0))
    made = compilations()
    for pruner in (None, make_pruner("lightvla"), make_pruner({"name": "stride", "keep_tokens": 2}), EveryOther(0)):
        for size in (1, 3):
            given = batch_of(inputs, size), None if noise is None else noise[:size]
            result, expected = engine.run(*given, pruner=pruner), eager.run(*given, pruner=pruner)
            torch.testing.assert_close(result.actions, expected.actions, rtol=1e-3, atol=1e-4)
    assert compilations() == made, "nothing compiles in the control loop"
    report = engine.report()
    assert report["parts_as_written"] == 0 and report["buckets"]["hit_rate"] == 1 and report["compile_s"] > 0
    if noise is not None:
        engine.run(*given, attention=AttentionRequest((0,)))
        assert engine.report()["queries_as_written"] == {"attention asked for": 1}
    assert compilations() == made


class CountingRun(CompiledParts):
    """Compiles nothing, and remembers the lengths that it was prepared for."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[int] = []

    def __call__(self, part, x, *arguments):  # type: ignore[no-untyped-def]
        if getattr(part, "loops", False):
            return part(x, *arguments, self)
        if self._preparing and x.shape[1] not in self.prepared:
            self.prepared.append(x.shape[1])
        return part(x, *arguments)


def test_lengths_that_were_missed_are_prepared_when_asked_again() -> None:
    model, inputs = pi0.make_model(True), pi0.make_inputs(1)
    noise = model.draw_noise(1, "cpu")
    prefill = CountingRun()
    engine = StagedEngine(
        model, {"vision": CountingRun(), "prefill": prefill, "denoise": CountingRun()}, Buckets((4, 6), most=2)
    )
    engine.prepare(inputs, noise)
    assert prefill.prepared == [4, 6]
    engine.run(inputs, noise)
    real = int(model.embed_prefix(inputs).mask.sum())
    assert engine.report()["buckets"]["above"] == {str(real): 1}
    engine.prepare(inputs, noise)
    assert prefill.prepared == [4, 6, real] and engine.report()["buckets"]["lengths"] == [6, real]


def test_pruned_queries_stay_eager_where_that_is_asked() -> None:
    model, inputs = pi0.make_model(True), pi0.make_inputs(1)
    noise = model.draw_noise(1, "cpu")
    runs = {stage: CountingRun() for stage in ("vision", "prefill", "denoise")}
    engine = StagedEngine(model, runs, Buckets((64,)), compile_pruned=False)
    engine.run(inputs, noise, pruner=make_pruner("lightvla"))
    engine.run(inputs, noise)
    assert engine.report()["queries_as_written"] == {"pruned": 1}
    assert fell_back(engine.report())[0] == "queries ran as written, whatever the engine: pruned"
    assert engine.report()["buckets"]["packed"] == 1


def test_weights_are_frozen_where_that_pays_and_all_copies_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, many = pi0.make_model(True), Compiled(buckets=tuple(range(1, 65)), max_buckets=64, max_bucket_mb=1)
    monkeypatch.setattr(registry, "packing_pays", lambda: True)
    assert registry._may_freeze(model, "prefill", Compiled()) and registry._may_freeze(model, "denoise", Compiled())
    assert not registry._may_freeze(model, "prefill", many), "each of 64 lengths would hold the backbone's weights"
    monkeypatch.setattr(registry, "packing_pays", lambda: False)
    assert not registry._may_freeze(model, "denoise", Compiled())


def test_packing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packing.packing_pays.__wrapped__() in (True, False)
    monkeypatch.setattr(packing, "PAYS", 1e9)
    assert not packing.packing_pays.__wrapped__()


def test_a_missing_compiler_is_a_sentence_and_eager(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from rich.console import Console
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    model, inputs = pi0.make_model(True), pi0.make_inputs(1)
    engine = make_engine(model, "compiled")
    noise = model.draw_noise(1, "cpu")
    engine.prepare(inputs, noise, report=Reporter(Console(width=200)))
    assert "there is no C++ compiler; install g++" in capsys.readouterr().out
    assert torch.equal(engine.run(inputs, noise).actions, make_engine(model).run(inputs, noise).actions)
    assert engine.report()["backends"] == {"vision": "eager", "prefill": "eager", "denoise": "eager"}


def test_a_cache_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    monkeypatch.setenv(CACHE, str(taken / "inductor"))
    told = keep_code()
    assert told is not None and str(taken) in told and f"set {CACHE} to a writable folder" in told
    assert Path(os.environ[CACHE]).is_dir(), "code is kept for this run all the same"
    monkeypatch.delenv(CACHE)
    monkeypatch.setattr(compiled, "user_cache", lambda: tmp_path / "cache")
    assert keep_code() is None and os.environ[CACHE] == str(tmp_path / "cache" / "inductor")
    monkeypatch.setenv(CACHE, default_cache_dir())  # as torch does where it is asked first
    assert keep_code() is None and os.environ[CACHE] == str(tmp_path / "cache" / "inductor")


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("compield", "engine 'compield'.*did you mean 'compiled'"),
        (Compiled(vision="cuda_grph"), "backend of vision 'cuda_grph'.*did you mean 'cuda_graph'"),
        (Compiled(denoise="cuda_graph"), "engine.denoise cuda_graph: it needs a CUDA device"),
        (Compiled(vision="tensorrt"), "engine.vision tensorrt: it needs a CUDA device"),
        (Compiled(prefill_precision="fp8"), "fp8: it needs a GPU with float8 units.*and the policy is on 'cpu'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(engine: Compiled | str, told: str) -> None:
    with pytest.raises(FoveateError, match=told):
        make_engine(pi0.make_model(True), engine)


def test_bfloat16_is_refused_where_the_processor_has_no_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(FoveateError, match=r"prefill_precision bf16: this processor has no avx512_bf16"):
        make_engine(pi0.make_model(True), Compiled(prefill_precision="bf16"))
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx512_bf16"}))
    with pytest.raises(FoveateError, match="add --dtype bfloat16"):
        make_engine(pi0.make_model(True), Compiled(prefill_precision="bf16"))
