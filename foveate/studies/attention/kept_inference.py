"""One frame of the fidelity experiment on a real policy: covered pictures, and dropped patches where it has a pruner.

What is measured, and what it means, is in `studies.attention.fidelity_run` and `attention.fidelity_pruner`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foveate.attention.fidelity_pruner import study_pruner
from foveate.policy import Policy, TraceOptions
from foveate.studies.attention.fidelity_run import Frame, Plan, Sight, Study, noise_of, study_frame
from foveate.types import Observation
from foveate.util.noise import stack_noise


def measure_frame(policy: Policy, sight: Sight, frame: Frame, plan: Plan) -> tuple[dict[str, Any], Study]:
    """`episode, frame, effects, curves, pruner` (None without one) as plain values, and what can be drawn of it."""
    study = study_frame(policy, sight, frame, plan)
    row: dict[str, Any] = {"episode": frame.episode, "frame": frame.index}
    row |= {"effects": study.effects, "curves": study.curves, "pruner": None}
    if policy.pruner is not None and policy.pruner.enabled:
        row["pruner"] = _measure_pruner(policy, sight, frame, plan)
    return row, study


def _measure_pruner(policy: Policy, sight: Sight, frame: Frame, plan: Plan) -> dict[str, Any]:
    noise = noise_of(sight, frame, plan.seed)
    trace = policy.infer(frame.observation, noise, evidence=TraceOptions(routing=True)).trace
    assert trace is not None and trace.keep is not None

    def keep(observation: Observation, noise: np.ndarray | None, masks: np.ndarray) -> list[np.ndarray]:
        return infer_kept(policy, observation, noise, masks, plan.batch)

    seed = (plan.seed, frame.index)
    kept, valid = trace.keep["keep_mask"], trace.keep["valid"]
    return study_pruner(keep, frame.observation, noise, kept, valid, plan.draws, seed)


def infer_kept(
    policy: Policy, observation: Observation, noise: np.ndarray | None, masks: np.ndarray, batch: int
) -> list[np.ndarray]:
    """Action chunks [H, A] of one observation, each with just the patches of a mask left.

    Args:
        noise: float32 [H, model action_dim], of all of them.
        masks: bool [n, P].
    """
    actions: list[np.ndarray] = []
    for start in range(0, len(masks), batch):
        part = masks[start : start + batch]
        chunks = policy.infer_batch([observation] * len(part), stack_noise([noise] * len(part)), keep=part)
        actions += [chunk.actions for chunk in chunks]
    return actions
