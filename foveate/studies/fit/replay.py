"""A policy asked at the keyframes of one recorded episode: what it would do, what it kept, what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate.policy import Policy, TraceOptions
from foveate.types import Observation
from foveate.util.noise import stack_noise


@dataclass(frozen=True)
class Replay:
    """The answers, K keyframes."""

    actions: np.ndarray
    """float32 [K, H, A], in the robot's units."""
    keep: np.ndarray
    """bool [K, P]: patches that stayed."""
    valid: np.ndarray
    """bool [K, P]: patches of cameras that are there."""
    gflops: np.ndarray
    """float64 [K]."""


def replay(
    policy: Policy, observations: Sequence[Observation], noise: Sequence[np.ndarray | None], batch: int, session: str
) -> Replay:
    """Ask at every keyframe, in order; what has a history sees the episode from its beginning.

    Args:
        noise: of each keyframe, the same for whoever is compared.
        batch: observations per inference; one with a history goes alone.
    """
    one_by_one = policy.has_history
    size = 1 if one_by_one else batch
    policy.reset(session)
    chunks = []
    for start in range(0, len(observations), size):
        part = list(observations[start : start + size])
        chunks += policy.infer_batch(
            part,
            stack_noise(noise[start : start + size]),
            evidence=TraceOptions(),
            sessions=[session] * len(part) if one_by_one else None,
        )
    policy.reset(session)
    traces = [chunk.trace for chunk in chunks]
    kept = [trace.keep for trace in traces if trace is not None and trace.keep is not None]
    costs = []
    for trace in traces:
        assert trace is not None
        costs.append(policy.cost(trace)["total"])
    return Replay(
        actions=np.stack([chunk.actions for chunk in chunks]),
        keep=np.stack([keep["keep_mask"] for keep in kept]),
        valid=np.stack([keep["valid"] for keep in kept]),
        gflops=np.array(costs),
    )
