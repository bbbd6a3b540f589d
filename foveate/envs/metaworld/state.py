"""What a Meta-World simulation knows of its robot and cameras, under the names of DROID recordings.

NumPy, and the SciPy that Meta-World brings.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

JOINTS = tuple(f"right_j{i}" for i in range(7))
OPENCV = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up; recordings say z forward, y down."""
HALF_TURN = np.diag([-1.0, -1.0, 1.0])


def camera_of(view: str) -> str:
    """Name of a view's camera in the simulation."""
    return "corner2" if view == "corner" else view


def robot_state(sim: Any) -> dict[str, np.ndarray]:
    """As `envs.base.Snapshot.robot`."""
    hand = sim.data.body("hand")
    return {
        "joint_positions": np.array([sim.data.joint(name).qpos[0] for name in JOINTS]),
        "joint_velocities": np.array([sim.data.joint(name).qvel[0] for name in JOINTS]),
        "cartesian_position": pose(hand.xpos, hand.xmat.reshape(3, 3)),
        "gripper_position": np.asarray(1.0 - sim._get_curr_obs_combined_no_goal()[3]),
    }


def camera_pose(sim: Any, view: str, width: int, height: int) -> dict[str, np.ndarray]:
    """Intrinsics [3, 3] in pixels and extrinsics [6], as `envs.base.Snapshot.cameras`."""
    name = camera_of(view)
    camera = sim.data.cam(name)
    focal = height / 2 / np.tan(np.radians(float(sim.model.cam(name).fovy[0])) / 2)
    rotation = camera.xmat.reshape(3, 3) @ OPENCV
    if view == "corner":
        rotation = rotation @ HALF_TURN  # its picture is turned to stand upright
    return {
        "intrinsics": np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]),
        "extrinsics": pose(camera.xpos, rotation),
    }


def pose(position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """float64 [6]: x, y, z, then the angles about the fixed axes x, y, z (SciPy's "xyz") of a rotation matrix.

    Where the second angle is a right angle, as with a hand that looks straight down, the other two turn about one axis:
    their values alone mean nothing then, the rotation that the three make does.
    """
    from scipy.spatial.transform import Rotation

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock")
        return np.array([*position, *Rotation.from_matrix(rotation).as_euler("xyz")])
