"""Reusing a prefix across control steps: while pictures and state hardly change, only the actions are denoised anew.

What is compared is the observation that the prefix was made of, not the last one: changes do not add up unseen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.types import Observation
from foveate.util.checks import number
from foveate.util.pictures import difference


@dataclass(frozen=True, kw_only=True)
class PrefixReuse:
    """Reuse of an earlier control step's prefix while the scene hardly changes."""

    pixels: float | None = None
    """A picture may differ by this, mean of the absolute difference over the picture, of 1; null: nothing is reused."""
    state: float = 0.01
    """Every number of the state may differ by this, in the robot's own units."""

    def __post_init__(self) -> None:
        if self.pixels is not None:
            number("engine.prefix_cache.pixels", self.pixels, 0)
        number("engine.prefix_cache.state", self.state, 0)

    def allows(self, before: Observation, now: Observation) -> bool:
        """Whether what was seen before may stand for what is seen now."""
        if self.pixels is None or before.prompt != now.prompt or before.images.keys() != now.images.keys():
            return False
        if before.state.shape != now.state.shape or np.abs(before.state - now.state).max(initial=0) > self.state:
            return False
        most = self.pixels
        return all(difference(before.images[view], now.images[view]) <= most for view in now.images)
