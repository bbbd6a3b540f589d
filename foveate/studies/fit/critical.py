"""Where a small error of an action costs most: the gripper changes, the hand is stopped, its path bends.

    facts = [window_facts(episode, of_robot(robot), steps=5) for ...]      # raw, of each keyframe's next steps
    found = critical(facts)                                               # Kind -> bool [frames], over the whole set

Errors on such intervals tell more of a policy's success than those of all frames (arXiv 2606.29898: Spearman -0.87
against -0.61). No format of recordings says where the hand touches something; what stands for a contact here is a hand
that was moving and is brought almost to a stop. Thresholds are shares of what the whole set shows, so that they hold in
any robot's units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from foveate.models.common.robots import RobotMapping

Kind = Literal["gripper", "contact", "curvature"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRIPPER_WORDS = ("gripper", "finger")
CHANGE = 0.25
"""Change of the gripper, as a share of its range over the set, from which on it counts."""
STOP = 0.25
"""A hand that moves this share of what it moved before is brought to a stop."""
SHARPEST = 0.1
"""Share of the frames whose paths bend most."""
STRAIGHT = np.deg2rad(20)
"""A path that bends less is straight, however few bend more."""


@dataclass(frozen=True)
class Entries:
    """Which numbers of a robot are what."""

    position: tuple[int, ...]
    """Of the state: the hand's position, or the joints where it has none."""
    gripper_state: tuple[int, ...]
    gripper_action: tuple[int, ...]


def of_robot(robot: RobotMapping) -> Entries:
    """By the names of the state's parts, and what the mapping says of the gripper."""
    position: list[int] = []
    named: list[int] = []
    gripper: list[int] = []
    start = 0
    for name, size in robot.state:
        entries = range(start, start + size)
        start += size
        if any(word in name for word in GRIPPER_WORDS):
            gripper += entries
        else:
            position += entries
            named += entries if "position" in name else ()
    action = robot.gripper.dims
    if not action and str(robot.conventions.get("action_space", "")).endswith("gripper"):
        action = (robot.action_dim - 1,)
    return Entries(tuple(named or position), tuple(gripper), tuple(action))


def window_facts(
    states: np.ndarray, actions: np.ndarray, starts: Sequence[int], entries: Entries, steps: int
) -> list[dict[str, Any]]:
    """What happens in the `steps` steps from each start on; plain values.

    Args:
        states: float [T, S]. actions: float [T, A].
    Returns:
        `gripper`: lowest and highest value of each gripper entry, state then action; `before`, `after`: how far the
        hand moves in as many steps before and after; `bend`: angle between the two displacements, radians.
    """
    last = len(states) - 1
    place = states[:, list(entries.position)].astype(np.float64)
    grip = np.concatenate([states[:, list(entries.gripper_state)], actions[:, list(entries.gripper_action)]], axis=1)
    facts = []
    for start in starts:
        stop = min(start + steps, last)
        came, goes = place[start] - place[max(start - steps, 0)], place[stop] - place[start]
        before, after = float(np.linalg.norm(came)), float(np.linalg.norm(goes))
        cosine = float(came @ goes) / max(before * after, 1e-300)
        seen = grip[max(start - 1, 0) : stop + 1]
        facts.append(
            {
                "gripper": [[float(low), float(high)] for low, high in zip(seen.min(0), seen.max(0), strict=True)],
                "before": before,
                "after": after,
                "bend": float(np.arccos(np.clip(cosine, -1, 1))) if before > 0 and after > 0 else 0.0,
            }
        )
    return facts


def critical(facts: Sequence[Mapping[str, Any]]) -> dict[Kind, np.ndarray]:
    """Kind -> bool [frames], which of them are critical; thresholds are those of all frames given."""
    grip = np.array([fact["gripper"] for fact in facts], np.float64).reshape(len(facts), -1, 2)
    before, after, bend = (np.array([fact[name] for fact in facts], np.float64) for name in ("before", "after", "bend"))
    found: dict[Kind, np.ndarray] = {kind: np.zeros(len(facts), bool) for kind in KINDS}
    if grip.shape[1] and len(facts):
        whole = grip[..., 1].max(0) - grip[..., 0].min(0)
        change = (grip[..., 1] - grip[..., 0]) / np.where(whole > 0, whole, np.inf)
        found["gripper"] = np.asarray((change > CHANGE).any(axis=1))
    usual = float(np.median(before[before > 0])) if (before > 0).any() else np.inf
    found["contact"] = np.asarray((before >= usual / 2) & (after <= STOP * before))
    # The direction of a hand that hardly moves means nothing.
    moving = (before > STOP * usual) & (after > STOP * usual)
    if moving.any():
        found["curvature"] = moving & (bend >= max(STRAIGHT, float(np.quantile(bend[moving], 1 - SHARPEST))))
    return found
