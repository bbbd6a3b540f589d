"""The actions of an episode over time, and where those of two episodes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_RANGE = 1e-6
"""Range of an action that never changes; its differences are measured against it."""


@dataclass(frozen=True)
class Course:
    """The actions of an episode, as its chunks planned them."""

    steps: np.ndarray
    """int64 [N]: environment steps, ascending."""
    actions: np.ndarray
    """float32 [N, A], in the environment's units."""


@dataclass(frozen=True)
class Parting:
    """Where two courses part."""

    step: int | None
    """The first step at which an action differs by more than the tolerance; None: none does."""
    number: int | None
    """Which number of the action differs most there."""
    steps: np.ndarray
    """int64 [M]: those that both courses have."""
    difference: np.ndarray
    """float64 [M]: the largest difference of any number, as a share of the range it has in both episodes."""


def course(chunks: Sequence[tuple[int, np.ndarray]], end: int | None = None) -> Course:
    """The actions that were up at each step: those of a chunk until the next inference, or until it has no more.

    Args:
        chunks: step of the inference, float32 [T, A]; steps ascending. Chunks of another width are passed over.
        end: steps of the episode; None: the last chunk is taken whole.
    """
    width = chunks[0][1].shape[1] if chunks else 0
    chunks = [(step, chunk) for step, chunk in chunks if chunk.shape[1] == width]
    steps, actions = [np.empty(0, np.int64)], [np.empty((0, width), np.float32)]
    for i, (step, chunk) in enumerate(chunks):
        until = chunks[i + 1][0] if i + 1 < len(chunks) else end
        count = len(chunk) if until is None else max(0, min(len(chunk), until - step))
        steps.append(step + np.arange(count))
        actions.append(chunk[:count])
    return Course(np.concatenate(steps), np.concatenate(actions))


def part(a: Course, b: Course, tolerance: float) -> Parting:
    """Where two episodes part, over the steps that both have.

    Args:
        tolerance: share of a number's range over both episodes.
    """
    steps, in_a, in_b = np.intersect1d(a.steps, b.steps, return_indices=True)
    if a.actions.shape[1] != b.actions.shape[1] or not len(steps):
        return Parting(None, None, steps[:0], np.empty(0))
    both = np.concatenate([a.actions, b.actions]).astype(np.float64)
    ranges = np.maximum(np.ptp(both, axis=0), LEAST_RANGE)
    shares = np.abs(a.actions[in_a].astype(np.float64) - b.actions[in_b]) / ranges
    difference = shares.max(1)
    beyond = np.flatnonzero(difference > tolerance)
    if not len(beyond):
        return Parting(None, None, steps, difference)
    first = int(beyond[0])
    return Parting(int(steps[first]), int(shares[first].argmax()), steps, difference)
