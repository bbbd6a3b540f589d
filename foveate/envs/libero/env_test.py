import contextlib
import hashlib
import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foveate.envs.libero import LiberoEnv, axis_angle, install
from foveate.envs.libero.suites import SUITES, base_of, task_names
from foveate.errors import FoveateError
from foveate.testing.golden import golden_dir

HAS_LIBERO = importlib.util.find_spec("libero") is not None


def test_axis_angle():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(axis_angle(np.array([half, 0, 0, half])), [np.pi / 2, 0, 0])
    np.testing.assert_allclose(axis_angle(np.array([0, 0, 0, 1.0])), 0)
    # w < 0 is the same turn the long way round; it is not shortened.
    np.testing.assert_allclose(axis_angle(np.array([0, 0, half, -half])), [0, 0, 1.5 * np.pi])


@pytest.mark.skipif(HAS_LIBERO, reason="LIBERO is installed")
def test_missing_package_is_one_clear_sentence():
    with pytest.raises(FoveateError, match=r'pip install "foveate\[libero\]"'):
        LiberoEnv()


def stand_in(tmp_path, suites):
    """A LiberoEnv over a package that holds these suites, without a simulator."""
    benchmark = SimpleNamespace(get_benchmark_dict=lambda: suites)
    env = object.__new__(LiberoEnv)
    env.task, env._sim, env.about = "", None, {"versions": {"libero": "0.1.0"}}
    env._libero = install.Libero(benchmark, None, tmp_path, tmp_path)
    env.tasks = ("libero_goal_lan/0", "libero_goal/0")
    return env


def test_a_suite_that_the_package_lacks_and_a_missing_definition_are_named(tmp_path):
    task = SimpleNamespace(problem_folder="libero_goal", bddl_file="open_it.bddl")
    env = stand_in(tmp_path, {"libero_goal": lambda: SimpleNamespace(get_task=lambda i: task)})
    with pytest.raises(FoveateError, match=r"'libero_goal_lan'.*installed here \(libero 0.1.0\) does not have it"):
        env.reset("libero_goal_lan/0", 0)
    with pytest.raises(FoveateError, match=r"libero_goal/0: its definition .*libero_goal/open_it.bddl is missing"):
        env.reset("libero_goal/0", 0)


def test_masks_are_turned_as_the_pictures_are():
    """Against a stand-in of robosuite's interface: names by geom, pictures upside down and mirrored."""
    ids = np.full((4, 6, 2), -1)
    ids[0, 0] = (5, 7)  # a geom of the bowl, at the lower right when upright
    ids[1, 1], ids[2, 2] = (5, 3), (6, 7)  # a geom of the arm; a site with the bowl's number
    ids[3, 3] = (5, 9)  # a geom of the arena
    sizes = []

    def render(camera_name, width, height, segmentation):
        sizes.append((camera_name, width, height, segmentation))
        return ids

    model = SimpleNamespace(geom_ids_to_instances={7: "akita_black_bowl_1", 3: "Panda0"})
    env = object.__new__(LiberoEnv)
    env.image_size, env._sim = 4, SimpleNamespace(env=SimpleNamespace(model=model, sim=SimpleNamespace(render=render)))
    masks = env.segment((6, 4))
    assert sizes == [("agentview", 6, 4, True), ("robot0_eye_in_hand", 6, 4, True)]
    assert set(masks["agentview"]) == {"akita_black_bowl_1", "robot"}
    assert np.argwhere(masks["eye_in_hand"]["akita_black_bowl_1"]).tolist() == [[3, 5]]
    assert np.argwhere(masks["agentview"]["robot"]).tolist() == [[2, 4]]


