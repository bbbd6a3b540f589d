"""What the studies of one moment share: the policy, what it sees, and which of its layers are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveate.errors import FoveateError
from foveate.evaluation.scene import load_for_droid, read_frame, read_observation
from foveate.policy import LoadOptions, Policy
from foveate.studies.attention.pictures import Drawing
from foveate.types import Observation, Phase
from foveate.util.noise import action_noise, stack_noise
from foveate.util.progress import SILENT, Reporter
from foveate.viz.attention import Sheet

LAYERS = (1, 4, 5, 7, 10)
"""Low, middle and high layers of an 18-layer backbone."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig(Drawing, LoadOptions):
    """A policy and one moment that it sees."""

    out: str
    """Folder of the results."""
    image: tuple[str, ...] = ()
    """A picture per view, repeatable: `view=path`, or paths in the order of the policy's views."""
    state: tuple[float, ...] = ()
    """The robot's state, beside --image; without one, zeros."""
    episode: str | None = None
    """A DROID-format episode folder, in place of --image and --state."""
    frame: int = 0
    """Frame of the episode."""
    camera: Literal["left", "right"] = "left"
    """Exterior camera of the episode: left (varied_camera_1) or right (varied_camera_2)."""
    stereo: Literal["left", "right"] | None = None
    """Whose picture of a stereo recording (`<serial>-stereo.mp4`): left or right; None: left."""
    layers: tuple[int, ...] = ()
    """Backbone layers, negative ones count from the last; without any, 1,4,5,7,10, of a smaller model all."""
    phases: tuple[Phase, ...] = ("prefix", "suffix")
    """prefix: the text looks at the image; suffix: the actions do, while they are denoised."""
    seed: int = 0
    """Seed of the noise that the actions are denoised from."""

    def __post_init__(self) -> None:
        Drawing.__post_init__(self)
        LoadOptions.__post_init__(self)
        if self.episode and (self.image or self.state):
            raise FoveateError("--episode brings its own pictures and state: leave --image and --state out")


def open_scene(
    config: SceneConfig, prompt: str | None, report: Reporter = SILENT, policy: Policy | None = None
) -> tuple[Policy, Observation]:
    """The policy, and what it sees.

    Args:
        prompt: the instruction; None: the episode's own.
        policy: loaded as `config` says; None: it is loaded.
    """
    if policy is None:
        with report.status("loading the policy"):
            policy = load_for_droid(config) if config.episode else config.load()
    if config.episode:
        return policy, read_frame(config.episode, config.frame, config.camera, prompt, policy, config.stereo)
    return policy, read_observation(config.image, config.state, prompt or "", policy, report)


def layers_of(asked: Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers asked for; without any the usual ones, of a smaller model all."""
    return tuple(asked) or (LAYERS if max(LAYERS) < depth else tuple(range(depth)))


def shared_noise(policy: Policy, seed: int, batch: int) -> np.ndarray | None:
    """The same for every sample: what differs then is due to the prompt."""
    return stack_noise([action_noise(policy.spec.noise_shape, seed)] * batch)


def sheet_of(policy: Policy, observation: Observation, title: str, drawing: Drawing) -> Sheet:
    """The pictures of the moment, ready to take maps."""
    side = policy.spec.image_size
    return Sheet(
        policy.processor.source_images(observation), (side, side), title=title, style=drawing, crop=policy.spec.crop
    )
