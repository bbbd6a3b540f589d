"""8-bit products against their formula in float64, and a prefill that uses them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from foveate.engine import int8, precision
from foveate.engine.buckets import Buckets
from foveate.engine.compiled import CompiledParts
from foveate.engine.config import Eager
from foveate.engine.int8 import Int8Linear, in_int8, int8_layers, int8_speed
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine
from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.models.pi0 import model_test as pi0

pytestmark = pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@torch.inference_mode()
def test_the_product_is_what_its_formula_says() -> None:
    """y = s_x (x_q - z) (s_w w_q)^T, a scale for each output channel, inputs between their least and greatest and 0."""
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 16), torch.randn(2, 5, 24) * 3 + 1
    made = Int8Linear(linear)
    made(x)
    weight, inputs = linear.weight.double().numpy(), x.double().numpy()
    s_w = np.abs(weight).max(1) / 127
    most = 127 if int8.seven_bits() else 255
    low, high = min(inputs.min(), 0.0), max(inputs.max(), 0.0)
    s_x = (high - low) / most
    z = np.round(-low / s_x)
    rounded = np.clip(np.round(inputs / s_x) + z, 0, most) - z
    expected = s_x * rounded @ (np.round(weight / s_w[:, None]) * s_w[:, None]).T + linear.bias.double().numpy()
    # A number that lies between two steps may be rounded to either by float32 and float64.
    np.testing.assert_allclose(made(x).numpy(), expected, atol=2 * s_x * np.abs(weight).max())
    assert np.abs(made(x).numpy() - expected).mean() < 0.01 * s_x
    assert made.error is not None and 0 < made.error < 0.03
    assert made.weight is linear.weight


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_a_prefill_in_8_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "int8_speed", lambda: 1.7)
    model, inputs = pi0.make_model(family == "pi05"), pi0.make_inputs(2, [[True, True], [True, False]])
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    exact = make_engine(model).run(inputs, noise).actions
    engine = make_engine(model, Eager(prefill_precision="int8"))
    assert 0.995 < cosine(engine.run(inputs, noise).actions, exact) < 1
    told = engine.report()["int8"]
    # Of the last layer keys and values alone are computed, from a part of a matrix.
    last = {f"{len(model.llm.layers) - 1}.{name}" for name in ("self_attn.qkv_proj", "mlp.down_proj")}
    assert told["layers"] == 4 * (len(model.llm.layers) - 1) and last <= told["kept"].keys()
    backbone = in_int8(model)
    run = CompiledParts("eager", freeze=False)
    runs = {"vision": run, "prefill": run, "denoise": run}
    compiled = StagedEngine(model, runs, Buckets((48,)), backbone=backbone)
    compiled.prepare(inputs, noise)
    assert cosine(compiled.run(inputs, noise).actions, exact) > 0.995
    assert compiled.report()["parts_as_written"] == 0
    assert torch.equal(make_engine(model).run(inputs, noise).actions, exact), "the model is as it was"


@torch.inference_mode()
def test_a_layer_that_is_off_by_too_much_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MOST_ERROR", 1e-4)
    model = pi0.make_model(True)
    whole, backbone = pack(model.embed_prefix(pi0.make_inputs(1))), in_int8(model)
    for (keys, _), (exact, _) in zip(
        backbone.prefill(whole).keys_values, model.prefill(whole).keys_values, strict=True
    ):
        assert torch.equal(keys, exact)
    told = int8_layers(backbone)
    assert told["layers"] == 0 and "over 0.0 %" in told["kept"]["0.mlp.down_proj"]
    assert told["kept"][f"{len(model.llm.layers) - 1}.mlp.down_proj"] == "the prefill does not run it as a whole"


def test_where_it_does_not_pay_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_speed.__wrapped__() > 0
    monkeypatch.setattr(precision, "int8_speed", lambda: 0.9)
    with pytest.raises(FoveateError, match=r"prefill_precision int8: its products run at 0.90 of float32's rate"):
        make_engine(pi0.make_model(True), Eager(prefill_precision="int8"))
