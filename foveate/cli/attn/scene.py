"""What the verbs of `foveate attn` about one moment share: the scene's options, the policy that sees it, its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.cli.attn.options import LookOptions
from foveate.errors import FoveateError
from foveate.policy import LoadOptions
from foveate.types import Observation, Phase
from foveate.util.noise import action_noise, stack_noise
from foveate.util.progress import Reporter

if TYPE_CHECKING:
    from foveate.policy import Policy
    from foveate.viz.attention import Sheet, Style

LAYERS = (1, 4, 5, 7, 10)
"""Low, middle and high layers of an 18-layer backbone."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig(LookOptions, LoadOptions):
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
    layers: tuple[int, ...] = ()
    """Backbone layers, negative ones count from the last; without any, 1,4,5,7,10, of a smaller model all."""
    phases: tuple[Phase, ...] = ("prefix", "suffix")
    """prefix: the text looks at the image; suffix: the actions do, while they are denoised."""
    seed: int = 0
    """Of the noise that the actions are denoised from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episode and (self.image or self.state):
            raise FoveateError("--episode brings its own pictures and state: leave --image and --state out")


def parse_scene(config_cls: type[Any], argv: list[str], verb: str, several: Sequence[str]) -> Any:
    """Flags of paths and sentences, which may hold commas, are taken out before lists are split."""
    from foveate.cli.config import parse
    from foveate.cli.words import take_all

    words, taken = list(argv), {}
    for flag in several:
        words, taken[flag] = take_all(words, flag)
    config = parse(config_cls, words, f"foveate attn {verb}", aliases={"checkpoint": "policy"})
    return replace(config, **{flag: tuple(values) for flag, values in taken.items() if values})


def observe(config: SceneConfig, prompt: str | None, policy: Policy, console: Any) -> Observation:
    from foveate.evaluation.scene import read_frame, read_observation

    if config.episode:
        return read_frame(config.episode, config.frame, config.camera, prompt, policy)
    return read_observation(config.image, config.state, str(prompt), policy, Reporter(console))


def layers_of(asked: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The layers asked for; without any the usual ones, of a smaller model all."""
    return asked or (LAYERS if max(LAYERS) < depth else tuple(range(depth)))


def noise_for(config: SceneConfig, policy: Policy, batch: int) -> np.ndarray | None:
    """The same for every sample: what differs then is due to the prompt."""
    return stack_noise([action_noise(policy.spec.noise_shape, config.seed)] * batch)


def begin(config: SceneConfig) -> Path:
    from foveate.util.run_folder import write_run_files

    write_run_files(config.out, config, config.seed)
    return Path(config.out)


def sheet_of(policy: Policy, observation: Observation, title: str, style: Style) -> Sheet:
    from foveate.viz.attention import Sheet

    side = policy.spec.image_size
    return Sheet(policy.processor.source_images(observation), (side, side), title=title, style=style)


def print_table(console: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
