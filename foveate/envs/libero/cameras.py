"""Cameras that render only when their picture is wanted; robosuite's own do at every step, which is most of its time.

The picture must be the one that robosuite takes itself, in the middle of a step: a render after it shows a later
instant (up to 129 grey levels away). So each camera's sensor stays in its place, and answers a black picture without
rendering while nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Shutter:
    """Opens and closes the cameras of one robosuite environment."""

    def __init__(self, robosuite_env: Any, observables: Sequence[str], size: int) -> None:
        """
        robosuite_env: of robosuite, with its observables set up; a hard reset sets them up anew and ends this.
        observables: names of the pictures, e.g. `agentview_image`.
        size: side of the square pictures in pixels.
        """
        self.open = False
        """Whether the next step renders."""
        blank = np.zeros((size, size, 3), np.uint8)
        for name in observables:
            sensor = robosuite_env._observables[name]._sensor
            robosuite_env.modify_observable(name, "sensor", self._guarded(sensor, blank))

    def _guarded(self, sensor: Callable[[Any], np.ndarray], blank: np.ndarray) -> Callable[[Any], np.ndarray]:
        def look(cache: Any) -> np.ndarray:
            return sensor(cache) if self.open else blank

        look.__modality__ = sensor.__modality__  # type: ignore[attr-defined]
        return look