@pytest.mark.libero
@pytest.mark.skipif(not HAS_LIBERO, reason="needs the libero package: make libero, then its interpreter's pytest")
class TestAgainstGoldenNumbers:
    """Run by the interpreter that has LIBERO: `.venv-libero/bin/python -m pytest -m libero foveate/envs/libero`."""

    @pytest.fixture(scope="class")
    def truth(self):
        truth = json.loads((golden_dir("libero") / "truth.json").read_text())
        truth["cases"].sort(key=lambda case: (case["suite"], case["task"]))  # a simulator is made once per task
        return truth

    @pytest.fixture(scope="class")
    def env(self, truth):
        env = LiberoEnv(tuple(dict.fromkeys(f"{case['suite']}/{case['task']}" for case in truth["cases"])))
        yield env
        env.close()

    def test_states_objects_and_pictures(self, env, truth):
        same_renderer = renderer_is_that_of(truth)
        for case in truth["cases"]:
            env._load(f"{case['suite']}/{case['task']}")
            for name, seed, draw in (("", 7, 1), ("seed_0", 0, 1), ("fourth_reset", 7, 4)):
                if name and name not in case:
                    continue
                expected = case[name] if name else case
                seen = env.begin(case["state"], seed, draw)
                assert seen.prompt == case["language"]
                check(env, seen, expected["settled"], "equal" if same_renderer else "no")
                if "after" not in expected:
                    continue
                for i, action in enumerate(truth["actions"]):
                    result = env.step(np.asarray(action), render=i == len(truth["actions"]) - 1)
                assert not result.success
                assert np.linalg.norm(result.observation.state[3:6]) > np.pi  # w < 0: the sign of w was kept
                # Actions are float32 here, and were float64 there: single pixels of edges move.
                check(env, result.observation, expected["after"], "nearly" if same_renderer else "no")

    def test_pictures_of_another_renderer_are_close(self, env, truth):
        folder = golden_dir("libero") / "pictures"
        for case in truth["cases"]:
            if case["suite"] == "libero_object":  # no fixtures, so no seed matters
                env._load(f"{case['suite']}/{case['task']}")
                seen = env.begin(case["state"], 7, 1)
                for view, ours in VIEWS.items():
                    path = folder / f"libero_object_t{case['task']}_s{case['state']}_{view}.png"
                    if path.exists():
                        there = np.asarray(Image.open(path)).astype(float)
                        assert np.abs(raw(seen, ours) - there).mean() < 1.5

    def test_rendering_on_demand_changes_nothing(self, env, truth):
        env._load(env.tasks[0])
        pictures = []
        for render in (True, False):
            env.begin(0, 7, 1)
            for i, action in enumerate(truth["actions"][:8]):
                result = env.step(np.asarray(action), render=render or i == 7)
            pictures.append(result.observation)
        for view in env.views:
            np.testing.assert_array_equal(pictures[0].images[view], pictures[1].images[view])
        np.testing.assert_array_equal(pictures[0].state, pictures[1].state)
        env.step(np.asarray(truth["actions"][0]), render=False)
        with pytest.raises(FoveateError, match="was not rendered"):
            env.observe()

    def test_a_soft_reset_is_a_hard_one(self, env, truth):
        """Against a simulator of the package, used as its runners use it: seeded once, then reset by reset."""
        task = next(task for task in env.tasks if task.startswith("libero_spatial"))
        env._load(task)
        stock = env._make(task_file(env, task), 64)
        stock.seed(7)
        there = []
        for state in range(3):
            stock.reset()
            stock.set_init_state(env._initial_states[state])
            for _ in range(10):
                stock.step([0.0] * 6 + [-1.0])
            for action in truth["actions"]:
                raw_there = stock.step(np.asarray(action, np.float32).tolist())[0]
            there.append((raw_there, stock.sim.model.body_pos.copy()))
        stock.close()
        for state, (raw_there, bodies_there) in enumerate(there):
            np.random.seed(1)  # whoever draws in between
            env.reset(task, state)
            for action in truth["actions"]:
                env.step(np.asarray(action), render=False)
            for name in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos"):
                np.testing.assert_allclose(env._raw[name], raw_there[name], atol=1e-12)
            np.testing.assert_array_equal(env._sim.sim.model.body_pos, bodies_there)

    def test_prompts(self, env):
        expected = json.loads((golden_dir("libero") / "languages.json").read_text())
        for suite, rows in expected.items():
            with contextlib.redirect_stdout(io.StringIO()):
                benchmark = env._libero.benchmark.get_benchmark_dict()[suite]()
            for i, row in enumerate(rows):
                description = benchmark.get_task(i)
                bddl = env._libero.bddl / description.problem_folder / description.bddl_file
                assert env._prompt_of(description, bddl) == row["prompt"]

    def test_every_suite_that_we_name_is_complete(self, env):
        for suite, count in SUITES.items():
            with contextlib.redirect_stdout(io.StringIO()):
                benchmark = env._libero.benchmark.get_benchmark_dict()[suite]()
            assert benchmark.get_num_tasks() == count
            for i in range(count):
                description = benchmark.get_task(i)
                bddl = env._libero.bddl / description.problem_folder / description.bddl_file
                assert bddl.exists()
                assert len(install.initial_states(env._libero.states, description)) == 50
                assert description.name == task_names()[base_of(suite)][i]

    def test_an_episode(self, env):
        task = env.tasks[0]
        seen = env.reset(task, 53)
        assert env.scene == {"env_seed": 7, "env_draw": 4, "initial_state": 3}
        assert {image.shape for image in seen.images.values()} == {(256, 256, 3)}
        assert not env.step(np.zeros(7, np.float32)).done
        assert "robot" in env.segment()["agentview"]
        assert env.examine() == []


VIEWS = {"agentview": "agentview", "wrist": "eye_in_hand"}
"""The view's name in the golden data -> ours."""


def raw(observation, view):
    """The picture before it was turned."""
    return np.ascontiguousarray(observation.images[view][::-1, ::-1])


def check(env, seen, expected, pictures):
    np.testing.assert_allclose(seen.state, expected["state8"], atol=1e-5)
    for name, where in expected["objects"].items():
        np.testing.assert_allclose(env.objects()[name], where, atol=1e-3)
    for view, ours in VIEWS.items():
        there, picture = expected["images"][view], raw(seen, ours)
        if pictures == "equal":
            assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == there["sha256_rgb"]
        within = 0.05 if pictures == "nearly" else 2.0
        np.testing.assert_allclose(picture.mean((0, 1)), there["mean"], atol=within)


def renderer_is_that_of(truth):
    """Whether pictures can be equal to the last bit: the same MuJoCo, and no GPU that draws them."""
    import mujoco

    return mujoco.__version__ == truth["simulator"]["mujoco"] and not Path("/dev/nvidia0").exists()


def task_file(env, task):
    suite, _, index = task.partition("/")
    with contextlib.redirect_stdout(io.StringIO()):
        description = env._libero.benchmark.get_benchmark_dict()[suite]().get_task(int(index))
    return str(env._libero.bddl / description.problem_folder / description.bddl_file)
