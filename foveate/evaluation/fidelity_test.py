"""The gate before an engine: what passes, what is off, what a record holds for, and what unchecked engines are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from foveate.engine import record, registry
from foveate.engine.config import Compiled, Eager
from foveate.errors import FoveateError
from foveate.evaluation.fidelity import EngineCheckConfig, check_engine, require_check
from foveate.policy import LoadOptions
from foveate.testing.engines import policy_as_written


class Off:
    """Runs a layer as written, its first result a little larger."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, layer, *tensors):  # type: ignore[no-untyped-def]
        out = layer(*tensors)
        return out * self.factor if isinstance(out, torch.Tensor) else (out[0] * self.factor, *out[1:])


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a shipped policy; `compiled` runs as written, and records lie in a folder of the test."""
    return policy_as_written(tmp_path, monkeypatch)


def check(policy: str, **options) -> EngineCheckConfig:
    return EngineCheckConfig(policy=policy, engine=Compiled(), observations=2, noises=2, **options)


def test_an_engine_that_agrees_is_recorded_and_one_that_was_not_checked_is_refused(policy: str) -> None:
    options = LoadOptions(policy=policy, engine=Compiled())
    told = f"foveate engine check --policy {policy} --engine compiled"
    with pytest.raises(
        FoveateError, match=f"engine compiled has not been compared with eager.*{told}.*--allow_unchecked"
    ):
        require_check(options)
    assert require_check(options, allow_unchecked=True) == {"engine": "compiled", "checked": False}
    done = check_engine(check(policy))
    assert done.passed and done.samples == 4 and done.error < 1e-5 and done.record is not None
    gate = require_check(options)
    assert (
        gate["checked"] and gate["worst"]["error"] == done.error and gate["bound"] == {"cosine": 0.99999, "error": 1e-3}
    )
    assert require_check(LoadOptions(policy=policy)) == {"engine": "eager", "checked": True}


def test_a_record_holds_for_its_weights_and_its_backends_alone(policy: str) -> None:
    assert check_engine(check(policy)).passed
    with pytest.raises(FoveateError, match="a record of it with another backends"):
        require_check(LoadOptions(policy=policy, engine=Compiled(vision="eager")))
    (Path(policy) / "engine.json").write_text('{"buckets": [40]}')
    assert require_check(LoadOptions(policy=policy, engine=Compiled()))["checked"], "buckets change no result"
    config = Path(policy) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": 1}))
    with pytest.raises(FoveateError, match=r"there is a record of it with another checkpoint"):
        require_check(LoadOptions(policy=policy, engine=Compiled()))


def test_a_record_of_another_version_is_not_accepted(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_engine(check(policy)).passed
    monkeypatch.setattr(record, "__version__", "0.0.1")
    with pytest.raises(FoveateError, match=r"there is a record of it with another version of foveate\)"):
        require_check(LoadOptions(policy=policy, engine=Compiled()))


def test_an_engine_that_is_off_leaves_no_record(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_engine(check(policy)).passed
    monkeypatch.setitem(registry.BACKENDS, "compiled", lambda freeze: Off(1.05))
    done = check_engine(check(policy))
    assert not done.passed and done.error > done.bound.error and done.record is None
    monkeypatch.setitem(registry.BACKENDS, "compiled", lambda freeze: Off(float("nan")))
    assert not check_engine(check(policy)).passed, "NaN is no small error"
    with pytest.raises(FoveateError, match="has not been compared"):  # the earlier record went
        require_check(LoadOptions(policy=policy, engine=Compiled()))


def test_the_reference_is_not_compared_with_itself() -> None:
    with pytest.raises(FoveateError, match="is what engines are compared with"):
        EngineCheckConfig(policy="metaworld_tiny", engine=Eager())
    with pytest.raises(FoveateError, match="noises: expected at least 1"):
        EngineCheckConfig(policy="metaworld_tiny", engine=Compiled(), noises=0)
