from types import SimpleNamespace

import numpy as np

from foveate.envs.libero.shapes import BOX, CYLINDER, MESH, vertices_of

QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""A quarter turn about z."""


def simulator(**geoms):
    """A stand-in for robosuite's: body 1 is the object, at (1, 0, 0); body 2 a part of it; body 3 something else."""
    count = len(geoms["kinds"])
    model = SimpleNamespace(
        ngeom=count,
        geom_contype=[1] * count,
        geom_type=geoms["kinds"],
        geom_size=geoms["sizes"],
        geom_bodyid=geoms["bodies"],
        geom_dataid=[0] * count,
        body_parentid=[0, 0, 1, 0],
        mesh_vertadr=[1],
        mesh_vertnum=[2],
        mesh_vert=np.array([[9.0, 9, 9], [0.1, 0, 0], [0, 0.2, 0]]),
    )
    data = SimpleNamespace(
        body_xpos=np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [5, 5, 5]]),
        body_xmat=np.stack([np.eye(3).ravel(), QUARTER.ravel(), np.eye(3).ravel(), np.eye(3).ravel()]),
        geom_xpos=np.array(geoms["places"]),
        geom_xmat=np.stack([np.asarray(turn).ravel() for turn in geoms["turns"]]),
    )
    return SimpleNamespace(sim=SimpleNamespace(model=model, data=data), obj_body_id={"thing": 1})


def test_a_turned_box_in_its_bodys_frame():
    env = simulator(kinds=[BOX], sizes=[[0.1, 0.2, 0.3]], bodies=[1], places=[[1.0, 0, 0]], turns=[QUARTER])
    points = vertices_of(env, "thing")
    assert points.shape == (8, 3)
    np.testing.assert_allclose(points.max(0), [0.1, 0.2, 0.3], atol=1e-12)  # the box turns with the body


def test_parts_count_and_other_bodies_do_not():
    env = simulator(
        kinds=[CYLINDER, MESH, BOX],
        sizes=[[0.1, 0.5, 0.0], [0.0, 0, 0], [9.0, 9, 9]],
        bodies=[2, 1, 3],
        places=[[1.0, 0, 1], [1.0, 0, 0], [5.0, 5, 5]],
        turns=[np.eye(3), QUARTER, np.eye(3)],
    )
    points = vertices_of(env, "thing")
    np.testing.assert_allclose(points[-2:], [[0.1, 0, 0], [0, 0.2, 0]], atol=1e-12)  # the mesh's own numbers
    np.testing.assert_allclose(points[:8].min(0), [-0.1, -0.1, 0.5], atol=1e-12)
    np.testing.assert_allclose(points[:8].max(0), [0.1, 0.1, 1.5], atol=1e-12)
    env.sim.model.geom_contype = [0, 1, 0]  # what is only seen takes no room
    assert len(vertices_of(env, "thing")) == 2
