"""Parts in OpenVINO: the same actions at every prepared length, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foveate.engine import registry
from foveate.engine.config import Compiled, Openvino
from foveate.engine.openvino import OpenVinoParts
from foveate.engine.registry import make_engine
from foveate.engine.staged_test import EveryOther, batch_of, three_samples
from foveate.errors import FoveateError
from foveate.models.pi0 import model_test as pi0
from foveate.pruning import make_pruner


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi0", "pi05", "openvla_oft"])
def test_it_acts_as_the_eager_engine(family: str) -> None:
    pytest.importorskip("openvino", reason='OpenVINO is not installed: pip install "foveate[openvino]"')
    model, inputs, noise = three_samples(family)
    eager, engine = make_engine(model), make_engine(model, Openvino(buckets=(48, 64)))
    first = batch_of(inputs, 1), None if noise is None else noise[:1]
    engine.prepare(*first)
    engine.prepare(*first, EveryOther(0))
    for pruner in (None, make_pruner("lightvla"), make_pruner({"name": "stride", "keep_tokens": 2}), EveryOther(0)):
        for size in (1, 3):
            given = batch_of(inputs, size), None if noise is None else noise[:size]
            result, expected = engine.run(*given, pruner=pruner), eager.run(*given, pruner=pruner)
            torch.testing.assert_close(result.actions, expected.actions, rtol=1e-3, atol=1e-4)
    report = engine.report()
    assert report["parts_as_written"] == 0 and report["buckets"]["hit_rate"] == 1 and report["compile_s"] > 0
    assert set(report["backends"].values()) == {"openvino"}


@pytest.mark.slow
def test_stages_beside_compiled_ones_pass_each_other_their_tensors() -> None:
    pytest.importorskip("openvino", reason='OpenVINO is not installed: pip install "foveate[openvino]"')
    model, inputs, noise = three_samples("pi0")
    first = batch_of(inputs, 1), noise[:1]
    engine = make_engine(model, Openvino(prefill="compiled", buckets=(64,)))
    engine.prepare(*first)
    expected = make_engine(model).run(*first).actions
    torch.testing.assert_close(engine.run(*first).actions, expected, rtol=1e-3, atol=1e-4)
    assert engine.report()["parts_as_written"] == 0


class Sums(nn.Module):
    def ranks(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).cumsum(-1)


@pytest.mark.slow
def test_booleans_are_summed_as_integers() -> None:
    """OpenVINO itself is wrong there."""
    pytest.importorskip("openvino", reason='OpenVINO is not installed: pip install "foveate[openvino]"')
    run, part, x = OpenVinoParts(), Sums().ranks, torch.randn(1, 300)
    with run.preparing():
        run(part, x)
    x = torch.randn(1, 300)
    assert torch.equal(run(part, x), part(x)) and run.unprepared == 0


@pytest.mark.slow
def test_nothing_is_sent_to_openvinos_makers() -> None:
    pytest.importorskip("openvino", reason='OpenVINO is not installed: pip install "foveate[openvino]"')
    code = (
        "import sys; from foveate.engine.openvino import _package; _package();"
        "import openvino.tools.ovc.convert_impl as c;"
        "assert c.tm.__name__.endswith('telemetry_stub'), c.tm; assert 'openvino_telemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Absent(nn.Module):
    def data_dependent(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0] if x.sum().item() > 0 else x


def test_what_cannot_be_converted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace())
    run = OpenVinoParts()
    with run.preparing(), pytest.raises(FoveateError, match=r"Absent\.data_dependent cannot be converted to OpenVINO"):
        run(Absent().data_dependent, torch.ones(1, 4))


def test_it_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pi0.make_model(True)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(FoveateError, match=r'not installed; pip install "foveate\[openvino\]"'):
        make_engine(model, "openvino")
    monkeypatch.setattr(registry, "find_spec", lambda name: name)
    with pytest.raises(FoveateError, match="float32 on a CPU, and the policy is bfloat16 on cpu"):
        make_engine(pi0.make_model(True).bfloat16(), Compiled(vision="openvino"))
    with pytest.raises(FoveateError, match="int8: openvino runs the prefill in float32"):
        make_engine(model, Openvino(prefill_precision="int8"))
