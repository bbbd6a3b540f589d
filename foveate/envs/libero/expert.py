"""A scripted expert for libero_object and libero_spatial: it sees where things are, takes one, puts it down elsewhere.

What to do follows from the present state, save for a short retreat after a miss, so the expert can say at any instant
what it would do, whoever has been driving: that is what labels of disturbed episodes and of DAgger need.

    off to the side   come down through a funnel over the grasp, fingers open, turned so that they fit
    around it         close
    held              rise over the rim of the destination, cross to its middle, lower, open
    let go            rise

What fits between the fingers is grasped from above; what is wider (bowls) at its rim, which the fingers straddle.
The simulator alone is known here: NumPy and robosuite's own objects, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.envs.libero.shapes import vertices_of
from foveate.errors import FoveateError

POSITION_GAIN = 10.0
"""Action per metre of distance."""
TURN_GAIN = 2.0
"""Action per radian."""
FIT = 0.068
"""Widest that is grasped as a whole, in m; the fingers open to 0.08."""
HAND = (0.115, 0.045)
"""Half the hand's length along the fingers' axis, and half its breadth, in m."""
OPEN = 0.07
"""Distance of the fingers, in m, from which on they count as open."""
NOTHING = 0.003
"""Closed to less than this, in m, they hold nothing."""
RIM_DEPTH, TOP_DEPTH = 0.03, 0.035
"""How far the fingers' tips reach below the top, in m: at a rim, and around a whole object."""
RIM_OUT = 0.003
"""How far outside the rim the hand's middle is, in m: a wall beyond it is pushed by one finger alone, as the other ends
there."""
RIM_ANGLES = np.radians(np.arange(0.0, 360.0, 15.0))
"""Where a rim may be taken, counterclockwise from x."""
REACH = 0.75
"""How far from the arm's foot the hand may go, pointing down, in m; the arm ends at 0.79, and a bowl hangs askew."""
RETREAT_STEPS = 12
"""After the fingers have closed on nothing."""


@dataclass(frozen=True)
class Grasp:
    """Where the hand must be to close."""

    position: np.ndarray
    """[3], m."""
    axis: np.ndarray
    """[2], unit: the direction in which the fingers close, in the plane."""


