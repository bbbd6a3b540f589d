import importlib.util

import numpy as np
import pytest

from foveate.envs.metaworld.state import pose

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


@pytest.fixture(scope="module")
def env():
    from foveate.envs.metaworld.env import MetaWorldEnv

    env = MetaWorldEnv(["push"], image_size=96)
    env.reset("push", 3)
    yield env
    env.close()


def rotation_of(angles: np.ndarray) -> np.ndarray:
    """The inverse, by the plain formula: three angles -> rotation matrix [3, 3]."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@pytest.mark.parametrize("angles", [(0.3, -0.4, 2.0), (-3.0, 1.2, -0.1), (0, 0, 0), (0.7, np.pi / 2, 0.2)])
def test_poses_hold_the_rotation(angles):
    rotation = rotation_of(np.array(angles))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    back = pose(np.zeros(3), rotation)
    np.testing.assert_allclose(rotation_of(back[3:]), rotation, atol=1e-7)


def test_angles_are_those_of_scipy():
    scipy = pytest.importorskip("scipy.spatial.transform")
    rotation = scipy.Rotation.from_euler("xyz", [0.3, -0.4, 2.0])
    np.testing.assert_allclose(pose(np.zeros(3), rotation.as_matrix())[3:], [0.3, -0.4, 2.0], atol=1e-12)


def test_the_policy_sees_what_it_sees_whatever_is_recorded(env):
    before = env.render()
    seen = env.snapshot((256, 144))
    assert {view: image.shape for view, image in seen.images.items()} == dict.fromkeys(before, (144, 256, 3))
    for view, image in env.render().items():
        np.testing.assert_array_equal(image, before[view])
    assert env.snapshot().images == {}


@pytest.mark.parametrize("view", ["corner", "gripperPOV"])
def test_cameras_project_the_puck_onto_its_pixels(env, view):
    """Calibration against pixels: a point of the world falls where the picture shows it."""
    for _ in range(25):  # the hand goes to where its camera sees the puck
        target = env.raw[4:6]
        env.step(np.array([*np.clip((target - env.raw[:2]) * 10, -1, 1), 0.0, -1.0]), render=False)
    seen = env.snapshot((640, 360))
    image, camera = seen.images[view].astype(int), seen.cameras[view]
    blue = (image[..., 2] > 90) & (image[..., 2] > 2 * image[..., 0]) & (image[..., 2] > 2 * image[..., 1])
    assert blue.sum() > 20
    rows, columns = np.nonzero(blue)
    rotation = rotation_of(camera["extrinsics"][3:])
    point = camera["intrinsics"] @ rotation.T @ (env.raw[4:7] - camera["extrinsics"][:3])
    assert point[2] > 0
    x, y = point[:2] / point[2]
    size = np.sqrt(blue.sum())
    assert abs(x - columns.mean()) < 0.5 * size and abs(y - rows.mean()) < 0.5 * size


def test_robot(env):
    robot = env.snapshot().robot
    assert robot["joint_positions"].shape == robot["joint_velocities"].shape == (7,)
    np.testing.assert_allclose(robot["cartesian_position"][:3], env.state[:3], atol=1e-4)
    assert float(robot["gripper_position"]) == pytest.approx(1 - env.state[3], abs=1e-4)
