"""`fast` in fewer digits, where the check on this machine allowed them.

engines = candidates(Fast(), folder, "bfloat16", "cuda")   # what `foveate engine check` tries, in order
engine = settled(Fast(), folder, "bfloat16", "cuda")       # what runs: the first of them that has a record
engine_for(model, engine, folder)                          # with what the folder keeps for engines
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from foveate.engine.calibration import Calibration, read_calibration
from foveate.engine.config import Eager, Fast, Precision
from foveate.engine.fp8 import missing_units
from foveate.engine.int8 import PAYS, int8_speed
from foveate.engine.plan import read_plans
from foveate.engine.record import CALIBRATION, identity, read_record
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine
from foveate.models.base import ActionModel


def candidates(engine: Eager, folder: Path, dtype: str, device: str) -> list[Eager]:
    """The engines that may stand for this one; the last is the engine itself."""
    if not isinstance(engine, Fast) or engine.prefill_precision is not None:
        return [engine]
    return [*(replace(engine, prefill_precision=name) for name in _formats(folder, dtype, device)), engine]


def _formats(folder: Path, dtype: str, device: str) -> list[Precision]:
    """Number formats of the prefill to try on a device, the fastest first."""
    if torch.device(device).type == "cpu":
        return ["int8"] if dtype == "float32" and int8_speed() >= PAYS else []
    calibrated = (folder / CALIBRATION).is_file()
    return ["fp8"] if calibrated and missing_units(torch.device(device)) is None else []


def settled(engine: Eager, folder: Path, dtype: str, device: str) -> Eager:
    """The first candidate that was checked on this machine with this checkpoint; none: the engine itself."""
    *fewer, itself = candidates(engine, folder, dtype, device)
    return next((one for one in fewer if read_record(identity(folder, one, dtype, device)) is not None), itself)


def calibration_of(engine: Eager, folder: Path) -> Calibration | None:
    """The scales that an engine needs, where the folder has some.

    Raises:
        FoveateError: they were made with another checkpoint, or are damaged.
    """
    return read_calibration(folder) if engine.rounds_to_float8 else None


def engine_for(model: ActionModel, engine: Eager, folder: Path) -> StagedEngine:
    """`make_engine` with what the checkpoint's folder keeps for engines: planned prefix lengths and scales.

    Raises:
        FoveateError: as `make_engine` and `calibration_of`.
    """
    return make_engine(model, engine, planned=read_plans(folder), calibration=calibration_of(engine, folder))
