"""Does this machine show the scenes that policies were trained and scored on?

`reference.json` and `reference.npz` hold how the tasks of the four suites of ten look and where their objects are, with
MuJoCo 3.2.3, seed 7, the first reset, initial state 0, after settling. The pictures were drawn in software by Mesa.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

THUMB = 16
"""Side of a reference picture: means over squares of the agentview."""
BRIGHTNESS = 2.0
PICTURE = 1.5
"""Largest differences of the mean, and mean difference of the thumbs, in grey levels, that another renderer may make;
another MuJoCo with the same scene stays below 0.5, a dark floor is at 36 to 40."""
METRES = 5e-3
"""Farther than this from where it should rest, an object has slipped; the physics of versions differ by 4e-4 m."""
FOLDER = Path(__file__).parent


def thumb(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> float [16, 16, 3]: means over squares."""
    return np.einsum("yh,hwc,xw->yxc", _shares(picture.shape[0]), picture, _shares(picture.shape[1]), optimize=True)


def _shares(size: int) -> np.ndarray:
    """float [16, size]: what each pixel of a side gives to each square; one that lies in two gives to both by area."""
    edges, pixels = np.linspace(0, size, THUMB + 1)[:, None], np.arange(size)
    within = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return within.clip(0) * THUMB / size


def reference_task(task: str) -> str:
    """The task whose reference stands for this one: itself, its plain form, or the first of libero_object."""
    from foveate.envs.libero.suites import base_of

    suite, _, index = task.partition("/")
    plain = f"{base_of(suite)}/{index}"
    return plain if plain in known() else "libero_object/0"


def known() -> Mapping[str, Mapping[str, list[float]]]:
    """Task -> object -> position [3] in m."""
    positions: dict[str, dict[str, list[float]]] = json.loads((FOLDER / "reference.json").read_text())["objects"]
    return positions


def compare(task: str, picture: np.ndarray, objects: Mapping[str, np.ndarray]) -> list[str]:
    """Sentences about what differs from the reference; none where all is well.

    Args:
        picture: the settled agentview as policies see it, uint8 [h, w, 3], square.
        objects: object -> position [3] in m.
    """
    with np.load(FOLDER / "reference.npz") as file:
        wanted = file[task.replace("/", "_")].astype(float)
    seen, told = thumb(picture), []
    here, there = seen.mean(), wanted.mean()
    difference = np.abs(seen - wanted).mean()
    if abs(here - there) > BRIGHTNESS:
        word = "darker" if here < there else "brighter"
        told.append(
            f"{task}: the picture is {word} than policies saw it in training (mean {here:.1f}, expected {there:.1f}); "
            "MuJoCo from 3.3.3 on darkens the floor of libero_object"
        )
    elif difference > PICTURE:
        told.append(f"{task}: the picture differs from the reference by {difference:.1f} grey levels on average")
    for name, where in known()[task].items():
        if name not in objects:
            told.append(f"{task}: there is no {name}")
            continue
        away = float(np.linalg.norm(objects[name] - np.asarray(where)))
        if away > METRES:
            told.append(
                f"{task}: {name} rests {100 * away:.1f} cm from where it should after settling; MuJoCo from 3.10 on "
                "lets objects slip or jump at reset, so the episode begins from another scene"
            )
    return told
