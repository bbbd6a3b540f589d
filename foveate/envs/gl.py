"""What MuJoCo draws with where there is no display: EGL, or OSMesa, in software, where EGL cannot draw.

MuJoCo reads `MUJOCO_GL` when it is first imported, so `choose_gl` comes before.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

PACKAGES = {"egl": "libegl1 libgl1-mesa-dri libopengl0", "osmesa": "libosmesa6"}
"""Debian's packages of each; scripts/system_packages.sh installs them all."""

DRAW = """
import mujoco, numpy
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".3" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
assert picture.max() > 0, "the picture is black"
"""


def why_not(backend: str) -> str:
    """Why MuJoCo cannot draw with `egl` or `osmesa`; empty: it can. Tried in a process of its own, as a GL driver may
    crash or hang."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRAW],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "drawing hangs"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def choose_gl() -> str:
    """Set `MUJOCO_GL`, where nobody has, for this process and those that it starts; returns what it is."""
    if "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"
        trouble = why_not("egl")
        if trouble and not why_not("osmesa"):
            logging.getLogger("foveate").warning(
                "EGL cannot draw here (%s): simulators draw with OSMesa, in software, which is slower", trouble
            )
            os.environ["MUJOCO_GL"] = "osmesa"
    return os.environ["MUJOCO_GL"]
