"""Is it your environment? A reference scene of LIBERO through an environment and a policy's processor, and the name of
the convention that is off.

    for finding in check_env("libero", policy="path/to/checkpoint", protocol="openpi"):
        print(finding.what, finding.ok, finding.told)

The scene is libero_object's first task, initial state 0, settled: it depends on no seed. Its hand is turned a little
beyond half a turn, so that a quaternion whose sign was flipped shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from foveate.envs.base import check_conventions
from foveate.envs.libero.protocol import DEFAULT, PROTOCOLS, get_protocol
from foveate.envs.libero.reference import BRIGHTNESS, FOLDER, PICTURE, thumb
from foveate.envs.worker import WorkerEnv
from foveate.errors import FoveateError
from foveate.policy import LoadOptions, Policy
from foveate.types import Observation
from foveate.util.words import percent

TASK = "libero_object/0"
OBJECTS_OF = (TASK, "libero_spatial/5")
"""Tasks whose scene another MuJoCo shows otherwise or begins otherwise."""
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda picture: picture,
    "turned by 180 degrees": lambda picture: picture[::-1, ::-1],
    "flipped upside down": lambda picture: picture[::-1],
    "mirrored": lambda picture: picture[:, ::-1],
}
COLOURS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda picture: picture,
    "with red and blue exchanged (BGR)": lambda picture: picture[..., ::-1],
}
SIGN = "the quaternion's sign is flipped where w < 0, so axis-angles stay below pi; policies were trained without"
NUMBERS = 0.01
"""Largest difference of a state's numbers; another scene is farther away."""


@dataclass(frozen=True)
class Finding:
    """One convention."""

    what: str
    ok: bool
    told: str
    """What was found; where it is off, what it is instead."""


def check_env(
    name: str = "libero", python: str | None = None, policy: Policy | str | None = None, protocol: str | None = None
) -> list[Finding]:
    """Every convention that can be tried.

    Args:
        name: an environment of LIBERO tasks: foveate's, or one's own as `module:Class`.
        python: its interpreter; None: as `eval sim` finds it.
        policy: compared too, where given: loaded, or as `load_policy` takes it.
        protocol: what the policy's pictures are compared with; None: openpi's.
    Raises:
        FoveateError: the environment cannot be started, or does not know the reference task.
    """
    wanted = get_protocol(protocol)
    with WorkerEnv(name, python=python, timeout_s=300.0, tasks=OBJECTS_OF) as env:
        seen = env.reset(TASK, 0)
        found = [_pictures(seen), _state(seen.state), _action(env, seen)]
        for task in OBJECTS_OF:
            env.reset(task, 0)
            told = env.examine()
            found.append(Finding(f"scene of {task}", not told, "; ".join(told) or "as it should be"))
        here = env.about.get("versions", {}).get("mujoco")
        if wanted.mujoco is not None and here is not None:
            told_here = f"{here}; {protocol or DEFAULT} pins {wanted.mujoco}"
            found.append(Finding("MuJoCo", here == wanted.mujoco, told_here))
        conventions = env.conventions
    if policy is not None:
        loaded = policy if isinstance(policy, Policy) else LoadOptions(policy=policy).load()
        try:
            check_conventions(conventions, loaded.spec.conventions)
            declared = Finding("declared by the policy", True, "as the environment has it")
        except FoveateError as error:
            declared = Finding("declared by the policy", False, str(error))
        found += [declared, _seen_by(loaded, seen, protocol), _state_of(loaded, seen)]
    return found


def reference_state() -> np.ndarray:
    """float64 [8]: position, axis-angle and fingers of the settled reference scene."""
    return np.array(json.loads((FOLDER / "reference.json").read_text())["state"])


def _pictures(seen: Observation) -> Finding:
    """The first view against the reference, in every turn and with its colours exchanged."""
    with np.load(FOLDER / "reference.npz") as file:
        wanted = file[TASK.replace("/", "_")].astype(float)
    view = next(iter(seen.images))
    away, what = nearest(thumb(np.asarray(seen.images[view])), wanted)
    here, there = thumb(np.asarray(seen.images[view])).mean(), wanted.mean()
    if what:
        return Finding("picture", False, f"{view} is {what}, against what policies were trained on")
    if away > PICTURE or abs(here - there) > BRIGHTNESS:
        told = f"{view} is another one: {away:.1f} grey levels away, mean {here:.1f}, expected {there:.1f}"
        return Finding("picture", False, told)
    return Finding("picture", True, f"{view}: {away:.2f} grey levels from the reference")


def nearest(picture: np.ndarray, wanted: np.ndarray) -> tuple[float, str]:
    """The change of `wanted` that `picture` is nearest to, in words, and how far it is from it; empty: none."""
    aways = {
        f"{turn} {colour}".strip(): float(np.abs(picture - recolour(change(wanted))).mean())
        for turn, change in TURNS.items()
        for colour, recolour in COLOURS.items()
    }
    what = min(aways, key=lambda key: aways[key])
    return aways[what], what


