"""A width for entries of a vector that hardly vary: normalisation divides by it."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.models.common.normalize import NormStats, RunningStats

CONSTANT = 1e-6
"""What varies less, as a share of its size or absolutely, is taken for constant; openpi divides by 1e-6 there."""


def with_width(running: RunningStats, names: Sequence[str] = (), min_share: float = 0.0) -> tuple[NormStats, list[str]]:
    """The statistics, and a sentence for each entry that has no width of its own.

    A constant c gets the quantiles c - 1 and c + 1 and the deviation 1, so that it becomes 0 and what is near it stays
    near. Where only the quantiles agree (a gripper that is hardly ever closed), least and greatest value take their
    place.

    Args:
        names: of the entries.
        min_share: quantiles of the others are kept at least this share of the widest spread apart, deviations alike.
    """
    found = running.result()
    assert found.q01 is not None and found.q99 is not None
    std, q01, q99 = found.std.copy(), found.q01.copy(), found.q99.copy()
    spread = q99 - q01
    least_spread, least_std = (min_share * max(float(each.max()), 1e-3) for each in (spread, std))
    told = []
    for i, (low, high) in enumerate(zip(running.low, running.high, strict=True)):
        least = CONSTANT * max(1.0, abs(low), abs(high))
        name = names[i] if names else f"entry {i}"
        if high - low <= least:
            q01[i], q99[i], std[i] = low - 1, high + 1, 1
            told.append(f"[{i}], {name}: constant at {low:g}; it is normalised to 0")
            continue
        if spread[i] <= least:
            told.append(
                f"[{i}], {name}: {q01[i]:g} in 98 % of the rows; its least and greatest value, {low:g} and {high:g}, "
                "stand for q01 and q99"
            )
            q01[i], q99[i] = low, high
        missing = max(least_spread - (q99[i] - q01[i]), 0)
        q01[i], q99[i], std[i] = q01[i] - missing / 2, q99[i] + missing / 2, max(std[i], least_std)
    return NormStats(found.mean, std, q01, q99), told
