"""Writer of DROID-format episode folders, the format that the attention pipelines of DROID users read.

    <root>/<outcome>/YYYY-MM-DD/YYYY-MM-DD_HH-MM-SS/
        instruction.txt                 the instruction in plain words
        trajectory.h5                   T rows, see `trajectory_fields`
        calibration.json                camera -> view, resolution; intrinsics and extrinsics where known, else null
        episode.json                    which episode this is (task, seed, ...); foveate's own addition
        recordings/frames/<camera>/00000.jpg .. one picture per row
        recordings/<camera>.mp4         written by whoever records

Only what the source has is written: a simulator with two views leaves `varied_camera_2` out, numbers that it does not
report are NaN in fields of fixed width and absent otherwise. `outcome` is success, failure or crash.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

OUTCOMES = ("success", "failure", "crash")
STAMP = "%Y-%m-%d_%H-%M-%S"
CAMERAS = {
    "gripperPOV": "hand_camera",
    "eye_in_hand": "hand_camera",
    "wrist": "hand_camera",
    "corner": "varied_camera_1",
    "agentview": "varied_camera_1",
}
"""View of a simulator -> DROID's camera name; further views become varied_camera_1, _2 in their order."""


def camera_names(views: tuple[str, ...]) -> dict[str, str]:
    """View -> DROID camera, one each, for the views of one robot."""
    names = {view: CAMERAS[view] for view in views if view in CAMERAS}
    free = [f"varied_camera_{i}" for i in range(1, len(views) + 2) if f"varied_camera_{i}" not in names.values()]
    return {view: names.get(view) or free.pop(0) for view in views}


