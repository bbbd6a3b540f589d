"""LIBERO's HDF5 demonstrations (`<task>_demo.hdf5`) as recordings.

    data                     attributes problem_info (JSON with language_instruction), env_args
    data/demo_0/actions      [T, 7]
    data/demo_0/obs/         agentview_rgb, eye_in_hand_rgb [T, H, W, 3]; ee_states [T, 6], gripper_states [T, 2]

The state is that of `foveate/robots/libero.yaml`: position, axis-angle, the two fingers. The simulator's pictures stand
on their heads; they are turned by 180 degrees, as every policy of LIBERO was trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.conversion.base import ACTION, IMAGES, STATE, Recording, camera, vector
from foveate.errors import FoveateError

CAMERAS = {"agentview_rgb": "image", "eye_in_hand_rgb": "wrist_image"}
"""Data set -> the name that the robot mapping knows."""
FPS = 20.0
STATE_NAMES = ("x", "y", "z", "ax", "ay", "az", "finger_1", "finger_2")


class LiberoHdf5Source:
    """A file, or a folder of files; demonstrations in the order of the files' names and their own numbers."""

    robot_type = "panda"
    fps = FPS

    def __init__(self, path: Path) -> None:
        files = [path] if path.is_file() else sorted(path.glob("*.hdf5"))
        self.name = f"libero_hdf5 {path}"
        self._demos: list[tuple[Path, str]] = []
        for file in files:
            with _opened(file) as opened:
                demos = [name for name in opened.get("data", {}) if name.startswith("demo_")]
            self._demos += [(file, name) for name in sorted(demos, key=lambda name: int(name.rpartition("_")[2]))]
        if not self._demos:
            raise FoveateError(f"{path}: no *.hdf5 with data/demo_0 in it")
        first = self.read(0)
        cameras = [camera(name.removeprefix(IMAGES), next(iter(p))) for name, p in first.pictures.items()]
        names = STATE_NAMES if first.columns[STATE].shape[1] == len(STATE_NAMES) else ()
        vectors = [vector(STATE, first.columns[STATE].shape[1], names), vector(ACTION, first.columns[ACTION].shape[1])]
        self.features = {feature.name: feature for feature in (*cameras, *vectors)}

    def __len__(self) -> int:
        return len(self._demos)

    def read(self, number: int) -> Recording:
        file, demo = self._demos[number]
        with _opened(file) as opened:
            group = opened[f"data/{demo}"]
            actions = _read(group, "actions", file, demo)
            states = [_read(group, f"obs/{name}", file, demo) for name in ("ee_states", "gripper_states")]
            there = [name for name in CAMERAS if f"obs/{name}" in group]
            task = _instruction(opened, file)
        return Recording(
            columns={STATE: np.concatenate(states, axis=1).astype(np.float32), ACTION: actions.astype(np.float32)},
            pictures={f"{IMAGES}{CAMERAS[name]}": _pictures(file, f"data/{demo}/obs/{name}") for name in there},
            tasks=(task,) * len(actions),
            about={"env_task": file.stem.removesuffix("_demo"), "outcome": "success"},
        )


def _pictures(file: Path, name: str) -> Iterator[np.ndarray]:
    with _opened(file) as opened:
        for picture in opened[name]:
            yield np.ascontiguousarray(picture[::-1, ::-1])


def _instruction(opened: Any, file: Path) -> str:
    try:
        text = json.loads(opened["data"].attrs["problem_info"])["language_instruction"]
    except (KeyError, ValueError, TypeError):
        return file.stem.removesuffix("_demo").replace("_", " ")
    return str("".join(text) if isinstance(text, list) else text).strip().strip('"')


def _read(group: Any, name: str, file: Path, demo: str) -> np.ndarray:
    if name not in group:
        raise FoveateError(f"{file}: data/{demo}/{name} is missing; expected a demonstration of LIBERO")
    values: np.ndarray = group[name][()]
    return values


def _opened(file: Path) -> Any:
    import h5py

    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise FoveateError(f"{file}: cannot be read as HDF5 ({error}); copy it again") from error
