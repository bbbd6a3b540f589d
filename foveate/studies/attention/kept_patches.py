"""The test of a pruner in one frame: patches that it keeps and patches that it drops are taken away in turn.

What is measured, and what it means, is in `attention.fidelity_pruner`.
"""

from __future__ import annotations

import numpy as np

from foveate.attention.fidelity import Row
from foveate.attention.fidelity_pruner import study_pruner
from foveate.policy import Policy, TraceOptions
from foveate.studies.attention.occlusion import Frame, OcclusionConfig, key_of
from foveate.types import Observation
from foveate.util.noise import action_noise, stack_noise


def measure_pruner(policy: Policy, frame: Frame, config: OcclusionConfig) -> Row | None:
    """What `study_pruner` gives; None of a policy that keeps all patches."""
    if policy.pruner is None or not policy.pruner.enabled:
        return None
    noise = action_noise(policy.spec.noise_shape, *key_of(frame, config.seed))
    trace = policy.infer(frame.observation, noise, evidence=TraceOptions(routing=True), session="kept").trace
    assert trace is not None and trace.keep is not None

    def keep(masks: np.ndarray) -> list[np.ndarray]:
        return infer_kept(policy, frame.observation, noise, masks, config.batch)

    seed = (config.seed, frame.index)
    return study_pruner(keep, trace.keep["keep_mask"], trace.keep["valid"], config.draws, seed)


def infer_kept(
    policy: Policy, observation: Observation, noise: np.ndarray | None, masks: np.ndarray, batch: int
) -> list[np.ndarray]:
    """Action chunks [H, A] of one observation, each with just the patches of a mask left.

    Args:
        noise: float32 [*noise_shape], of all of them.
        masks: bool [n, P].
    """
    actions: list[np.ndarray] = []
    for start in range(0, len(masks), batch):
        part = masks[start : start + batch]
        chunks = policy.infer_batch([observation] * len(part), stack_noise([noise] * len(part)), keep=part)
        actions += [chunk.actions for chunk in chunks]
    return actions
