"""Scales for a prefill in float8, from recordings of the robot; kept beside the checkpoint.

done = calibrate_policy(CalibrateConfig(policy="path/to/policy", data="sets/push"))
done.calibration.kept, done.path
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from foveate.data.conversion.convert import open_source
from foveate.engine.calibration import LEAST_OBSERVATIONS, Calibration, calibrate, write_calibration
from foveate.engine.fp8 import Fp8
from foveate.engine.record import hash_folder
from foveate.engine.stand_in import MOST_ERROR
from foveate.errors import FoveateError
from foveate.evaluation.recorded import stratified
from foveate.policy import LoadOptions
from foveate.util.checks import number
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.shipped import find_policy


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(LoadOptions):
    """Measure scales for a prefill in float8 (fp8) on recordings; exit status 1: every layer is over the bound."""

    data: str = ""
    """Recordings of the policy's robot: LeRobot set, foveate's demonstrations, LIBERO's HDF5, or DROID-format tree."""
    observations: int = 16
    """Moments of the recordings, spread over tasks and over the course of episodes; at least 8."""
    max_error: float = MOST_ERROR
    """Relative error of a layer's outputs, in the worst of them, above which the layer stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise FoveateError("data is empty; name recordings of the robot, such as a LeRobot data set")
        if self.observations < LEAST_OBSERVATIONS:
            raise FoveateError(f"observations: expected at least {LEAST_OBSERVATIONS}, got {self.observations}")
        number("max_error", self.max_error, 0)
        if not self.engine.exact:
            raise FoveateError("engine: scales are measured with the eager engine; leave it out")


@dataclass(frozen=True)
class Calibrated:
    """Scales, and where they came from."""

    calibration: Calibration
    tasks: dict[str, int]
    """Instruction -> observations of it."""
    path: Path


def calibrate_policy(config: CalibrateConfig, report: Reporter = SILENT) -> Calibrated:
    """Measure and keep.

    Raises:
        FoveateError: the policy or the recordings cannot be had, do not fit, or hold numbers that are not finite.
        CannotWrite: the policy's folder cannot be written.
    """
    folder = find_policy(config.policy)
    policy = config.load(report, environ={})
    with report.status("reading recordings"):
        moments = stratified(open_source(config.data), policy.processor.robot, config.observations)
    inputs = [policy.processor.inputs([one.observation]).to(policy.device) for one in moments]
    with report.status("measuring scales and errors"):
        layers, left_out = calibrate(policy.engine.model, inputs, Fp8())
    made = Calibration(hash_folder(folder), len(inputs), config.max_error, layers, left_out)
    tasks = dict(Counter(one.task for one in moments))
    about = {"data": config.data, "tasks": tasks, "moments": [[one.episode, one.row] for one in moments]}
    return Calibrated(made, tasks, write_calibration(folder, made, {**about, **provenance()}))