def variants(state: np.ndarray) -> Mapping[str, np.ndarray]:
    """What is often made of position [3], axis-angle [3] and fingers [2], in words."""
    position, turn, fingers = state[:3], state[3:6], state[6:]
    angle = float(np.linalg.norm(turn))
    other = turn * (1 - 2 * np.pi / angle)
    half = np.sin(angle / 2) * turn / angle
    return {
        SIGN: np.concatenate([position, other, fingers]),
        "the order is rotation, position, fingers": np.concatenate([turn, position, fingers]),
        "the order is fingers, position, rotation": np.concatenate([fingers, position, turn]),
        "the rotation is a quaternion and no axis-angle": np.concatenate(
            [position, half, [np.cos(angle / 2)], fingers]
        ),
        "the fingers are one width": np.concatenate([position, turn, [fingers[0] - fingers[1]]]),
        "one finger is there": np.concatenate([position, turn, fingers[:1]]),
    }


def _state(state: np.ndarray) -> Finding:
    wanted = reference_state()
    if state.shape == wanted.shape and np.abs(state - wanted).max() < NUMBERS:
        return Finding("state", True, f"position, axis-angle, fingers; {np.abs(state - wanted).max():.1e} away")
    for what, other in variants(wanted).items():
        if state.shape == other.shape and np.abs(state - other).max() < NUMBERS:
            return Finding("state", False, what)
    return Finding("state", False, f"expected {np.round(wanted, 3).tolist()}, got {np.round(state, 3).tolist()}")


def _action(env: WorkerEnv, before: Observation) -> Finding:
    """Up by half, and the gripper's sign, as the simulator answers them."""
    up = np.array([0, 0, 0.5, 0, 0, 0, 1.0], np.float32)
    result = None
    for i in range(12):
        result = env.step(up, render=i == 11)
    assert result is not None and result.observation is not None
    after = result.observation.state
    if after.shape != (8,) or before.state.shape != (8,):
        return Finding("action", False, "not tried: the state has another length")
    if after[6] - before.state[6] > -0.01:
        return Finding("action", False, "gripper: 1 does not close it; LIBERO's own sign is that positive closes")
    rise = float(after[2] - before.state[2])
    if not 0.01 < rise < 0.5:
        return Finding(
            "action", False, f"translation: 12 steps of z 0.5 moved the hand by {rise:.3f} m; deltas expected"
        )
    return Finding("action", True, f"positive closes the gripper, deltas: 12 steps of z 0.5 are {rise:.3f} m")


def _seen_by(policy: Policy, seen: Observation, protocol: str | None) -> Finding:
    """What the model sees of the first view, against the protocol's way to make it."""
    picture = next(iter(policy.processor.model_images(seen).values())).astype(float)
    size, source = picture.shape[0], np.asarray(next(iter(seen.images.values())))
    found = {}
    for crop in (1.0, 0.9):
        side = source.shape[0] * crop**0.5
        low, high = (source.shape[0] - side) / 2, (source.shape[0] + side) / 2
        resized = Image.fromarray(source).resize((size, size), Image.Resampling.BILINEAR, (low, low, high, high))
        found[crop] = nearest(picture, np.asarray(resized).astype(float))
    crop = min(found, key=lambda key: found[key][0])
    away, what = found[crop]
    wanted = PROTOCOLS[protocol or DEFAULT].conventions["crop"]
    if what:
        return Finding("picture in the model", False, f"it is {what}, against what the environment gives")
    if crop != wanted:
        told = f"{percent(crop)} of its area is left, and protocol {protocol or DEFAULT} leaves {percent(wanted)}"
        return Finding("picture in the model", False, told)
    return Finding(
        "picture in the model", True, f"upright, RGB, {percent(crop)} of its area; {away:.1f} grey levels away"
    )


def _state_of(policy: Policy, seen: Observation) -> Finding:
    """Whether the reference state lies where the policy's statistics say that states lie, or a variant of it would."""

    def outside(state: np.ndarray) -> float:
        changed = replace(seen, state=state.astype(np.float32))
        normalized = getattr(policy.processor, "normalized_state", None)  # before a family clips it
        if normalized is not None:
            return float(np.abs(normalized([changed])[0, : len(state)]).max())
        return float(np.abs(policy.processor.inputs([changed]).state[0, : len(state)].numpy()).max())

    here = outside(seen.state)
    others = {what: outside(s) for what, s in variants(seen.state.astype(float)).items() if s.shape == seen.state.shape}
    what = min(others, key=lambda key: others[key])
    if here > 4 and others[what] < here / 2:
        return Finding("state in the model", False, f"the policy's statistics fit another state: {what}")
    return Finding("state in the model", True, f"at most {here:.1f} in units of the policy's statistics")
