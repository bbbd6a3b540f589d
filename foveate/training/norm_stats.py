"""openpi's `norm_stats.json` of a LeRobot data set: one pass over the numbers, no picture is decoded.

The state is counted once per row. The actions are counted as a policy is trained on them: in chunks of `action_horizon`
from every row on, relative to the state of that row where the robot's mapping says so, and beyond an episode's end the
last one again (as openpi has it). Without a horizon each action counts once, which differs by the weight of the
episodes' first and last steps alone; a robot with relative actions needs the horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.info import Feature
from foveate.errors import FoveateError
from foveate.models.common.columns import find_columns
from foveate.models.common.normalize import NormStats, RunningStats, save_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.training.preset import read_preset
from foveate.training.spread import with_width
from foveate.util.progress import SILENT, Reporter


@dataclass(frozen=True)
class NormStatsConfig:
    """Compute the norm stats of a LeRobot data set: mean, std, and the true 1 % and 99 % quantiles."""

    config_name: str = ""
    """A training configuration (name or YAML file) that says data set, robot and action horizon; flags win over it."""
    dataset: str = ""
    """The data set: a folder, or OWNER/NAME of the hub."""
    robot: str = ""
    """Robot mapping, by name or as a YAML file."""
    model: Literal["pi0", "pi05"] = "pi05"
    """Model whose convention the mapping follows, where they differ (LIBERO's actions)."""
    action_horizon: int | None = None
    """Steps of an action chunk; needed where the robot has relative actions. Null: each action counts once."""
    episodes: tuple[int, ...] = ()
    """Episodes to count; empty: all."""
    assets_dir: str = ""
    """Folder of norm stats apart from the data sets: assets_dir/asset_id/norm_stats.json is written."""
    asset_id: str = ""
    """Name of the statistics in `assets_dir`; empty: the data set's."""
    out: str = ""
    """Folder or file to write; empty: where `foveate train policy` looks for them, the data set's folder
    (`assets/OWNER/NAME` for one of the hub) or that of `assets_dir`."""

    def __post_init__(self) -> None:
        if self.action_horizon is not None and self.action_horizon < 1:
            raise FoveateError(f"action_horizon: expected at least 1, got {self.action_horizon}")


@dataclass(frozen=True)
class NormStatsResult:
    """What was computed."""

    path: Path
    stats: dict[str, NormStats]
    rows: int
    warnings: tuple[str, ...]
    """One for each entry that hardly varies, with what was done."""


def norm_stats(config: NormStatsConfig, report: Reporter = SILENT) -> NormStatsResult:
    """Compute and write `norm_stats.json`.

    Raises:
        FoveateError: no data set or robot is named, they do not fit, or a value is not finite (episode and column).
    """
    said = resolve(config)
    dataset = LeRobotDataset(said.dataset, said.episodes or None)
    robot = RobotMapping.load(said.robot, said.model)
    stats, warnings = dataset_stats(dataset, robot, said.action_horizon, report)
    out = Path(said.out) if said.out else norm_stats_folder(said.dataset, said.assets_dir, said.asset_id)
    return NormStatsResult(save_norm_stats(out, stats), stats, len(dataset), tuple(warnings))


def norm_stats_folder(dataset: str, assets_dir: str = "", asset_id: str = "") -> Path:
    """Where the norm stats of a data set stand: `assets_dir/asset_id` where that is named, else with the data set.

    Args:
        dataset: a folder, or OWNER/NAME of the hub, whose statistics stand in `assets`.
        asset_id: empty: the data set's name.
    """
    folder = Path(dataset).expanduser()
    if assets_dir:
        return Path(assets_dir).expanduser() / (asset_id or (folder.name if folder.is_dir() else dataset))
    return folder if folder.is_dir() else Path("assets", dataset)


def dataset_stats(
    dataset: LeRobotDataset, robot: RobotMapping, action_horizon: int | None, report: Reporter = SILENT
) -> tuple[dict[str, NormStats], list[str]]:
    """`state` and `actions` in the model's convention, and a warning for each entry that hardly varies."""
    if action_horizon is None and any(robot.delta_mask):
        raise FoveateError(
            f"robot {robot.name!r}: its actions are relative to the state at a chunk's start, so the statistics depend "
            "on the chunk's length; set --action_horizon to the policy's, or name its --config-name"
        )
    sizes = {name: dataset.info.features[name].size for name in dataset.info.vectors}
    columns = find_columns(robot, str(dataset.root), dataset.cameras, sizes)
    horizon = action_horizon or 1
    state, actions = RunningStats(total=len(dataset)), RunningStats(total=len(dataset) * horizon)
    with report.bar("norm stats", "rows", len(dataset)) as bar:
        for place, rows in dataset.stream(columns.vectors):
            for name, values in rows.items():
                dataset.check_finite(place, name, values.reshape(len(values), -1))
            states, moves = columns.state_of(rows), columns.actions_of(rows)
            state.update(robot.to_model_state(states))
            for offset in range(horizon):
                ahead = np.minimum(np.arange(len(moves)) + offset, len(moves) - 1)
                actions.update(robot.to_model_actions(moves[ahead][:, None], states))
            bar.advance(len(states))
    stats, warnings = {}, []
    for key, running in (("state", state), ("actions", actions)):
        stats[key], told = with_width(running, _entries(dataset, getattr(columns, key)))
        warnings += [f"{key}{line}" for line in told]
    return stats, warnings


def resolve(config: NormStatsConfig) -> NormStatsConfig:
    """The configuration with what `config_name` says of it filled in.

    Raises:
        FoveateError: there is no such training configuration, or something is said nowhere.
    """
    preset = read_preset(config.config_name) if config.config_name else {}
    data, model = preset.get("data") or {}, preset.get("model") or {}
    paths = data.get("path") or ()
    paths = [paths] if isinstance(paths, str) else list(paths)
    said = NormStatsConfig(
        config_name=config.config_name,
        dataset=config.dataset or (paths[0] if len(paths) == 1 else ""),
        robot=config.robot or data.get("robot") or "",
        model="pi0" if model.get("pi05") is False else config.model,
        action_horizon=config.action_horizon or model.get("action_horizon"),
        episodes=config.episodes,
        assets_dir=config.assets_dir or data.get("assets_dir") or "",
        asset_id=config.asset_id or data.get("asset_id") or "",
        out=config.out,
    )
    for field, example in (("dataset", "PATH"), ("robot", "libero")):
        if not getattr(said, field):
            silent = f"; {config.config_name} does not say it" if config.config_name else ""
            raise FoveateError(f"norm-stats needs --{field} {example}, or a --config-name that says it{silent}")
    return said


def _entries(dataset: LeRobotDataset, columns: tuple[str, ...]) -> list[str]:
    features: list[Feature] = [dataset.info.features[name] for name in columns]
    return [feature.entry(i) for feature in features for i in range(math.prod(feature.shape))]
