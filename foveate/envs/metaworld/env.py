"""Meta-World: a Sawyer arm at a table, 50 tasks, two views, a plain English instruction per task.

Knows the simulator alone; needs `pip install "foveate[sim]"` and no torch. Pictures come from an own
`mujoco.Renderer` (EGL, no shadows, reflections or multisampling): about 9 ms a picture of 224 px on a CPU,
where the stock `env.render()` takes 140 ms.

Views
    corner      the camera `corner2`, 35 degrees wide, turned by half a turn so that it stands upright
    gripperPOV  the camera in the hand, looking down; forward (away from the robot) is up

State, float32 [4]: hand x, y, z in metres (world frame) and the opening of the gripper in 0..1 (1 is open).
Action, float32 [4] in [-1, 1]: the move of the hand, 1 = 1 cm per step along x, y, z, then the gripper,
positive closes. 80 actions per simulated second.

reach, push and pick-place share one scene
    Robot, table, puck (x -0.1..0.1, y 0.6..0.7) and the region of the goal (x -0.1..0.1, y 0.8..0.9) are the
    same; the stock goal markers differ in colour alone (red, green, blue) and would give the task away. With
    `look="clear"` all three get the same green marker, enlarged from a radius of 2 to 3 cm to be seen at
    112 px, on a thin pole that shows its height above the table; the puck is painted blue, since its dark red
    on brown wood is hard to see. What still differs is in the tasks themselves: the goal of reach and
    pick-place hangs at z 0.05..0.3, from one distribution, so that only the instruction tells these two apart;
    the goal of push lies on the table (z 0.02), which the picture shows. Success is: hand within 5 cm of the
    goal (reach), puck within 5 cm (push) or 7 cm (pick-place). A puck carried to the goal therefore also
    brings the hand there: the instruction of pick-place may well succeed at reach, never the reverse.
    `look="stock"` leaves everything as Meta-World draws it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.envs.base import Advice, EnvConventions, EnvCrash, Snapshot, StepResult, check_action
from foveate.envs.gl import choose_gl
from foveate.envs.metaworld import expert
from foveate.envs.metaworld.segment import segment_views
from foveate.envs.metaworld.state import camera_of, camera_pose, robot_state
from foveate.errors import FoveateError, unknown
from foveate.types import Observation

if TYPE_CHECKING:
    import mujoco

CONVENTIONS = EnvConventions(
    action_space="eef_xyz+gripper", action_dim=4, delta=True, gripper_sign="positive_closes", control_hz=80.0
)
VIEWS = ("corner", "gripperPOV")
SHARED_SCENE = ("reach-v3", "push-v3", "pick-place-v3")
GOAL_RGBA = (0.1, 0.9, 0.1, 1.0)
GOAL_RADIUS = 0.03
POLE_RADIUS = 0.006
MAX_LOADED = 8  # simulators kept, about 30 MB each; loading one takes half a second
PUCK_RGBA = (0.1, 0.2, 1.0, 1.0)

INSTRUCTIONS = {
    "reach-v3": "move the gripper to the green marker",
    "push-v3": "push the puck along the table to the green marker",
    "pick-place-v3": "pick up the puck and carry it to the green marker",
    "button-press-topdown-v3": "press the button down from above",
    "drawer-open-v3": "open the drawer",
    "drawer-close-v3": "close the drawer",
    "window-open-v3": "slide the window open",
    "window-close-v3": "slide the window closed",
    "door-open-v3": "open the door",
    "peg-insert-side-v3": "insert the peg into the hole from the side",
}
"""Tasks not named here are told by their own name, hyphens as spaces."""

_INSTALL = 'Meta-World is not installed; run: pip install "foveate[sim]"'


def instruction_of(task: str) -> str:
    """The instruction of a task named with its `-v3`."""
    return INSTRUCTIONS.get(task, re.sub(r"-v\d+$", "", task).replace("-", " "))


def all_tasks() -> tuple[str, ...]:
    """Names of the tasks that the installed Meta-World has, e.g. `reach-v3`."""
    return tuple(_metaworld().ALL_V3_ENVIRONMENTS)


def canonical_task(task: str) -> str:
    """`reach` or `reach-v3` -> `reach-v3`; an unknown task is an error with the nearest names."""
    name = task if re.search(r"-v\d+$", task) else f"{task}-v3"
    if name not in (known := all_tasks()):
        raise unknown("Meta-World task", name, known)
    return name


def _metaworld() -> Any:
    choose_gl()
    try:
        from metaworld import env_dict
    except ImportError as error:
        raise FoveateError(f"{_INSTALL} ({error})") from error
    return env_dict


class MetaWorldEnv:
    """Meta-World tasks behind foveate's `Env` interface. The simulators of the last tasks stay loaded."""

    conventions = CONVENTIONS
    views = VIEWS

    def __init__(
        self,
        tasks: tuple[str, ...] | list[str] | None = None,
        image_size: int = 224,
        max_steps: int = 250,
        look: Literal["clear", "stock"] = "clear",
    ) -> None:
        """
        tasks: the tasks to offer, with or without `-v3`; None: all.
        image_size: side of the square pictures, in pixels.
        max_steps: steps after which an episode is done, at most 500 (Meta-World's own limit).
        look: see the module's docstring.
        """
        if not 1 <= max_steps <= 500:
            raise FoveateError(f"max_steps: Meta-World episodes have 1 to 500 steps, got {max_steps}")
        if look not in ("clear", "stock"):
            raise unknown("look", look, ("clear", "stock"))
        self.tasks = tuple(canonical_task(t) for t in tasks) if tasks is not None else all_tasks()
        self.image_size, self.max_steps, self.look = image_size, max_steps, look
        self.task = ""
        self._loaded: OrderedDict[str, tuple[Any, Any, mujoco.Renderer]] = OrderedDict()
        self._sim: Any = None
        self._recording: tuple[str, tuple[int, int], mujoco.Renderer] | None = None
        self._raw = np.zeros(39)
        self._steps = 0

    def reset(self, task: str, seed: int) -> Observation:
        """Start `task` in the scene that `seed` gives."""
        task = canonical_task(task)
        if task not in self.tasks:
            raise unknown("task of this environment", task, self.tasks)
        import mujoco

        if task not in self._loaded:
            self._loaded[task] = self._load(task)
        self._loaded.move_to_end(task)
        if len(self._loaded) > MAX_LOADED:
            self._drop_recording()
            self._loaded.popitem(last=False)[1][2].close()
        self._sim, self._expert, self._renderer = self._loaded[task]
        self.task = task
        self._sim.seed(seed)
        self._sim.reset()
        # Objects and the goal's marker have moved in the model alone; what `reset` returns still has their old places.
        mujoco.mj_forward(self._sim.model, self._sim.data)
        self._raw = self._sim._get_obs()
        self._steps = 0
        return self.observe()

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        """One action, clipped to [-1, 1]."""
        if self._sim is None or self._steps >= self.max_steps:
            raise FoveateError("step: the episode is over or was never begun; call reset first")
        action = np.clip(check_action(action, self.conventions.action_dim), -1.0, 1.0)
        self._raw, reward, _, _, info = self._sim.step(action)
        self._steps += 1
        if not np.isfinite(self._raw).all():
            raise EnvCrash(f"{self.task}: the simulation became unstable at step {self._steps}")
        return StepResult(
            observation=self.observe() if render else None,
            success=bool(info["success"]),
            done=self._steps >= self.max_steps,
            info={"reward": float(reward)},
        )

    def observe(self) -> Observation:
        """Pictures, state and instruction of this instant."""
        return Observation(images=self.render(), state=self.state, prompt=instruction_of(self.task))

    @property
    def raw(self) -> np.ndarray:
        """float64 [39]: Meta-World's own vector with the positions of objects and goal; never for a policy."""
        return self._raw

    @property
    def state(self) -> np.ndarray:
        """float32 [4]: hand x, y, z (m), gripper opening 0..1."""
        return self._raw[:4].astype(np.float32)

    def render(self, renderer: mujoco.Renderer | None = None) -> dict[str, np.ndarray]:
        """View -> uint8 [image_size, image_size, 3], or of another renderer's size."""
        images, renderer = {}, renderer or self._renderer
        for view in self.views:
            renderer.update_scene(self._sim.data, camera=camera_of(view))
            if self.look == "clear" and self.task in SHARED_SCENE:
                self._draw_pole(renderer.scene)
            picture = renderer.render()
            images[view] = np.ascontiguousarray(picture[::-1, ::-1] if view == "corner" else picture)
        return images

    def snapshot(self, size: tuple[int, int] | None = None) -> Snapshot:
        """Joints, hand and cameras of this instant, and pictures rendered at (width, height), if asked.

        A wider picture shows more to the left and right: the height is what the field of view is fixed to.
        """
        images = {} if size is None else self.render(self._record_renderer(size))
        width, height = size or (self.image_size, self.image_size)
        return Snapshot(
            images=images,
            robot=robot_state(self._sim),
            cameras={view: camera_pose(self._sim, view, width, height) for view in self.views},
        )

    def segment(self, size: tuple[int, int] | None = None) -> dict[str, dict[str, np.ndarray]]:
        """View -> object -> bool [h, w]: where the pictures of this instant show it; see `metaworld_segment`.

        Args:
            size: width and height, as of a snapshot; None: of the policy's pictures.
        """
        renderer = self._renderer if size is None else self._record_renderer(size)
        shared = self.look == "clear" and self.task in SHARED_SCENE
        add = self._draw_pole if shared else lambda scene: None
        return segment_views(self._sim.model, self._sim.data, renderer, self.views, add)

    def _record_renderer(self, size: tuple[int, int]) -> mujoco.Renderer:
        """Of the task at hand; one is kept, for a recording plays task after task."""
        if self._recording is None or self._recording[:2] != (self.task, size):
            self._drop_recording()
            self._recording = (self.task, size, self._make_renderer(self._sim.model, size))
        return self._recording[2]

    def _drop_recording(self) -> None:
        if self._recording is not None:
            self._recording[2].close()
        self._recording = None

    def advise(self) -> Advice:
        """What a scripted expert, who sees positions, would do now: Meta-World's own, or `expert`'s."""
        if self.task in expert.TASKS:
            return Advice(self.state, expert.grasp_and_move(self._raw, lift=self.task == "pick-place-v3"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = self._expert.get_action(self._raw)
        return Advice(self.state, np.clip(action, -1.0, 1.0).astype(np.float32))

    def close(self) -> None:
        for _, _, renderer in self._loaded.values():
            renderer.close()
        self._drop_recording()
        self._loaded.clear()
        self._sim, self.task = None, ""

    def _load(self, task: str) -> tuple[Any, Any, mujoco.Renderer]:
        """Simulator, scripted expert and renderer of a task."""
        sim = _metaworld().ALL_V3_ENVIRONMENTS[task]()
        # The goal belongs into the raw vector (the expert reads it; `state` does not), and `reset(seed=)` seeds
        # nothing: the random vector comes from the generator that `sim.seed` sets.
        sim._partially_observable = False
        sim.__dict__.pop("sawyer_observation_space", None)  # cached for a hidden goal; clips the goal to 0
        sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
        from metaworld.policies import ENV_POLICY_MAP

        model = sim.model
        model.vis.quality.offsamples = 0
        model.cam("corner2").fovy = 35.0
        if self.look == "clear" and task in SHARED_SCENE:
            goal, puck = model.site("goal"), model.geom("objGeom")
            goal.rgba, goal.size = GOAL_RGBA, np.full(3, GOAL_RADIUS)
            puck.matid, puck.rgba = -1, PUCK_RGBA
        return sim, ENV_POLICY_MAP[task](), self._make_renderer(model, (self.image_size, self.image_size))

    def _make_renderer(self, model: Any, size: tuple[int, int]) -> mujoco.Renderer:
        import mujoco

        model.vis.global_.offwidth = max(model.vis.global_.offwidth, size[0])
        model.vis.global_.offheight = max(model.vis.global_.offheight, size[1])
        try:
            renderer = mujoco.Renderer(model, size[1], size[0])
        except Exception as error:  # the kind depends on which GL library is missing
            raise FoveateError(
                f"no OpenGL to render with (MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}); `foveate doctor` "
                "says what to install; set MUJOCO_GL=egl or osmesa where mujoco is imported before foveate's simulator"
            ) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        return renderer

    def _draw_pole(self, scene: Any) -> None:
        """A thin cylinder from the table to the goal, so that one picture tells where in space the goal hangs."""
        import mujoco

        goal = self._sim._target_pos
        geom = scene.geoms[scene.ngeom]
        zero, colour = np.zeros(3), np.array(GOAL_RGBA, dtype=np.float32)
        mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_CYLINDER, zero, zero, np.eye(3).ravel(), colour)
        foot = np.array([goal[0], goal[1], 0.0])
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CYLINDER, POLE_RADIUS, foot, np.asarray(goal, float))
        scene.ngeom += 1
