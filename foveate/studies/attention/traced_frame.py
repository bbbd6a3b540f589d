"""The causal check of one traced inference: cover what its pruner kept or dropped, and ask a policy again.

    found = check_traced(policy, record, images)
    found["cases"][0]                   # {"name": "kept", "area": 0.12, "rms": 0.31}

The pictures of the dump are covered at their own resolution, before any resize, and the policy chooses its patches
anew. `foveate eval sim` draws noise by (seed, task, episode, query), so an inference of it is repeated with its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from foveate.attention.fidelity import distances
from foveate.attention.occlude import Cover, areas_of
from foveate.errors import FoveateError
from foveate.evaluation.sim.rollout import noise_key
from foveate.geometry import patch_axes
from foveate.policy import PolicySpec
from foveate.studies.attention.occlusion import REFERENCE, AnsweringPolicy, Marked, OcclusionConfig, ask
from foveate.tracing.record import Record
from foveate.types import Observation
from foveate.util.noise import action_noise

AT_RANDOM = "as many at random"


def check_traced(
    policy: AnsweringPolicy, record: Record, images: Mapping[str, np.ndarray], config: OcclusionConfig | None = None
) -> dict[str, Any]:
    """How far the actions move when patches are covered.

    Args:
        images: view -> source picture, uint8 [H, W, 3].
        config: `fill`, `draws`, `batch` and `seed` of it count; None: its defaults.
    Returns:
        `reference`: root mean square between the recorded actions and the policy's on the pictures as they are, None
        where the dump holds none; near 0 where the policy is the traced one. `cases`: a list of `name`, `area` (share
        of the pictures that is covered) and `rms` (to the policy's actions on the pictures as they are).
    Raises:
        FoveateError: the dump lacks what an inference needs, it is of another robot, its pruner kept all or nothing,
            or a fill leaves a picture as it was.
    """
    config = config or OcclusionConfig()
    observation = observation_of(record, images, policy.spec)
    there = [view for view in record.views if view.name in images]
    keep, valid = _masks(record)
    meta = record.meta  # the scene of episode i has the run's seed + i
    seed = max(0, int(meta.get("seed") or 0) - meta["episode"])
    key = noise_key(seed, str(meta["task"]), meta["episode"], int(meta.get("query") or 0))
    noise = action_noise(policy.spec.noise_shape, *key)
    covers, areas, names = {}, {}, {}
    for view in there:
        image = images[view.name]
        axes = patch_axes(view.grid, (image.shape[0], image.shape[1]), view.model_hw, view.flips, view.crop)
        covers[view.name] = Cover(image, axes, config.fill, config.seed, f"{record.name}, view {view.name}")
        areas[view.name] = areas_of(axes, view.grid)
        names[view.name] = policy.spec.cameras[view.name][0]

    def marked(mask: np.ndarray) -> Marked:
        return {view.name: mask[view.part].reshape(view.grid) for view in there}

    def show(case: Marked) -> Observation:
        covered = {names[view]: covers[view](mask) for view, mask in case.items()}
        return dataclasses.replace(observation, images={**observation.images, **covered})

    rng = np.random.default_rng([config.seed, *key])
    cases: dict[Any, Marked] = {REFERENCE: {}}
    for name, mask in (("kept", keep), ("dropped", valid & ~keep)):
        cases[name, 0] = marked(mask)
        for draw in range(config.draws):
            elsewhere = np.zeros_like(valid)
            elsewhere[rng.permutation(np.flatnonzero(valid))[: int(mask.sum())]] = True
            cases[f"{AT_RANDOM} ({name})", draw] = marked(elsewhere)
    actions = ask(policy, cases, show, noise, config.batch)
    total = sum(int(area.sum()) for area in areas.values())
    groups: dict[str, list[Any]] = {}
    for case in list(cases)[1:]:
        groups.setdefault(case[0], []).append(case)
    rows = []
    for name, members in groups.items():
        share = [sum(int(areas[view][mask].sum()) for view, mask in cases[case].items()) / total for case in members]
        moved = [_rms(actions[REFERENCE], actions[case]) for case in members]
        rows.append({"name": name, "area": float(np.mean(share)), "rms": float(np.mean(moved))})
    told, now = record.action, actions[REFERENCE]
    return {"reference": _rms(told, now) if told is not None and told.shape == now.shape else None, "cases": rows}


def observation_of(record: Record, images: Mapping[str, np.ndarray], spec: PolicySpec) -> Observation:
    """What the policy was shown, from the dump and its pictures.

    Raises:
        FoveateError: something is lacking, or is of another robot.
    """
    missing = [view for view in spec.cameras if view not in images and any(v.name == view for v in record.views)]
    strange = [view for view in images if view not in spec.cameras]
    if strange or not images:
        raise FoveateError(
            f"{record.name}: its pictures are of {', '.join(images) or 'no view'}, the policy's views are "
            f"{', '.join(spec.cameras)}; name the policy that was traced with --policy"
        )
    needed = [view for view in missing if any(name in spec.views for name in spec.cameras[view])]
    if needed:
        raise FoveateError(
            f"{record.name}: no picture of {', '.join(needed)}; trace with --trace_save_policy_images true"
        )
    if record.state is None:
        raise FoveateError(
            f"{record.name}: the dump holds no state (observation.state), which the policy needs; trace anew"
        )
    if len(record.state) != spec.state_dim:
        raise FoveateError(
            f"{record.name}: its state has {len(record.state)} numbers, the policy's {spec.state_dim}; name the policy "
            "that was traced with --policy"
        )
    named = {spec.cameras[view][0]: image for view, image in images.items()}
    return Observation(named, record.state, str(record.meta.get("instruction", "")))


def _masks(record: Record) -> tuple[np.ndarray, np.ndarray]:
    if record.keep_mask is None:
        raise FoveateError(
            f"{record.name}: the dump holds no keep mask (routing.keep_mask), so there is nothing to cover"
        )
    valid = np.ones_like(record.keep_mask) if record.valid is None else record.valid
    kept, count = int((record.keep_mask & valid).sum()), int(valid.sum())
    if not 0 < kept < count:
        raise FoveateError(f"{record.name}: {kept} of {count} patches were kept: expected some and not all to compare")
    return record.keep_mask & valid, valid


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(distances(a, b)["mse"]))
