"""Exact low and high quantiles of columns that come in batches, holding nothing but the columns' ends.

The 1 % and 99 % quantiles of N rows depend on the lowest and the highest 1 % alone. Where N is known beforehand, one
pass suffices, and memory for 2 % of the rows.
"""

from __future__ import annotations

import numpy as np

BATCH = 65_536
"""Rows that are gathered before the ends are cut out again."""


class Tails:
    """The lowest and highest values of each of D columns."""

    def __init__(self, total: int, share: float = 0.01) -> None:
        """
        Args:
            total: rows that will come, at most.
            share: of the rows at each end, up to which quantiles can be asked for.
        """
        self.share, self.total, self.count = share, total, 0
        self._keep = int(np.ceil(total * share)) + 2
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._gathered = 0

    def update(self, rows: np.ndarray) -> None:
        """Add rows [n, D]."""
        self.count += len(rows)
        if self.count > self.total:
            raise ValueError(f"expected at most {self.total} rows, got {self.count}")
        self._low.append(rows)
        self._high.append(rows)
        self._gathered += len(rows)
        if self._gathered >= self._keep + BATCH:
            self._cut()

    def _cut(self) -> None:
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        if len(low) > self._keep:
            low = np.partition(low, self._keep - 1, axis=0)[: self._keep]
            high = np.partition(high, len(high) - self._keep, axis=0)[-self._keep :]
        self._low, self._high, self._gathered = [low], [high], 0

    def quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        """[D] each: the quantiles `share` and `1 - share`, between two rows linearly, as `numpy.quantile`."""
        self._cut()
        low, high = np.sort(self._low[0], axis=0), np.sort(self._high[0], axis=0)[::-1]
        place = (self.count - 1) * self.share
        floor = int(place)
        above = min(floor + 1, self.count - 1)
        weight = place - floor
        ends = [rows[floor] + weight * (rows[above] - rows[floor]) for rows in (low, high)]
        return ends[0], ends[1]
