"""Entries without a width, held to what NumPy says of the others."""

from __future__ import annotations

import numpy as np

from foveate.models.common.normalize import Normalizer, RunningStats
from foveate.training.spread import with_width


def test_entries_that_hardly_vary() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 4))
    rows[:, 1] = 0.3  # constant
    rows[:, 2] = 0
    rows[:5, 2] = 0.04  # closed in half a percent of the rows
    rows[:, 3] *= 1e-3
    running = RunningStats()
    running.update(rows)
    stats, told = with_width(running, ["x", "spare", "gripper", "tilt"])
    assert told == [
        "[1], spare: constant at 0.3; it is normalised to 0",
        "[2], gripper: 0 in 98 % of the rows; its least and greatest value, 0 and 0.04, stand for q01 and q99",
    ]
    np.testing.assert_allclose(stats.q01, [np.quantile(rows[:, 0], 0.01), -0.7, 0, np.quantile(rows[:, 3], 0.01)], 1e-5)
    assert stats.std[1] == 1 and np.abs(Normalizer(stats).normalize(rows)[:, 1]).max() < 1e-6

    wide, _ = with_width(running, min_share=0.05)
    spread = np.quantile(rows[:, 0], 0.99) - np.quantile(rows[:, 0], 0.01)
    np.testing.assert_allclose((wide.q99 - wide.q01)[[0, 2, 3]], [spread, 0.05 * spread, 0.05 * spread], 1e-4)
    np.testing.assert_allclose(wide.std[[0, 2, 3]], [rows[:, 0].std(), *[0.05 * rows[:, 0].std()] * 2], 1e-4)
    np.testing.assert_allclose((wide.q01 + wide.q99)[[1, 2]] / 2, [0.3, 0.02], 1e-5)
