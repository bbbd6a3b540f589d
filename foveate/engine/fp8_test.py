"""The prefill in float8: layers against an own rounding and PyTorch's own product, scales, what stays out, files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foveate.engine import registry
from foveate.engine.calibration import Calibration, calibrate, read_calibration, write_calibration
from foveate.engine.compiled_test import needs_compiler
from foveate.engine.config import Eager
from foveate.engine.fp8 import Fp8, Fp8Linear, in_fp8
from foveate.engine.graphs import CapturedParts
from foveate.engine.graphs_test import recorded
from foveate.engine.record import hash_folder
from foveate.engine.registry import make_engine
from foveate.engine.stand_in import MOST_ERROR, backbone_linears, stand_in
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.openvla_oft import model_test as oft
from foveate.models.pi0 import model_test as pi0
from foveate.pruning import make_pruner
from foveate.types import AttentionRequest


def e4m3(x: np.ndarray) -> np.ndarray:
    """The nearest numbers that float8 e4m3 has (four exponent and three mantissa bits, no infinity), ties to even:
    2^-9 apart below 2^-6, from there on eight in each octave, 448 at most."""
    octave = np.floor(np.log2(np.maximum(np.abs(x), 2.0**-6)))
    step = 2.0 ** (octave - 3)
    return np.clip(np.round(x / step) * step, -448, 448)


@torch.inference_mode()
def test_a_layer_computes_what_float64_does_with_rounded_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 48)
    x = torch.randn(2, 5, 64, generator=generator) * torch.logspace(-3, 1, 64)
    largest = 0.5 * x.abs().max().item()  # calibration has seen less: the rest is cut off
    made = Fp8Linear(linear, largest, reference=True)(x)
    weight, bias = linear.weight.double().numpy(), linear.bias.double().numpy()
    sx, sw = np.float32(largest / 448), np.float32(np.abs(weight).max() / 448)
    expected = e4m3(x.double().numpy() / sx) @ e4m3(weight / sw).T * (float(sx) * float(sw)) + bias
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert made.shape == (2, 5, 48) and made.dtype == torch.float32
    half = x.bfloat16()
    linear.bfloat16()
    own, reference = Fp8Linear(linear, largest)(half), Fp8Linear(linear, largest, reference=True)(half)
    assert own.dtype == torch.bfloat16 and Fp8Linear(linear, largest).rounded_weight.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(own, reference, rtol=0.02, atol=1e-3)


def batches(count: int, family: str = "pi0") -> list[ModelInputs]:
    make = oft.make_inputs if family == "openvla_oft" else pi0.make_inputs
    made = [make() for _ in range(count)]
    noise = torch.Generator().manual_seed(2)
    return [
        dataclasses.replace(one, images=one.images * (0.2 + 0.8 * torch.rand(one.images.shape, generator=noise)))
        for one in made
    ]


def test_a_stand_in_shares_its_weights_and_leaves_the_model_alone() -> None:
    model, inputs = pi0.make_model(), pi0.make_inputs(1)
    noise = model.draw_noise(1, "cpu", torch.Generator().manual_seed(0))
    before, other = make_engine(model).run(inputs, noise).actions, stand_in(model)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True)) and other is not model
    layers, left_out = calibrate(model, batches(8), Fp8())
    in_fp8(model, Calibration("", 8, 1.0, layers, left_out))
    assert torch.equal(make_engine(model).run(inputs, noise).actions, before)


@pytest.mark.parametrize("family", ["pi0", "pi05", "openvla_oft"])
def test_calibration_and_a_prefill_in_float8(family: str) -> None:
    model = oft.make_model() if family == "openvla_oft" else pi0.make_model(family == "pi05")
    seen = batches(8, family)
    layers, left_out = calibrate(model, seen, Fp8())
    everything = backbone_linears(model)
    assert layers and {*layers, *left_out} == everything.keys() and not {*layers} & {*left_out}
    if family != "openvla_oft":
        last = len(model.llm.layers) - 1
        assert left_out == {
            f"{last}.{name}": "the prefill does not run it as a whole"
            for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
        }
    assert all(0.005 < layer.error < 0.1 for layer in layers.values()), "three bits of mantissa, two roundings"
    inputs, noise = seen[0], None if family == "openvla_oft" else model.draw_noise(len(seen[0].tokens), "cpu")
    exact = make_engine(model).run(inputs, noise).actions
    engine = make_engine(
        model, Eager(prefill_precision="fp8_reference"), calibration=Calibration("", 8, 1, layers, left_out)
    )
    rounded = engine.run(inputs, noise).actions
    assert 0 < (rounded - exact).abs().max() < 0.3 * exact.abs().max()
    assert engine.report()["fp8"] == {"layers": len(layers), "kept": left_out}
    # Attention is observed inside of the model's own layers.
    request = AttentionRequest((0,), ("prefix",))
    asked = engine.run(inputs, noise, attention=request)
    assert torch.equal(asked.actions, exact) and asked.attention is not None
    assert engine.report()["queries_as_written"] == {"attention asked for": 1}
    worst = max(layers, key=lambda name: layers[name].error)
    bound = sorted(layer.error for layer in layers.values())[-2]
    fewer = Calibration("", 8, bound, layers, left_out)
    assert fewer.kept.keys() == {worst, *left_out} and "error" in fewer.kept[worst]
    linears = backbone_linears(in_fp8(model, fewer))
    assert linears.keys() == fewer.kept.keys(), "only these are plain linear layers still"


@pytest.mark.parametrize("prefill", ["cuda_graph", pytest.param("compiled", marks=[pytest.mark.slow, needs_compiler])])
def test_a_prepared_prefill_in_float8_at_every_length(prefill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "cuda_graph", lambda freeze: CapturedParts(recorded))
    monkeypatch.setattr(registry, "on_cuda", lambda model: True)
    model, inputs = pi0.make_model(), pi0.make_inputs(1)
    noise = model.draw_noise(1, "cpu", torch.Generator().manual_seed(0))
    calibration = Calibration("", 8, 1, *calibrate(model, batches(8), Fp8()))
    rounding = {"prefill_precision": "fp8_reference"}
    eager = make_engine(model, Eager(**rounding), calibration=calibration)
    engine = make_engine(model, Eager(prefill=prefill, buckets=(8, 12, 16), **rounding), calibration=calibration)
    engine.prepare(inputs, noise)
    for pruner in (None, make_pruner({"name": "stride", "keep_tokens": 2})):
        expected = eager.run(inputs, noise, pruner=pruner).actions
        torch.testing.assert_close(engine.run(inputs, noise, pruner=pruner).actions, expected, rtol=1e-3, atol=1e-3)
    assert engine.report()["compiled"] == 3 and engine.report()["parts_as_written"] == 0


def test_bad_calibration() -> None:
    model = pi0.make_model()
    with pytest.raises(FoveateError, match="got 1 observation, and static scales need at least 8, of different tasks"):
        calibrate(model, batches(1), Fp8())
    seen = batches(8)
    seen[5].images[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(
        FoveateError, match=r"observation 5 gives numbers that are not finite at backbone layer 0\.self"
    ):
        calibrate(model, seen, Fp8())
    odd = pi0.make_model(llm=dataclasses.replace(pi0.STACK, mlp_dim=40))
    _, left_out = calibrate(odd, batches(8), Fp8())
    assert left_out["0.mlp.down_proj"] == "sizes 40 and 32: not both multiples of 16"
    with pytest.raises(FoveateError, match=r"has not been calibrated; run `foveate engine calibrate"):
        make_engine(model, Eager(prefill_precision="fp8_reference"))
    layers, left_out = calibrate(model, seen[:5] + batches(3), Fp8())
    strange = {f"9{name}": layer for name, layer in layers.items()}
    with pytest.raises(FoveateError, match=r"has no backbone layer '90\.mlp.down_proj'; calibrate again"):
        in_fp8(model, Calibration("", 8, 1, strange, {}))


def test_scales_lie_beside_the_checkpoint_and_hold_for_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    assert read_calibration(folder) is None
    layers, left_out = calibrate(pi0.make_model(), batches(8), Fp8())
    made = Calibration(hash_folder(folder), 8, MOST_ERROR, layers, left_out)
    path = write_calibration(folder, made, {"data": "demos"})
    assert read_calibration(folder) == made and json.loads(path.read_text())["kept"] == made.kept
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert read_calibration(moved) == made, "the same files in another place"
    (moved / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(FoveateError, match=r"was made with another checkpoint.*engine calibrate --policy"):
        read_calibration(moved)
    path.write_text(json.dumps({**json.loads(path.read_text()), "observations": 1}))
    with pytest.raises(FoveateError, match=r"fp8.json: observations: expected a whole number of 8"):
        read_calibration(folder)