def trajectory_fields(
    states: np.ndarray,
    actions: np.ndarray,
    control_hz: float,
    action_space: str,
    robot: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Names in `trajectory.h5` -> arrays of T rows.

    Raw numbers are always there, in the units of the environment: `observation/robot_state/state` [T, S] and
    `action/command` [T, A]. Of a hand that is moved by displacements (`action_space` "eef_xyz+gripper", Meta-World) the
    normalised command in [-1, 1] is `action/cartesian_velocity` [T, 6], its rotation NaN: none is commanded.

    What the environment tells of its robot gives the rest, under DROID's names:
        observation/robot_state/  cartesian_position [T, 6] (m, rad), gripper_position [T] (0 open, 1 closed),
                                  joint_positions [T, 7] (rad), joint_velocities [T, 7] (rad/s); the same under
                                  action/robot_state/
        action/                   cartesian_position, gripper_position, joint_position, joint_velocity: where the action
                                  led, which is the next row's state (these robots are commanded by displacements, not
                                  by targets); gripper_delta [T]: the gripper's change over the step

    Args:
        states: float32 [T, S], before each action.
        actions: float32 [T, A], as executed.
        robot: the four names of `observation/robot_state` -> [T + 1, ...], the last row after the last action; None:
            the environment does not tell. Without it, hand and gripper of "eef_xyz+gripper" come from the state.
    """
    steps = (np.arange(len(actions)) * 1000 / control_hz).astype(np.int64)
    fields = {
        "observation/robot_state/state": states,
        "observation/timestamp/control/step_start": steps,
        "action/command": actions,
        "action/timestamp/control/step_start": steps,
    }
    unknown = np.full((len(actions), 3), np.nan, np.float32)
    if action_space == "eef_xyz+gripper":
        fields |= {
            "action/cartesian_velocity": np.hstack([actions[:, :3], unknown]),
            "action/gripper_velocity": actions[:, 3],
        }
    if robot is not None:
        before = {name: values[:-1] for name, values in robot.items()}
        after = {name: values[1:] for name, values in robot.items()}
        fields |= {
            "action/cartesian_position": after["cartesian_position"],
            "action/gripper_position": after["gripper_position"],
            "action/gripper_delta": after["gripper_position"] - before["gripper_position"],
            "action/joint_position": after["joint_positions"],
            "action/joint_velocity": after["joint_velocities"],
        }
    elif action_space == "eef_xyz+gripper":
        before = {"cartesian_position": np.hstack([states[:, :3], unknown]), "gripper_position": 1 - states[:, 3]}
    else:
        before = {}
    for name, values in before.items():
        fields |= {f"{group}/robot_state/{name}": values for group in ("observation", "action")}
    return fields


class DroidEpisode:
    """One episode in the making; becomes visible under its outcome when it is finished."""

    def __init__(self, root: Path, stamp: str, views: tuple[str, ...]) -> None:
        self.root, self.stamp, self.cameras = root, stamp, camera_names(views)
        self.folder = root / ".partial" / stamp
        self.recordings = self.folder / "recordings"
        self._rows = 0
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._robot: list[Mapping[str, np.ndarray]] = []
        self._cameras: list[Mapping[str, Mapping[str, np.ndarray]]] = []
        self._sizes: dict[str, list[int]] = {}
        for camera in self.cameras.values():
            (self.recordings / "frames" / camera).mkdir(parents=True)

    def add(
        self,
        images: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        robot: Mapping[str, np.ndarray] | None = None,
        cameras: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        """One row: what was seen (view -> uint8 [H, W, 3]), and the action taken then.

        Args:
            robot: one row of `trajectory_fields`' robot, where the environment tells.
            cameras: view -> `intrinsics` [3, 3], `extrinsics` [6]; of this row, for a camera on the hand moves.
        """
        from PIL import Image

        for view, camera in self.cameras.items():
            path = self.recordings / "frames" / camera / f"{self._rows:05d}.jpg"
            Image.fromarray(images[view]).save(path, quality=95)
            self._sizes[camera] = [images[view].shape[1], images[view].shape[0]]
        self._states.append(np.asarray(state, np.float32))
        self._actions.append(np.asarray(action, np.float32))
        self._robot += [robot] if robot is not None else []
        self._cameras += [cameras] if cameras is not None else []
        self._rows += 1

    def end(self, robot: Mapping[str, np.ndarray] | None) -> None:
        """The robot after the last action, where the environment tells."""
        self._robot += [robot] if robot is not None else []

    def finish(
        self, outcome: str, instruction: str, control_hz: float, action_space: str, about: Mapping[str, Any]
    ) -> Path:
        """Write what is left and move the folder to its place, which is returned.

        Args:
            about: content of `episode.json`.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome: expected one of {', '.join(OUTCOMES)}, got {outcome!r}")
        (self.folder / "instruction.txt").write_text(instruction + "\n", encoding="utf-8")
        calibration = {
            camera: {"view": view, "resolution": self._sizes.get(camera), **self._pose(view)}
            for view, camera in self.cameras.items()
        }
        (self.folder / "calibration.json").write_text(json.dumps(calibration, indent=2) + "\n")
        (self.folder / "episode.json").write_text(json.dumps(dict(about), indent=2, ensure_ascii=False) + "\n")
        if self._rows:
            self._write_trajectory(control_hz, action_space, outcome)
        target = self.root / outcome / self.stamp[:10] / self.stamp
        target.parent.mkdir(parents=True, exist_ok=True)
        return self.folder.rename(target)

    def _pose(self, view: str) -> dict[str, Any]:
        """Of the first row; `trajectory.h5` has every row's."""
        known = self._cameras[0][view] if self._cameras else {}
        return {key: known[key].tolist() if key in known else None for key in ("intrinsics", "extrinsics")}

    def _write_trajectory(self, control_hz: float, action_space: str, outcome: str) -> None:
        import h5py

        robot = None
        # A crash ends without a state after the last action.
        if len(self._robot) == self._rows + 1:
            robot = {name: np.stack([row[name] for row in self._robot]) for name in self._robot[0]}
        fields = trajectory_fields(np.stack(self._states), np.stack(self._actions), control_hz, action_space, robot)
        last = np.arange(self._rows) == self._rows - 1
        for name in ("success", "failure"):
            fields[f"action/controller_info/{name}"] = last & (outcome == name)
        for view, camera in self.cameras.items():
            # DROID's code: 0 is the camera on the hand, 1 one beside the robot.
            fields[f"observation/camera_type/{camera}"] = np.full(self._rows, int(camera != "hand_camera"), np.int64)
            if len(self._cameras) == self._rows:
                for key in ("intrinsics", "extrinsics"):
                    fields[f"observation/camera_{key}/{camera}"] = np.stack([row[view][key] for row in self._cameras])
        with h5py.File(self.folder / "trajectory.h5", "w") as file:
            for name, values in fields.items():
                file.create_dataset(name, data=values)
            file.attrs["control_hz"] = control_hz
            file.attrs["action_space"] = action_space


class DroidWriter:
    """A folder of episodes; safe to use from several threads.

    What an interrupted run left unfinished is removed on opening.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root / ".partial", ignore_errors=True)
        self._lock = threading.Lock()
        self._stamps = {folder.name for folder, _ in self.episodes()}

    def episodes(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Finished episodes with their `episode.json`."""
        for outcome in OUTCOMES:
            for about in sorted((self.root / outcome).glob("*/*/episode.json")):
                yield about.parent, json.loads(about.read_text(encoding="utf-8"))

    def begin(self, views: tuple[str, ...], started: datetime | None = None) -> DroidEpisode:
        """A new episode, named after the first second from `started` on that no other episode has."""
        started = started or datetime.now()
        with self._lock:
            while (stamp := started.strftime(STAMP)) in self._stamps:
                started += timedelta(seconds=1)
            self._stamps.add(stamp)
        return DroidEpisode(self.root, stamp, views)
