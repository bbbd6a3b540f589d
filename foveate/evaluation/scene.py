"""What a policy is shown outside a simulator: pictures and a state, or frames of DROID-format episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.data.droid.reader import SIDES, Side, cameras_of, episodes_at, holds
from foveate.errors import FoveateError, unknown
from foveate.models import registry
from foveate.policy import LoadOptions, Policy
from foveate.types import Observation
from foveate.util.pictures import ImageError, read_picture
from foveate.util.progress import SILENT, Reporter


def read_observation(
    image: Sequence[str], state: Sequence[float], prompt: str, policy: Policy, report: Reporter = SILENT
) -> Observation:
    """From picture files.

    Args:
        image: a picture per view of the policy: `view=path`, or paths in the order of its views.
        state: in the robot's units; none: zeros, and the report says so.
    """
    views = policy.spec.views
    named = dict(word.partition("=")[::2] for word in image if "=" in word and not Path(word).exists())
    plain = [word for word in image if word.partition("=")[0] not in named]
    known = {*views, *(name for names in policy.spec.cameras.values() for name in names)}
    for view in named:
        if view not in known:
            raise unknown("view", view, known)
    free = [view for view in views if view not in named]
    if len(plain) != len(free):
        raise FoveateError(
            f"--image: the policy needs a picture of each of its views {list(views)}, got {len(image)}: {list(image)}"
        )
    images = {}
    for view, path in {**named, **dict(zip(free, plain, strict=True))}.items():
        try:
            images[view] = read_picture(path)
        except ImageError as error:
            raise FoveateError(f"--image {view}={path}: not a readable picture ({error})") from error
    values = np.asarray(state, np.float32)
    if not len(state):
        values = np.zeros(policy.spec.state_dim, np.float32)
        report.line(f"state: none given, {policy.spec.state_dim} zeros are used")
    return Observation(images, values, prompt)


def made_up(policy: Policy, state: Sequence[float] = (), seed: int = 0) -> Observation:
    """Smooth coloured pictures, 224x224, and an instruction: something to infer on where nothing is at hand.

    Args:
        state: none: zeros.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    images = {}
    for view in policy.spec.views:
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        images[view] = np.asarray(coarse.resize((224, 224), Image.Resampling.BICUBIC))
    values = np.asarray(state, np.float32) if len(state) else np.zeros(policy.spec.state_dim, np.float32)
    return Observation(images, values, "pick up the object")


def read_frame(
    episode: str, frame: int, side: str, prompt: str | None, policy: Policy, stereo: Side | None = None
) -> Observation:
    """From an episode folder: its pictures, its recorded state and, without a prompt of one's own, its instruction.

    Args:
        episode: `<outcome>/<date>/<episode>` folder, see `data.droid.reader`.
        side: left or right, the exterior camera.
        stereo: whose picture of stereo recordings.
    """
    if side not in SIDES:
        raise unknown("camera", side, SIDES)
    folder = Path(episode)
    if not (folder / "trajectory.h5").exists():
        raise FoveateError(
            f"--episode {episode}: no episode folder; expected trajectory.h5 and recordings/ in it, found "
            f"{holds(folder)}"
        )
    (source,) = episodes_at(episode)
    if not 0 <= frame < source.rows:
        raise FoveateError(f"--frame {frame}: the episode has frames 0 to {source.rows - 1}")
    cameras = cameras_of(policy.spec.views, side, stereo)
    _, observation = next(source.observations([frame], cameras, policy.spec.state))
    return replace(observation, prompt=prompt or observation.prompt)


def load_for_droid(options: LoadOptions) -> Policy:
    """The policy that reads a DROID-format tree: a checkpoint that does not say whose it is counts as DROID's."""
    if options.robot is None and Path(options.policy).is_dir():
        _, info = registry.detect(options.policy)
        options = options if info.robot is not None else replace(options, robot="droid")
    return options.load()
