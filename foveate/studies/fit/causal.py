"""What covering the dropped patches does: the unpruned policy sees the picture without them.

Unlike the pruned policy's own error this says whether what was dropped held anything that the actions hang on, and
nothing of whether the policy bears short prefixes. As many patches covered at random are the control.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import numpy as np

from foveate.attention.occlude import Cover, areas_of
from foveate.errors import FoveateError
from foveate.geometry import patch_axes
from foveate.policy import Policy
from foveate.studies.attention.occlusion import Marked, ask, source_name
from foveate.types import Observation


def cover(
    policy: Policy,
    observation: Observation,
    noise: np.ndarray | None,
    masks: Mapping[Hashable, np.ndarray],
    batch: int,
    seed: int,
) -> dict[Hashable, np.ndarray]:
    """Actions [H, A] of the unpruned policy for each case.

    Args:
        masks: case -> bool [P], the patches that are covered by their picture's mean colour.
    """
    spec, images = policy.spec, observation.images
    covers, parts, names, start = {}, {}, {}, 0
    for (view, known), grid in zip(spec.cameras.items(), spec.grids, strict=True):
        size = grid[0] * grid[1]
        if any(name in images for name in known):
            names[view] = source_name(spec.cameras, view, images)
            image = images[names[view]]
            axes = patch_axes(grid, image.shape[:2], (spec.image_size, spec.image_size), crop=spec.crop)
            covers[view] = Cover(image, axes, "mean", seed, names[view])
            parts[view] = slice(start, start + size), areas_of(axes, grid) > 0
        start += size

    def show(marked: Marked) -> Observation:
        seen = {names[view]: covers[view](mask) for view, mask in marked.items()}
        return dataclasses.replace(observation, images={**images, **seen})

    cases = {
        case: {view: mask[part].reshape(shown.shape) & shown for view, (part, shown) in parts.items()}
        for case, mask in masks.items()
    }
    for case, marked in list(cases.items()):
        try:
            show(marked)
        except FoveateError:  # a plain picture stays as it is: nothing to learn of this case here
            del cases[case]
    return ask(policy, cases, show, noise, batch)


def at_random(valid: np.ndarray, count: int, key: tuple[int, ...]) -> np.ndarray:
    """bool [P]: so many of the patches that are there."""
    chosen = np.zeros_like(valid)
    chosen[np.random.default_rng(key).permutation(np.flatnonzero(valid))[:count]] = True
    return chosen
