"""Moments out of recordings: which ones, what they hold, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from foveate.data.conversion.base import IMAGES, Recording, camera, vector
from foveate.errors import FoveateError
from foveate.evaluation.recorded import stratified
from foveate.models.common.robots import RobotMapping

ROBOT = RobotMapping.load("metaworld", "pi05").restricted(("corner", "gripperPOV"))
LENGTH = 40


class Recorded:
    """Ten episodes, of three tasks in turn; pictures show their row's number, states hold it and the episode's."""

    name, fps, robot_type = "stub", 10.0, None

    def __init__(self, views: tuple[str, ...] = ("corner", "gripperPOV")) -> None:
        picture = np.zeros((8, 8, 3), np.uint8)
        self.features = {f"{IMAGES}{view}": camera(view, picture) for view in views}
        self.features |= {name: vector(name, 4) for name in ("observation.state", "action")}
        self.broken: tuple[int, int] | None = None

    def __len__(self) -> int:
        return 10

    def read(self, number: int) -> Recording:
        states = np.zeros((LENGTH, 4), np.float32)
        states[:, 0], states[:, 1] = np.arange(LENGTH), number
        if self.broken is not None and self.broken[0] == number:
            states[self.broken[1]] = np.nan
        columns = {"observation.state": states, "action": states}

        def pictures() -> Iterator[np.ndarray]:
            for row in range(LENGTH):
                yield np.full((8, 8, 3), row, np.uint8)

        views = {name: pictures() for name, feature in self.features.items() if feature.is_camera}
        return Recording(columns, views, (f"task {number % 3}",) * LENGTH)


def test_moments_are_spread_over_tasks_and_over_the_course_of_episodes() -> None:
    moments = stratified(Recorded(), ROBOT, 9)
    assert [one.task for one in moments] == ["task 0", "task 1", "task 2"] * 3
    assert [one.row for one in moments] == [2, 6, 11, 15, 20, 24, 28, 33, 37], "from the beginning to the end"
    assert len({(one.episode, one.row) for one in moments}) == len({one.episode for one in moments}) == 9
    for one in moments:
        assert one.observation.images.keys() == {"corner", "gripperPOV"} and one.observation.prompt == one.task
        assert one.observation.state.tolist() == [one.row, one.episode, 0, 0] and one.episode % 3 == int(one.task[-1])
        assert all((picture == one.row).all() for picture in one.observation.images.values())


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(FoveateError, match=r"stub: no camera 'gripperPOV'.*its cameras are observation.images.corner"):
        stratified(Recorded(("corner",)), ROBOT, 8)
    source = Recorded()
    source.broken = (0, 2)
    with pytest.raises(FoveateError, match=r"stub: the state of episode 0, row 2 is not finite"):
        stratified(source, ROBOT, 9)
