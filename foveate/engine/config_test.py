"""The options of an engine: what contradicts itself, and what the environment asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveate.engine import fastest
from foveate.engine.config import Compiled, Eager, Fast, as_environment_says
from foveate.engine.fastest import resolved
from foveate.engine.record import identity
from foveate.engine.reuse import PrefixReuse
from foveate.errors import FoveateError
from foveate.types import Observation


def test_the_environment_decides_where_it_is_set() -> None:
    assert as_environment_says(Eager(), {}) == Eager()
    assert as_environment_says(Compiled(), {}) == Compiled()
    buckets = Eager(buckets=(10, 20))
    assert as_environment_says(buckets, {"OPENPI_TORCH_COMPILE": "1"}) == Compiled(buckets=(10, 20))
    assert as_environment_says(Fast(), {"OPENPI_TORCH_COMPILE": "1"}) == Fast()
    assert as_environment_says(Eager(), {"OPENPI_TORCH_COMPILE": "0"}) == Eager()
    assert as_environment_says(Compiled(), {"OPENPI_TORCH_COMPILE_PRUNING": "0"}) == Compiled(compile_pruned=False)
    assert as_environment_says(Compiled(), {"OPENPI_TORCH_COMPILE_PRUNING": "1"}) == Compiled()
    with pytest.raises(FoveateError, match="OPENPI_TORCH_COMPILE=0 asks for eager, and the options for compiled"):
        as_environment_says(Compiled(), {"OPENPI_TORCH_COMPILE": "0"})
    with pytest.raises(FoveateError, match="OPENPI_TORCH_COMPILE=yes: expected 1, 0"):
        as_environment_says(Eager(), {"OPENPI_TORCH_COMPILE": "yes"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"buckets": ()}, "the list is empty"),
        ({"buckets": (20, 10)}, "lengths must ascend"),
        ({"buckets": (10, 20, 30), "max_buckets": 2}, "3 lengths, and engine.max_buckets allows 2"),
        ({"max_buckets": 0}, "engine.max_buckets"),
    ],
)
def test_options_that_contradict_each_other(options, told: str) -> None:
    with pytest.raises(FoveateError, match=told):
        Compiled(**options)


def test_labels() -> None:
    assert Eager().label == "eager" and Eager().exact
    assert Fast().label == "fastest" and not Fast().exact
    assert Compiled(vision="eager").label == "vision eager, prefill compiled, denoise compiled"
    assert Eager(prefill_precision="int8").label == "eager, prefill in int8"


def test_what_fastest_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino", "torch_tensorrt"}
    monkeypatch.setattr(fastest, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(fastest, "cpu_features", lambda: {"avx512f"})

    def stages(engine: Eager, dtype: str = "float32", device: str = "cpu") -> list[str]:
        return list(resolved(engine, dtype, device).values())

    assert stages(Fast()) == ["openvino"] * 3
    assert stages(Fast(prefill_precision="int8")) == ["openvino", "compiled", "openvino"]
    assert stages(Fast(vision="eager")) == ["eager", "openvino", "openvino"]
    assert stages(Fast(), "bfloat16") == ["compiled"] * 3
    assert stages(Fast(), "bfloat16", "cuda:1") == ["tensorrt", "cuda_graph", "cuda_graph"]
    before = identity(tmp_path, Fast(), "float32", "cpu")
    installed.clear()
    assert stages(Fast()) == ["compiled"] * 3 and stages(Fast(), device="cuda") == ["cuda_graph"] * 3
    assert identity(tmp_path, Fast(), "float32", "cpu") != before, "a check holds for what was checked"
    installed.add("openvino")
    monkeypatch.setattr(fastest, "cpu_features", lambda: {"avx2"})
    assert stages(Fast()) == ["compiled"] * 3


def test_a_prefix_is_reused_while_hardly_anything_changes() -> None:
    def seen(value: int = 100, state: float = 0.0, prompt: str = "push") -> Observation:
        return Observation({"corner": np.full((4, 4, 3), value, np.uint8)}, np.array([0, state], np.float32), prompt)

    reuse = PrefixReuse(pixels=2 / 255, state=0.1)
    assert reuse.allows(seen(), seen(102)) and not reuse.allows(seen(), seen(103))
    assert reuse.allows(seen(), seen(98)), "darker counts as brighter does"
    assert reuse.allows(seen(), seen(state=-0.1)) and not reuse.allows(seen(), seen(state=0.11))
    assert not reuse.allows(seen(), seen(prompt="pull"))
    other = Observation({"wrist": seen().images["corner"]}, seen().state, "push")
    assert not reuse.allows(seen(), other)
    with pytest.raises(FoveateError, match="pixels"):
        PrefixReuse(pixels=-1)
