"""LeRobot's π0 and π0.5 policies as PyTorch folders in openpi's layout.

    lerobot_to_openpi(LeRobotToOpenpiConfig("pi05_lerobot", "pi05_openpi", asset_id="my_robot"))

    model.safetensors  assets/<asset id>/norm_stats.json  config.json  robot.yaml  origin/  conversion.json

Weights keep their bits, statistics their numbers. What openpi's layout has no place for (LeRobot's options, its
pipelines, the statistics of pictures) goes along under `origin/`, so that `openpi_to_lerobot` gives the policy back.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.convert.folder import (
    DTYPES,
    ORIGIN,
    RECORD,
    Converted,
    carry,
    copy_assets,
    copy_tensors,
    new_folder,
    write_policy_files,
    write_record,
)
from foveate.convert.statistics import Ends, Stats, read_stats, stats_of_tensors, stats_text
from foveate.convert.tensor_writer import Slot
from foveate.errors import FoveateError
from foveate.models.common.normalize import NORM_FILE
from foveate.models.common.tensor_files import INDEX, WEIGHTS, Stored
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import TOKENIZER_NAMES, detect
from foveate.models.pi0.lerobot import MODES, LeRobotPolicy, read_lerobot
from foveate.models.pi0.weights import NORMALISERS, TIED_EMBEDDING, UNUSED, check_keys
from foveate.util.files import read_json
from foveate.util.progress import SILENT, Reporter


@dataclass(frozen=True)
class LeRobotToOpenpiConfig:
    """LeRobot's π0 or π0.5 policy as a PyTorch folder in openpi's layout."""

    policy_path: str
    """Folder of the policy: config.json, model.safetensors, policy_preprocessor.json and its files."""
    output_path: str
    """Folder to write."""
    asset_id: str = "lerobot"
    """Name of the norm stats, a folder under assets; openpi's own configurations look for theirs, as trossen."""
    overwrite: bool = False
    """Replace an earlier conversion in `output_path`."""


def lerobot_to_openpi(config: LeRobotToOpenpiConfig, report: Reporter = SILENT) -> Converted:
    """Convert; one tensor at a time is in memory. All is checked before anything is written.

    Raises:
        FoveateError: no LeRobot policy of π0 or π0.5, or one that openpi's layout cannot hold; something else is in
            `output_path`.
    """
    source = Path(config.policy_path)
    info = detect(source)
    if info.format != "lerobot":
        raise FoveateError(
            f"{source}: expected a LeRobot policy (config.json with a type), found {info.format}'s layout"
        )
    if info.undetermined:
        raise FoveateError("\n  ".join([f"{source}: sizes that nothing tells:", *info.undetermined]))
    policy = read_lerobot(source, read_json(source / "config.json"), info.keys.stored)
    kind, ends, stats = _norms(source, policy)
    stored = check_keys(info.weights, info.keys, info.config)
    keys = {entry.key: name for name, entry in info.keys.stored.items() if name in (*stored, *TIED_EMBEDDING, *UNUSED)}
    if UNUSED[0] in info.keys.stored:
        stored[UNUSED[0]] = info.keys.stored[UNUSED[0]]
    others = [entry.key for name, entry in info.keys.stored.items() if entry.key not in keys]
    unused = tuple(key for key in others if not key.startswith(NORMALISERS))
    notes = list(info.assumed)
    for group, (low, high) in ends.items():
        notes.append(f"{group}: {low} and {high} stand as q01 and q99, by which openpi computes the same")
    if kind != ("quantile" if policy.pi05 else "zscore"):
        name, usual = ("π0.5", "quantiles") if policy.pi05 else ("π0", "mean and deviation")
        notes.append(
            f"normalised by {policy.modes['STATE']}: foveate reads that, openpi itself takes {usual} for {name}"
        )
    with new_folder(config.output_path, overwrite=config.overwrite) as folder:
        count = copy_tensors(folder / WEIGHTS, stored, report, zeros=_expert_head(info.config, stored))
        if (source / ORIGIN / "assets").is_dir() and (source / RECORD).is_file():
            _as_it_was(source, folder, stats)
        else:
            asset = folder / "assets" / config.asset_id
            asset.mkdir(parents=True)
            (asset / NORM_FILE).write_text(stats_text(stats), encoding="utf-8")
            robot = dataclasses.replace(policy.robot, asset_ids=(config.asset_id,))
            write_policy_files(folder, info.config, robot, config.asset_id, norm=kind, resize="torch")
            weights = {INDEX, *(entry.file.name for entry in info.keys.stored.values())}
            small = [file for file in sorted(source.iterdir()) if file.suffix in (".json", ".safetensors")]
            carry(source, [file for file in small if file.name not in weights], folder)
        for name in TOKENIZER_NAMES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        write_record(
            folder,
            {"converted": dataclasses.asdict(config), "keys": keys, "unused": unused, "ends": ends, "notes": notes},
        )
    return Converted(count, unused, tuple(notes))


def _norms(source: Path, policy: LeRobotPolicy) -> tuple[str, Ends, Stats]:
    """How vectors are normalised, what stands for quantiles, and `norm_stats.json`."""
    modes = {"state": policy.modes.get("STATE", "IDENTITY"), "actions": policy.modes.get("ACTION", "IDENTITY")}
    kinds = {group: MODES[mode][0] if mode in MODES else "identity" for group, mode in modes.items()}
    if kinds["state"] != kinds["actions"] or "identity" in kinds.values():
        raise FoveateError(
            f"{source}: the state is normalised by {modes['state']}, actions by {modes['actions']}; openpi takes one "
            "formula for both, that of quantiles (QUANTILES, MIN_MAX) or of MEAN_STD (foveate runs the folder as it is)"
        )
    ends = {group: MODES[mode][1:] for group, mode in modes.items() if mode not in ("QUANTILES", "MEAN_STD")}
    stats = stats_of_tensors(policy.statistics, ends)
    missing = [f"{group}.{name}" for group in stats for name in ("mean", "std") if name not in stats[group]]
    if policy.missing or missing:
        lacking = [*policy.missing, *([f"{', '.join(missing)}: openpi's file always has them"] if missing else [])]
        raise FoveateError("\n  ".join([f"{source}: statistics are missing:", *lacking]))
    return kinds["state"], ends, stats


def _expert_head(model: Pi0Config, stored: Mapping[str, Stored]) -> dict[str, Slot]:
    """The expert's head where LeRobot's file has none: nobody reads it, but openpi's reader is strict."""
    if UNUSED[0] in stored:
        return {}
    return {UNUSED[0]: Slot((model.vocab_size, model.expert.width), DTYPES[stored[TIED_EMBEDDING[0]].dtype])}


def _as_it_was(source: Path, folder: Path, stats: Stats) -> None:
    """The small files of the openpi folder that the policy once was, with the statistics that it has now."""
    origin = source / ORIGIN
    for file in origin.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    copy_assets(origin / "assets", folder)
    used = folder / "assets" / str(read_json(source / RECORD).get("asset_id")) / NORM_FILE
    if used.is_file() and read_stats(used) != stats:
        used.write_text(stats_text(stats), encoding="utf-8")
