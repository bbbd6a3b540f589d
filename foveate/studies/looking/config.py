"""On which episodes a head learns, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foveate.errors import FoveateError
from foveate.policy import LoadOptions, at_least_one
from foveate.util.checks import number

MAY_CHANGE = ("out", "max_episodes", "batch", "elsewhere", "budget", "epochs", "width")
"""Options that may differ when a folder goes on: they change no gain."""


@dataclass(frozen=True, kw_only=True)
class LookingTrainConfig(LoadOptions):
    """Train the head that chooses NO, COARSE or FULL for each view (`--looking head`), on recorded episodes. The same
    command again goes on where it stopped."""

    episodes: str
    """Run folder of the policy itself (traced), or any recordings that `foveate fit` takes."""
    out: str = "runs/looking"
    """Folder of the gains, the head and its curve."""
    max_episodes: int = 200
    """Episodes at most, drawn from all."""
    frames_per_episode: int = 40
    """Moments of an episode at which the policy is asked, at most, evenly over it."""
    replan_steps: int = 5
    """Actions of a chunk that count, and steps between two moments at least."""
    max_age: int = 3
    """Moments that a reused look may be behind; the head lets none grow older."""
    elsewhere: float = 0.25
    """What an action error counts outside of critical intervals, where it counts 1."""
    budget: float = 0.5
    """Cost of the choices that lambda is set for on the episodes to choose by: 0 the cheapest level, 1 always FULL."""
    epochs: int = 60
    """Passes over the training moments."""
    width: int = 64
    """Hidden units of each of the head's two layers."""
    batch: int = 16
    """Observations per inference."""
    seed: int = 0
    """Of noise, of the head, and of the split into episodes to train on, to choose by and to test on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "max_episodes", "frames_per_episode", "replan_steps", "max_age", "epochs", "width", "batch")
        number("elsewhere", self.elsewhere, 0)
        if not 0 < self.budget <= 1:
            raise FoveateError(f"budget: expected a share in (0, 1], got {self.budget:g}")
        if self.looking is not None:
            raise FoveateError("looking: gains are measured against a policy that looks at everything; leave it out")

    @property
    def folder(self) -> Path:
        return Path(self.out)