class PickAndPlace:
    """The expert of one episode; a new one for each."""

    def __init__(self, robosuite_env: Any) -> None:
        """
        robosuite_env: at the episode's first instant.

        Raises:
            FoveateError: the task asks for something else than to put one object in or on another.
        """
        self.env = robosuite_env
        goals = robosuite_env.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0] not in ("in", "on"):
            raise FoveateError(
                "the scripted expert picks one object and places it (libero_object, libero_spatial); this task's goal "
                f"is {goals}"
            )
        relation, self.target, place = goals[0]
        self.inside = relation == "in"
        loose = robosuite_env.objects_dict
        self.place = next((name for name in loose if place == name or place.startswith(f"{name}_")), "")
        if self.target not in loose or not self.place:
            raise FoveateError(f"the scripted expert cannot move {self.target} to {place}: both must be loose objects")
        self.shapes = {name: vertices_of(robosuite_env, name) for name in robosuite_env.objects_dict}
        self.floor = min(float(self._box(name)[0][2]) for name in self.shapes)
        self.misses = 0
        """How often the fingers closed on nothing."""
        self.retreat = 0
        self.closing: np.ndarray | None = None
        """Where the hand closes, [3] in m, while it does."""

    def action(self) -> np.ndarray:
        """float32 [7] in [-1, 1]: what to do now."""
        hand, opening = self._hand(), self._opening()
        low, high = self._box(self.target)
        if self._placed(low, high):
            return self._move(np.array([0.0, 0.0, 0.1]), None, -1.0)
        if self.retreat:
            self.retreat -= 1
            return self._move(np.array([0.0, 0.0, 0.1]), None, -1.0)
        if self._touched():  # to open because the fingers still move would drop what has just been gripped
            return self._carry(hand, low) if self._still() else self._move(np.zeros(3), None, 1.0)
        grasp = self._grasp(low, high)
        away = grasp.position - hand
        off = float(np.linalg.norm(away[:2]))
        if off < 0.015 and abs(away[2]) < 0.012:
            if opening < NOTHING:
                self.retreat, self.misses = RETREAT_STEPS, self.misses + 1
            # To follow what gives way between the fingers would drag it along: where they began to close, they close.
            if self.closing is None or opening >= OPEN:
                self.closing = grasp.position
            return self._move(self.closing - hand, grasp.axis, 1.0)
        self.closing = None
        # The funnel: high over the grasp while the hand is off to the side, or not turned or opened yet.
        height = float(np.clip(5.0 * (off - 0.012), 0.0, 0.08))
        if opening < OPEN or abs(self._turn(grasp.axis)) > 0.1:
            height = max(height, 0.06)
        away[2] += height
        if away[2] > 0.04:  # below the funnel's wall: rise first, or something is pushed
            away[:2] = 0.0
        return self._move(away, grasp.axis, -1.0)

    def _carry(self, hand: np.ndarray, low: np.ndarray) -> np.ndarray:
        """The action while the object is held."""
        to, top = self._destination()
        away = np.append(to - self._centre()[:2], 0.0)
        off = float(np.linalg.norm(away[:2]))
        below = float(hand[2] - low[2])
        """How far the object hangs below the hand."""
        near = 0.03 if self.inside else 0.01
        if off < near:
            away[2] = top + below - 0.005 - hand[2]
            return self._move(away, None, -1.0 if low[2] < top + 0.01 else 1.0)
        away[2] = top + 0.04 + below - hand[2]
        if away[2] > 0.03:
            away[:2] = 0.0
        return self._move(away, None, 1.0)

    def _placed(self, low: np.ndarray, high: np.ndarray) -> bool:
        """It lies where it should, or falls there."""
        to, top = self._destination()
        off = np.abs(self._centre()[:2] - to)
        if self.inside:
            low_place, high_place = self._box(self.place)
            return bool((off < (high_place - low_place)[:2] / 2 - 0.02).all() and low[2] < top - 0.005)
        return bool(np.linalg.norm(off) < 0.025 and low[2] < top + 0.01 and not self._held())

    def _destination(self) -> tuple[np.ndarray, float]:
        """The middle [2] of where the object goes, and the height of its rim or of what it will stand on."""
        low, high = self._box(self.place)
        return (low + high)[:2] / 2, float(high[2])

    def _grasp(self, low: np.ndarray, high: np.ndarray) -> Grasp:
        """How the object as it lies now is best taken."""
        points = self._points(self.target)
        centre = (low + high) / 2
        again = self.misses % 2
        z = max(high[2] - TOP_DEPTH, self.floor + 0.012)
        if high[2] - low[2] < 0.05:
            z = low[2] + (0.008 if again else 0.004)
        present = self._finger_axis()
        turns = np.radians(sorted(range(-88, 90, 8), key=abs))
        axes = np.stack([_rotated(present, turn) for turn in turns])
        spans = points[:, :2] @ axes.T
        widths = np.ptp(spans, axis=0)
        fits = widths < FIT
        if not fits.any():  # a bowl: its rim
            return self._rim(low, high)
        free = fits & self._free(centre[:2], axes, z)
        best = int(np.argmax(free)) if free.any() else int(np.argmax(fits))
        axis = axes[best]
        across = np.array([-axis[1], axis[0]])
        middle = sum((np.ptp(points[:, :2] @ a) / 2 + (points[:, :2] @ a).min()) * a for a in (axis, across))
        return Grasp(np.array([*middle, z]), axis)

    def _rim(self, low: np.ndarray, high: np.ndarray) -> Grasp:
        """Where a round rim is best taken: in +y, after a miss in -y, and from there with the least turning of the hand
        to a place from which the arm can reach where it puts the object down."""
        outwards = np.stack([np.cos(RIM_ANGLES), np.sin(RIM_ANGLES)], 1)
        from_middle = outwards * ((high - low)[:2].min() / 2 + RIM_OUT)
        put_down = self._destination()[0] + from_middle - self.env.robots[0].base_pos[:2]
        too_far = np.linalg.norm(put_down, axis=1) > REACH
        present = self._finger_axis()
        turns = np.abs(outwards[:, 1] * present[0] - outwards[:, 0] * present[1])  # their sine
        other_side = outwards[:, 1] > 0 if self.misses % 2 else outwards[:, 1] < 0
        best = np.argmin(turns + 1.0 * other_side + 2.0 * too_far)
        place = (low + high)[:2] / 2 + from_middle[best]
        return Grasp(np.array([*place, high[2] - RIM_DEPTH]), outwards[best])

    def _free(self, centre: np.ndarray, axes: np.ndarray, z: float) -> np.ndarray:
        """bool [N]: whether nothing else that is taller than the grasp stands under the hand, for each of `axes`."""
        others = np.concatenate([self._points(name) for name in self.shapes if name != self.target])
        away = others[others[:, 2] > z + 0.01][:, :2] - centre
        across = np.stack([-axes[:, 1], axes[:, 0]], 1)
        under = (np.abs(away @ axes.T) < HAND[0]) & (np.abs(away @ across.T) < HAND[1])
        free: np.ndarray = ~under.any(0)
        return free

    def _move(self, away: np.ndarray, axis: np.ndarray | None, grip: float) -> np.ndarray:
        """Towards a point `away` [3] m from the hand, upright, the fingers' axis turned to `axis`."""
        rotation = self._rotation()
        down = rotation[:, 2]  # where the fingers point; upright means straight down
        turn = np.cross(down, [0.0, 0.0, -1.0])
        if axis is not None:
            turn[2] += self._turn(axis)
        action = np.concatenate([POSITION_GAIN * away, TURN_GAIN * turn, [grip]])
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _turn(self, axis: np.ndarray) -> float:
        """The angle, in rad within a quarter turn, from the fingers' axis to `axis` or its opposite."""
        present = self._finger_axis()
        angle = np.arctan2(present[0] * axis[1] - present[1] * axis[0], present @ axis)
        return float((angle + np.pi / 2) % np.pi - np.pi / 2)

    def _rotation(self) -> np.ndarray:
        """[3, 3]: the hand's axes in the world, in columns: the one along which the fingers move, the one across, and
        where they point."""
        return self.env.sim.data.get_site_xmat(self.env.robots[0].gripper.important_sites["grip_site"])

    def _finger_axis(self) -> np.ndarray:
        axis = self._rotation()[:2, 0]
        unit: np.ndarray = axis / np.linalg.norm(axis)
        return unit

    def _hand(self) -> np.ndarray:
        return np.array(self.env.sim.data.get_site_xpos(self.env.robots[0].gripper.important_sites["grip_site"]))

    def _opening(self) -> float:
        """Distance of the fingers in m."""
        robot = self.env.robots[0]
        left, right = (self.env.sim.data.get_joint_qpos(name) for name in robot.gripper.joints)
        return float(left - right)

    def _held(self) -> bool:
        return self._touched() and self._still()

    def _touched(self) -> bool:
        """Whether both fingers touch it."""
        robot = self.env.robots[0]
        # The whole fingers, not their pads alone: a thin rim often lies against what is beside the pad.
        fingers = [robot.gripper.important_geoms[name] for name in ("left_finger", "right_finger")]
        return bool(self.env._check_grasp(gripper=fingers, object_geoms=self.env.get_object(self.target)))

    def _still(self) -> bool:
        """Whether the fingers no longer move."""
        joints = self.env.robots[0].gripper.joints
        return all(abs(self.env.sim.data.get_joint_qvel(name)) < 0.01 for name in joints)

    def _centre(self) -> np.ndarray:
        low, high = self._box(self.target)
        return (low + high) / 2

    def _points(self, name: str) -> np.ndarray:
        """[N, 3]: corners of an object in the world, in m."""
        body = self.env.obj_body_id[name]
        data = self.env.sim.data
        return self.shapes[name] @ data.body_xmat[body].reshape(3, 3).T + data.body_xpos[body]

    def _box(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        points = self._points(name)
        return points.min(0), points.max(0)


def _rotated(axis: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * axis[0] - s * axis[1], s * axis[0] + c * axis[1]])
