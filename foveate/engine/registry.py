"""Backends by name, and names for combinations of them.

engine = make_engine(model)                                  # the preset `eager`
engine = make_engine(model, prefill="eager")                 # a backend for one stage, over the preset
"""

from __future__ import annotations

from foveate.engine.base import Backend
from foveate.engine.eager import EAGER
from foveate.engine.staged import StagedEngine
from foveate.errors import unknown
from foveate.models.base import ActionModel

BACKENDS: dict[str, Backend] = {"eager": EAGER}
PRESETS = {"eager": {"vision": "eager", "prefill": "eager", "denoise": "eager"}}
"""Name -> stage -> backend."""


def make_engine(model: ActionModel, preset: str = "eager", **stages: str) -> StagedEngine:
    """An engine for a model.

    Args:
        preset: a name of `PRESETS`.
        stages: stage -> backend, over the preset.
    Raises:
        FoveateError: an unknown preset, stage or backend.
    """
    if preset not in PRESETS:
        raise unknown("engine", preset, PRESETS)
    names = dict(PRESETS[preset])
    for stage, name in stages.items():
        if stage not in names:
            raise unknown("engine stage", stage, names)
        if name not in BACKENDS:
            raise unknown(f"backend of {stage}", name, BACKENDS)
        names[stage] = name
    return StagedEngine(model, **{stage: BACKENDS[name] for stage, name in names.items()})
