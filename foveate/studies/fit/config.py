"""What is tried on which episodes, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foveate.errors import FoveateError, unknown
from foveate.policy import LoadOptions, at_least_one
from foveate.studies.pruning.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class FitConfig(LoadOptions):
    """Which pruning does a checkpoint bear? All methods and budgets on recorded episodes, without a simulator. The same
    command again goes on where it stopped."""

    episodes: str
    """LeRobot data set (folder or OWNER/NAME), DROID tree, foveate's or LIBERO's demonstrations, or run folder."""
    methods: tuple[str, ...] = ()
    """Methods to compare; left out: all that the policy can run. Random and stride are always among them."""
    budgets: tuple[float, ...] = (0.5, 0.25, 0.125)
    """Shares of the patches that are kept."""
    minutes: float = 10.0
    """No new episode is begun after so long."""
    max_episodes: int = 100
    """Episodes at most, drawn from all."""
    frames_per_episode: int = 16
    """Moments of an episode at which the policy is asked, at most, evenly over it."""
    replan_steps: int = 5
    """Actions of a chunk that count, and steps between two moments at least: what a robot executes before it looks."""
    causal_frames: int = 1
    """Moments of each episode at which the dropped patches are covered in the pictures; 0: none."""
    tolerance: float = 0.15
    """Largest error on critical frames that is recommended, as a share of that of a policy that sees grey pictures."""
    batch: int = 8
    """Observations per inference."""
    seed: int = 0
    """Of noise, of the order of episodes and of random covers."""
    against: str | None = None
    """Folder of a `foveate sweep pruning` of the same policy: says how well each column ranks its success rates."""
    out: str | None = None
    """Folder of the results, fit.yaml among them; default runs/fit_<policy>."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "max_episodes", "frames_per_episode", "replan_steps", "batch")
        if self.pruner is not None:
            raise FoveateError("pruner: fit tries all methods; name those that it should compare with --methods")
        for method in self.methods:
            if method not in METHODS:
                raise unknown("pruning method", method, METHODS)
        if not self.budgets or any(not 0 < budget < 1 for budget in self.budgets):
            raise FoveateError(f"budgets: expected shares between 0 and 1, got {list(self.budgets)}; 0.25 is a quarter")
        for name, value in (("minutes", self.minutes), ("tolerance", self.tolerance)):
            if not value > 0:
                raise FoveateError(f"{name}: expected a number above 0, got {value:g}")
        if self.causal_frames < 0 or self.seed < 0:
            raise FoveateError(f"causal_frames and seed: expected at least 0, got {self.causal_frames} and {self.seed}")

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/fit_{Path(self.policy).resolve().name}")


MAY_CHANGE = (
    "methods", "budgets", "minutes", "max_episodes", "tolerance", "batch", "against", "out", "device",
    "policy",
)  # fmt: skip
"""Options that may differ when a study goes on: they change no number that was measured."""
