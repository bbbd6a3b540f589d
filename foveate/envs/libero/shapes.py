"""What room an object of a robosuite environment takes: the corners of its collision geoms, in its body's frame."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX, MESH = 2, 3, 4, 5, 6, 7
"""MuJoCo's numbers for kinds of geoms."""


def vertices_of(robosuite_env: Any, name: str) -> np.ndarray:
    """float64 [N, 3] in m, relative to the body of object `name`, whatever bodies of it carry the geoms."""
    model, data = robosuite_env.sim.model, robosuite_env.sim.data
    root = robosuite_env.obj_body_id[name]
    turn, origin = data.body_xmat[root].reshape(3, 3), data.body_xpos[root]
    parts = []
    for geom in range(model.ngeom):
        if model.geom_contype[geom] and _within(model, int(model.geom_bodyid[geom]), root):
            world = _local(model, geom) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            parts.append((world - origin) @ turn)
    return np.concatenate(parts)


def _within(model: Any, body: int, root: int) -> bool:
    while body and body != root:
        body = int(model.body_parentid[body])
    return body == root


def _local(model: Any, geom: int) -> np.ndarray:
    """[N, 3]: corners of one geom in its own frame; of a round one those of the box around it."""
    kind, size = int(model.geom_type[geom]), np.array(model.geom_size[geom])
    if kind == MESH:
        mesh = int(model.geom_dataid[geom])
        first = int(model.mesh_vertadr[mesh])
        return np.array(model.mesh_vert[first : first + int(model.mesh_vertnum[mesh])], dtype=float)
    if kind == SPHERE:
        half = size[[0, 0, 0]]
    elif kind == CYLINDER:
        half = size[[0, 0, 1]]
    elif kind == CAPSULE:
        half = size[[0, 0, 1]] + np.array([0.0, 0.0, size[0]])
    else:
        half = size
    corners: np.ndarray = CORNERS * half
    return corners
