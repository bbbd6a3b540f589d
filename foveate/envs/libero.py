"""LIBERO: a Franka arm in robosuite, four suites of ten tasks, two views.

Knows the simulator alone; needs the optional `libero` package, which pins old versions of its own and therefore
usually lives in another interpreter (`--env.python`). Written from LIBERO's public interface and openpi's way of
evaluating in it; not run in foveate's own tests unless LIBERO is installed (marker `libero`).

Views: `agentview` and `eye_in_hand`, both turned by 180 degrees, as openpi's checkpoints expect them.
State, float32 [8]: end-effector position (m), its orientation as axis-angle (rad), two finger positions (m).
Action, float32 [7] in [-1, 1]: end-effector translation and rotation deltas, then the gripper, positive closes.
A task is named `libero_goal/3`; `seed` chooses the initial state among those that the suite ships.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from foveate.envs.base import EnvConventions, StepResult, check_action
from foveate.envs.gl import choose_gl
from foveate.errors import FoveateError, unknown
from foveate.types import Observation

CONVENTIONS = EnvConventions(
    action_space="eef_pose+gripper", action_dim=7, delta=True, gripper_sign="positive_closes", control_hz=20.0
)
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
"""Suite -> step limit: the longest demonstration and a reserve, as openpi has it."""
CAMERAS = ("agentview", "robot0_eye_in_hand")
"""The views' names in robosuite."""
GEOM = 5
"""MuJoCo's number for a geom in a segmentation render."""
ROBOT_PARTS = ("panda", "mount", "gripper", "robot")
SETTLE_STEPS = 10
IDLE = [0.0] * 6 + [-1.0]
"""No motion, gripper open."""
_INSTALL = (
    'LIBERO is not installed in this interpreter; run: pip install "foveate[libero]", or name an interpreter that '
    "has it with --env.python"
)


class LiberoEnv:
    """LIBERO tasks behind foveate's `Env` interface; one simulator at a time is alive."""

    conventions = CONVENTIONS
    views = ("agentview", "eye_in_hand")

    def __init__(
        self, tasks: tuple[str, ...] | list[str] | None = None, image_size: int = 256, max_steps: int | None = None
    ) -> None:
        """
        tasks: e.g. `("libero_goal/0", "libero_goal/3")`; None: all of the four suites.
        image_size: side of the square pictures, in pixels.
        max_steps: steps after which an episode is done; None: the longest limit of the suites asked for.
        """
        self._benchmark, self._make, self._bddl = _libero()
        self.tasks = tuple(tasks) if tasks is not None else tuple(f"{s}/{i}" for s in MAX_STEPS for i in range(10))
        suites = {_parse(task)[0] for task in self.tasks}
        self.image_size, self.max_steps = image_size, max_steps or max(MAX_STEPS[suite] for suite in suites)
        self.task, self._prompt = "", ""
        self._sim: Any = None
        self._initial_states: Any = None
        self._raw: dict[str, np.ndarray] = {}
        self._steps = 0

    def reset(self, task: str, seed: int) -> Observation:
        if task not in self.tasks:
            raise unknown("task of this environment", task, self.tasks)
        if task != self.task:
            self._load(task)
        self._sim.seed(seed)
        self._sim.reset()
        self._raw = self._sim.set_init_state(self._initial_states[seed % len(self._initial_states)])
        for _ in range(SETTLE_STEPS):  # objects fall onto the table
            self._raw = self._sim.step(IDLE)[0]
        self._steps = 0
        return self.observe()

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        """One action. Pictures are rendered at every step by robosuite itself; `render` saves the copy alone."""
        if self._sim is None or self._steps >= self.max_steps:
            raise FoveateError("step: the episode is over or was never begun; call reset first")
        action = check_action(action, self.conventions.action_dim)
        self._raw, reward, success, _ = self._sim.step(action.tolist())
        self._steps += 1
        return StepResult(
            observation=self.observe() if render else None,
            success=bool(success),
            done=bool(success) or self._steps >= self.max_steps,
            info={"reward": float(reward)},
        )

    def observe(self) -> Observation:
        """Pictures, state and instruction of this instant."""
        raw = self._raw
        images = {
            view: np.ascontiguousarray(raw[key][::-1, ::-1])
            for view, key in zip(self.views, (f"{camera}_image" for camera in CAMERAS))  # noqa: B905
        }
        state = np.concatenate([raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]])
        return Observation(images=images, state=state.astype(np.float32), prompt=self._prompt)

    def segment(self, size: tuple[int, int] | None = None) -> dict[str, dict[str, np.ndarray]]:
        """View -> object -> bool [h, w]: where the pictures of this instant show it, by robosuite's names of objects
        (`akita_black_bowl_1`); arm, hand and mount together are the `robot`, furniture of the arena is nobody's.

        Args:
            size: width and height; None: of the policy's pictures.
        """
        if self._sim is None:
            raise FoveateError("segment: the episode was never begun; call reset first")
        width, height = size or (self.image_size, self.image_size)
        names = self._sim.env.model.geom_ids_to_instances
        masks: dict[str, dict[str, np.ndarray]] = {}
        for view, camera in zip(self.views, CAMERAS):  # noqa: B905
            ids = self._sim.env.sim.render(camera_name=camera, width=width, height=height, segmentation=True)
            geoms = np.where(ids[..., 0] == GEOM, ids[..., 1], -1)[::-1, ::-1]
            masks[view] = {}
            for number in np.unique(geoms).tolist():
                if number in names:
                    name = "robot" if any(word in names[number].lower() for word in ROBOT_PARTS) else names[number]
                    masks[view][name] = masks[view].get(name, False) | (geoms == number)
        return masks

    def close(self) -> None:
        if self._sim is not None:
            self._sim.close()
        self._sim, self.task = None, ""

    def _load(self, task: str) -> None:
        self.close()
        suite, index = _parse(task)
        benchmark = self._benchmark.get_benchmark_dict()[suite]()
        description = benchmark.get_task(index)
        bddl = Path(self._bddl) / description.problem_folder / description.bddl_file
        self._sim = self._make(bddl_file_name=str(bddl), camera_heights=self.image_size, camera_widths=self.image_size)
        self._initial_states = benchmark.get_task_init_states(index)
        self._prompt, self.task = description.language, task


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Unit quaternion [x, y, z, w] -> rotation vector [3] (rad), as robosuite computes it: w < 0 gives an angle
    beyond pi, which checkpoints were trained with (SciPy's stays below)."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * 2.0 * math.acos(w) / sine


def _parse(task: str) -> tuple[str, int]:
    suite, _, index = task.partition("/")
    if suite not in MAX_STEPS:
        raise unknown("LIBERO suite", suite, MAX_STEPS)
    if not index.isdigit() or int(index) > 9:
        raise FoveateError(f"LIBERO task {task!r}: expected {suite}/0 to {suite}/9")
    return suite, int(index)


def _libero() -> tuple[Any, Any, str]:
    """The benchmark module, the environment's class and the folder of task files."""
    choose_gl()
    try:
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv
    except ImportError as error:
        raise FoveateError(f"{_INSTALL} ({error})") from error
    return benchmark, OffScreenRenderEnv, get_libero_path("bddl_files")
