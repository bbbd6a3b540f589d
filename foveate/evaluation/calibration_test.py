"""From recordings to scales beside a checkpoint, to a check of `fast` in float8, and what is refused on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.cli.main import main
from foveate.engine import gate
from foveate.engine.config import Eager, Fast
from foveate.errors import FoveateError
from foveate.evaluation import calibration, fidelity
from foveate.evaluation.calibration import CalibrateConfig
from foveate.evaluation.fidelity import Bound, EngineCheckConfig, check_engine, require_check
from foveate.evaluation.recorded_test import Recorded
from foveate.policy import LoadOptions
from foveate.testing.engines import policy_as_written


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a shipped policy, and recordings; `compiled` runs as written."""
    monkeypatch.setattr(calibration, "open_source", lambda data: Recorded())
    return policy_as_written(tmp_path, monkeypatch)


def test_fast_runs_in_float8_where_the_check_allows_it(
    policy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "calibrate", "--policy", policy, "--data", "recordings", "--observations", "9"]) == 0
    out = capsys.readouterr().out
    assert "9 observations of 3 tasks" in out and "mlp.gate_up_proj" in out and "does not run it as a whole" in out
    kept = json.loads((Path(policy) / "fp8.json").read_text())
    assert kept["tasks"] == {"task 0": 3, "task 1": 3, "task 2": 3} and kept["data"] == "recordings"

    # As on a GPU with float8 units.
    monkeypatch.setattr(gate, "_formats", lambda folder, dtype, device: ["fp8_reference"])
    config = EngineCheckConfig(policy=policy, engine=Fast(), observations=2, noises=1)
    done = check_engine(config)
    assert done.passed and done.engine == "fastest, prefill in fp8_reference" and done.bound == fidelity.ROUNDED
    options = LoadOptions(policy=policy, engine=Fast())
    assert require_check(options)["engine"] == "fastest, prefill in fp8_reference"
    assert options.load().engine.report()["fp8"]["layers"] > 0

    # Other scales, another record; where float8 is off `fast` goes without.
    (Path(policy) / "fp8.json").write_text(json.dumps({**kept, "note": 1}))
    with pytest.raises(FoveateError, match=r"engine fastest has not been compared.*another.*calibration"):
        require_check(options)
    monkeypatch.setattr(fidelity, "ROUNDED", Bound(1, 0))
    done = check_engine(config)
    assert done.passed and done.engine == "fastest" and done.error < 1e-3
    assert require_check(options)["engine"] == "fastest" and "fp8" not in options.load().engine.report()


def test_bad_input(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, told in (
        ({"data": ""}, "data is empty; name recordings"),
        ({"observations": 1}, "observations: expected at least 8, got 1"),
        ({"engine": Fast()}, "scales are measured with the eager engine"),
        ({"max_error": -1.0}, "max_error: expected a finite number"),
    ):
        with pytest.raises(FoveateError, match=told):
            CalibrateConfig(**{"policy": policy, "data": "recordings", **options})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(FoveateError, match=r"engine_checks.*the record of the comparison"):
        check_engine(EngineCheckConfig(policy=policy, engine=Fast()))
    rounding = replace(Eager(), prefill_precision="fp8_reference")
    with pytest.raises(FoveateError, match="has not been calibrated"):
        LoadOptions(policy=policy, engine=rounding).load()
