"""The small configurations of the studies that are more than one evaluation, or none."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import VqaConfig


@dataclass(frozen=True)
class SeedsConfig(VqaConfig):
    """Train and evaluate under several seeds; the passes of the model are made once."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Values of `training.seed`, one run each; at least two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.seeds)) < 2:
            raise FoveateError(f"--seeds: expected at least two different ones, got {list(self.seeds)}")

    @property
    def base(self) -> VqaConfig:
        """The experiment of any of the seeds."""
        return VqaConfig(**{f.name: getattr(self, f.name) for f in fields(VqaConfig)})


@dataclass(frozen=True)
class TablesConfig:
    """Gather the rows of several runs into one main table, one curve and one table of action ratios, with plots."""

    runs: tuple[str, ...]
    """Run folders, or CSV files with the columns of `results.csv`; bare words before the options are these too."""
    output_dir: str = "outputs/plots"
    """Folder of the tables and plots."""
    dataset: str | None = None
    """Data set of the main table and the curve; null: all."""
    language: Literal["en", "zh"] = "en"
    """Language of the plots' labels."""


@dataclass(frozen=True)
class BucketsConfig:
    """Write the action ratios of a learned row as a configuration of `random_policy_matched`."""

    run: str
    """Folder of `foveate eval vqa`."""
    out: str = "configs/baseline_random_matched.yaml"
    """The file to write."""
    lambda_cost: float | None = None
    """Lambda of the row, in nats per unit of cost; null: the first learned row."""
    dataset: str | None = None
    """Data set of the row; null: the first."""
    by: Literal["global", "entropy"] = "global"
    """`global`: one triple of ratios; `entropy`: one per entropy bucket."""
    seed: int = 42
    """Random seed of the drawn actions (`policy.baseline_seed`)."""


@dataclass(frozen=True)
class DemoVqaConfig:
    """Every baseline and lambda on the mixed set, whose questions need no image, a coarse one or the full one."""

    out: str = "runs/demo_vqa"
    """Folder of tables and plots."""
    max_samples: int = 600
    """Number of questions."""
    dataset: str = "mixed"
    """Data set: mixed or easy_vqa."""
    ratios: tuple[float, ...] = (0.5, 0.25)
    """Shares of vision tokens to keep, in (0, 1], three ways each; each costs a pass."""
    language: Literal["en", "zh"] = "en"
    """Language of the plots' labels."""
