"""The TensorRT backend behind a stand-in for torch_tensorrt: what it is asked for, types, fall-backs; refusals by name.

The stand-in exports what it is given, as the package does first, and runs the exported program. What only a GPU can
show (that TensorRT takes the operations, what it saves) is left to benchmarks/gpu.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from foveate.engine import fastest, registry
from foveate.engine.config import Compiled, Eager, Fast
from foveate.engine.registry import make_engine
from foveate.engine.staged import first_sample
from foveate.errors import FoveateError
from foveate.models.openvla_oft import model_test as oft
from foveate.models.pi0 import model_test as pi0
from foveate.util.progress import Reporter


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, x) / 2


class Split(nn.Module):
    """What torch_tensorrt makes of a program of which it runs all but the end."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self._run_on_acc_0 = program.module()
        self._run_on_gpu_1 = fx.symbolic_trace(Doubled())
        for node in self._run_on_gpu_1.graph.nodes:
            node.meta["nn_module_stack"] = {"a": ("model.projector", nn.Linear)}

    def forward(self, *arguments: Tensor) -> Tensor:
        return self._run_on_gpu_1(self._run_on_acc_0(*arguments))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """torch_tensorrt as far as foveate uses it; what it was asked for."""
    calls = []

    def compile(module: nn.Module, **options: Any) -> nn.Module:
        program = torch.export.export(module, tuple(options["inputs"]))
        values = [node.meta.get("val") for node in program.graph.nodes]
        calls.append(options | {"types": {value.dtype for value in values if isinstance(value, Tensor)}})
        return Split(program)

    package = types.ModuleType("torch_tensorrt")
    package.compile = compile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_tensorrt", package)
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setattr(registry, "on_cuda", lambda model: True)
    return calls


@pytest.mark.parametrize("family", ["pi05", "openvla_oft"])
def test_the_tower_is_built_strongly_typed_and_what_fell_back_is_named(
    family: str, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    if family == "pi05":
        model, inputs = pi0.make_model(), pi0.make_inputs(2)
        noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    else:
        model, inputs, noise = oft.make_model(), oft.make_inputs(), None
    engine = make_engine(model, Eager(vision="tensorrt"))
    first = first_sample(inputs), None if noise is None else noise[:1]
    engine.prepare(*first, report=Reporter(Console(width=200)))
    expected = make_engine(model)
    for given in (first, (inputs, noise)):
        torch.testing.assert_close(engine.run(*given).actions, expected.run(*given).actions, rtol=1e-3, atol=1e-4)
    (call,) = asked
    assert (call["ir"], call["use_explicit_typing"], call["min_block_size"]) == ("dynamo", True, 1)
    assert torch.float16 not in call["types"]
    report = engine.report()
    assert report["tensorrt"]["fallen_back"] == {"add in model.projector": 1, "truediv in model.projector": 1}
    assert report["parts_as_written"] == 0
    assert "TensorRT: 2 operations of the tower fell back to PyTorch" in capsys.readouterr().out


def test_float16_as_users_run_it_gives_its_tokens_back_in_the_policys_type(asked: list[dict[str, Any]]) -> None:
    model, inputs = pi0.make_model(), pi0.make_inputs(1)
    noise = model.draw_noise(1, "cpu", torch.Generator().manual_seed(0))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    engine = make_engine(model, Eager(vision="tensorrt", vision_precision="fp16"))
    engine.prepare(inputs, noise)
    half, exact = (each.run(inputs, noise).actions for each in (engine, make_engine(model)))
    assert asked[0]["types"] == {torch.float16, torch.float32}, "the pictures and the tokens are float32"
    assert half.dtype == torch.float32 and 0 < (half - exact).abs().max() < 0.05 * exact.abs().max()
    assert engine.report()["tensorrt"]["half"]
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before), "the model keeps its own weights"


def test_fast_takes_tensorrt_where_it_is_installed(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pi0.make_model()
    backends = make_engine(model, Fast()).report()["backends"]
    assert backends == {"vision": "tensorrt", "prefill": "cuda_graph", "denoise": "cuda_graph"}
    monkeypatch.delitem(sys.modules, "torch_tensorrt")
    monkeypatch.setattr(fastest, "find_spec", lambda name: None)
    assert make_engine(model, Fast()).report()["backends"]["vision"] == "cuda_graph"


def test_a_tower_that_cannot_be_built_is_a_sentence(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(module: nn.Module, **options: Any) -> nn.Module:
        raise RuntimeError("no converter for aten.strange\nand so on")

    monkeypatch.setattr(sys.modules["torch_tensorrt"], "compile", fails)
    model = pi0.make_model()
    engine = make_engine(model, Eager(vision="tensorrt"))
    with pytest.raises(
        FoveateError, match=r"cannot be built here \(no converter for aten.strange\); choose cuda_graph"
    ):
        engine.prepare(pi0.make_inputs(1), model.draw_noise(1, "cpu"))


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (
            Eager(prefill="tensorrt"),
            "engine.prefill tensorrt: ModelOpt's FP8 MLP .* not built in: a pruned prefix has many",
        ),
        (Eager(denoise="tensorrt"), "engine.denoise tensorrt: TensorRT runs the vision tower alone"),
        (Eager(vision="tensorrt"), r'torch_tensorrt is not installed; pip install "foveate\[tensorrt\]"'),
        (
            Compiled(vision_precision="fp16"),
            "engine.vision_precision fp16: it is for --engine.vision tensorrt, and vision",
        ),
        (Eager(vision="tensor_rt"), "did you mean 'tensorrt'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(engine: Eager, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "on_cuda", lambda model: True)
    with pytest.raises(FoveateError, match=told):
        make_engine(pi0.make_model(), engine)
