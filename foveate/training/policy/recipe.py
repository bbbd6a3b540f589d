"""What a family brings to be trained: its batches, its loss, what of it is trained, and the folder that it becomes.

    recipe = begin(config)
    fit(recipe.objective, recipe.source(episodes), ...)
    recipe.export(folder, ...)

A family joins by one line in `RECIPES`, or with `register` from outside the package; the run knows none by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from foveate.data.demos import DemoEpisode
from foveate.errors import FoveateError
from foveate.models.base import ModelOptions
from foveate.models.common.robots import RobotMapping
from foveate.models.registry import detect
from foveate.training.loop import seed_of
from foveate.training.policy.data import DemoSource
from foveate.training.policy.objective import PolicyObjective
from foveate.util.shipped import find_policy

if TYPE_CHECKING:
    from foveate.training.policy.train import TrainPolicyConfig

NEW = "pi0"
"""Family of a policy that begins from nothing, with the sizes of `model`."""


class Recipe(Protocol):
    """One training of one policy. Made before demonstrations are read, so that what does not fit is told at once."""

    objective: PolicyObjective
    """What the loop trains, on the host. Parameters that require a gradient are trained, the others stay."""
    robot: RobotMapping
    """Of the policy; it says what the columns of a LeRobot data set are."""

    def source(self, episodes: list[DemoEpisode]) -> DemoSource:
        """Batches as `objective` takes them; the episodes' pictures are given back as they are taken over."""
        ...

    def export(self, out: Path, steps: int, train_config: Mapping[str, Any], tasks: list[str]) -> None:
        """Write the weights that the objective holds now as a policy folder that `load_policy` opens.

        Args:
            steps: of training that are done.
            train_config: of the run, as plain values.
            tasks: the instructions of the demonstrations.
        """
        ...


Begin = Callable[[Any, "TrainPolicyConfig"], Recipe]
"""From what the family's `detect` found in `init_from` (None: a new policy), and the run's config."""

RECIPES: dict[str, Begin | str] = {
    "pi0": "foveate.training.policy.pi0.recipe:begin",
    "openvla_oft": "foveate.training.policy.openvla_oft.recipe:begin",
}
"""Family -> how its training begins, or where that is."""


def register(family: str, begin: Begin) -> None:
    """Let `foveate train policy` train one more family; its name is that of its `Family`."""
    RECIPES[family] = begin


def begin(config: TrainPolicyConfig) -> Recipe:
    """The recipe of the family of `init_from`, or of a new policy; new weights are drawn from the run's seed.

    Raises:
        FoveateError: no such checkpoint, one that cannot be trained, or options that its family does not have.
    """
    torch.manual_seed(seed_of(config.seed))
    name, info = NEW, None
    if config.init_from:
        options = ModelOptions(tokenizer=config.data.tokenizer or None)
        family, info = detect(find_policy(config.init_from), options)
        name = family.name
    if name not in RECIPES:
        raise FoveateError(f"init_from {config.init_from}: {name} cannot be trained; {', '.join(RECIPES)} can")
    found = RECIPES[name]
    if isinstance(found, str):
        module, _, function = found.partition(":")
        found = getattr(importlib.import_module(module), function)
    recipe: Recipe = found(info, config)
    return recipe
