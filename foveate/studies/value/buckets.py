"""The action ratios of a learned row, as the configuration of the random rule that matches it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import FoveateError
from foveate.studies.value.config import BucketsConfig
from foveate.studies.value.result import Row
from foveate.util.files import write_text
from foveate.vision_value.config import HeadConfig


@dataclass(frozen=True)
class MatchedRatios:
    """What `random_policy_matched` needs to match a row."""

    row: str
    """The row and its data set, in words."""
    rates: list[float]
    """Shares of NO, COARSE and FULL."""
    policy: dict[str, Any]
    """Keys of `policy.*`."""
    origin: str
    """The row's run, configuration and data, as comments of YAML."""

    @property
    def said(self) -> str:
        """The shares, short."""
        return " ".join(f"{rate:.4g}" for rate in self.rates)

    def apply(self, config: HeadConfig) -> HeadConfig:
        """The configuration with these ratios in place of its own rule."""
        unset = {f.name: f.default for f in dataclasses.fields(HeadConfig) if f.name.startswith("baseline_")}
        return dataclasses.replace(config, **{**unset, **{key: _as_tuple(value) for key, value in self.policy.items()}})

    def write(self, path: Path) -> None:
        """A YAML file that `--config` takes."""
        write_text(path, self.origin + yaml.safe_dump({"policy": self.policy}, sort_keys=False), shared=True)


def matched_ratios(config: BucketsConfig) -> MatchedRatios:
    """Read them from a run's `summary.json`.

    Raises:
        FoveateError: there is none, or no such row in it.
    """
    path = Path(config.run) / "summary.json"
    try:
        summary = json.loads(path.read_text())
        row = _learned_row(summary["rows"], config, path)
    except OSError as error:
        raise FoveateError(f"{path}: cannot be read ({error.strerror}); `foveate eval vqa` writes it") from error
    except (ValueError, KeyError) as error:
        raise FoveateError(f"{path}: not the summary of `foveate eval vqa` ({error})") from error
    policy: dict[str, Any] = {"baseline_name": "random_policy_matched", "baseline_seed": config.seed}
    rates = [row[f"action_rate_{level}"] for level in ("no", "coarse", "full")]
    if config.by == "global":
        policy["baseline_target_ratios"] = rates
    else:
        policy["baseline_bucket_ratios"] = [list(bucket) for bucket in row["bucket_ratios"]]
        policy["baseline_bucket_thresholds"] = list(row["bucket_thresholds"])
    name = f"{row['row']} on {row['dataset']}"
    data = summary["data"][row["dataset"]]["hash"]
    origin = f"# {name} of {config.run}\n# config {summary['config_hash']}, data {data}\n"
    return MatchedRatios(name, rates, policy, origin)


def _learned_row(rows: Sequence[Row], config: BucketsConfig, path: Path) -> Row:
    learned = [r for r in rows if not r["baseline_name"] and config.dataset in (None, r["dataset"])]
    found = [r for r in learned if config.lambda_cost is None or abs(r["lambda_cost"] - config.lambda_cost) < 1e-9]
    if not found:
        there = ", ".join(f"{r['dataset']} {r['lambda_cost']:g}" for r in learned) or "none"
        raise FoveateError(
            f"{path}: no learned row with lambda {config.lambda_cost} on {config.dataset or 'any data set'}; "
            f"learned rows there: {there}"
        )
    return found[0]


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
