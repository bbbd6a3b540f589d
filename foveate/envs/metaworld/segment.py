"""Which pixel shows which object of a Meta-World scene: MuJoCo's own segmentation render, exact and named.

Objects have the names of their bodies, told in plain words where those are cryptic: `puck`, `goal`, `drawer`,
`drawer_case`, `button`, `button_box`, `window` ... and `robot`. Table, walls, floor and sky are nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foveate.envs.metaworld.state import camera_of

BACKGROUND = ("tablelink", "RetainingWall")
NAMES = {
    "obj": "puck",
    "buttonbox": "button_box",
    "drawercase_link": "drawer_case",
    "drawer_link": "drawer",
    "windowb_a": "window",
    "windowb_b": "window",
}
"""Body -> name; other bodies keep theirs, without `_link` and slashes."""
ROBOT, GOAL = "robot", "goal"


def segment_views(
    model: Any, data: Any, renderer: Any, views: tuple[str, ...], add: Callable[[Any], None]
) -> dict[str, dict[str, np.ndarray]]:
    """View -> object -> bool [h, w], of the pictures that `renderer` makes of the same instant.

    Args:
        add: puts further geometry that marks the goal into the scene, as in the pictures.
    """
    masks = {}
    renderer.enable_segmentation_rendering()
    try:
        for view in views:
            renderer.update_scene(data, camera=camera_of(view))
            _add_goal(model, renderer.scene, add)
            ids = renderer.render()
            masks[view] = _split(model, ids[::-1, ::-1] if view == "corner" else ids)
    finally:
        renderer.disable_segmentation_rendering()
    return masks


def _add_goal(model: Any, scene: Any, add: Callable[[Any], None]) -> None:
    """Geometry that is no part of the model is nobody's by default; here it stands for the goal."""
    import mujoco

    first = scene.ngeom
    add(scene)
    for index in range(first, scene.ngeom):
        geom = scene.geoms[index]
        geom.segid, geom.objtype, geom.objid = index, int(mujoco.mjtObj.mjOBJ_SITE), model.site(GOAL).id


def _split(model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """int [h, w, 2] (number, kind of thing) -> object -> bool [h, w]."""
    masks: dict[str, np.ndarray] = {}
    for number, kind in np.unique(ids.reshape(-1, 2), axis=0).tolist():
        name = _name(model, number, kind)
        if name is not None:
            here = (ids == (number, kind)).all(-1)
            masks[name] = masks[name] | here if name in masks else here
    return masks


def _name(model: Any, number: int, kind: int) -> str | None:
    """What the picture shows there; None: nobody's."""
    import mujoco

    if kind == int(mujoco.mjtObj.mjOBJ_SITE):
        site = model.site(number).name
        # The other sites are marks of the scene's makers, and coloured dots on the fingers.
        return ROBOT if site.endswith("EndEffector") else GOAL if site == GOAL else None
    if kind != int(mujoco.mjtObj.mjOBJ_GEOM):
        return None
    body, chain = int(model.geom_bodyid[number]), []
    while body:
        chain.append(model.body(body).name)
        body = int(model.body_parentid[body])
    if not chain or chain[-1] in BACKGROUND:
        return None
    return ROBOT if chain[-1] == "base" else NAMES.get(chain[0], chain[0].removesuffix("_link").strip("/"))
