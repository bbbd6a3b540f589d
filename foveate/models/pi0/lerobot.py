"""What a LeRobot π0 or π0.5 policy folder says about itself, read without LeRobot.

config.json                                  features, chunk size, normalisation modes
model.safetensors                            openpi's keys behind `model.`; in older policies the statistics too
                                             (`normalize_inputs.buffer_observation_state.mean`, ...)
policy_preprocessor.json                     steps: renamed views, relative actions, normaliser ...
policy_preprocessor_step_N_normalizer_processor.safetensors      `observation.state.q01`, ...
policy_postprocessor.json, ...unnormalizer_processor.safetensors  `action.q01`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from foveate.errors import FoveateError, unknown
from foveate.models.common.normalize import Normalizer, NormKind, NormStats
from foveate.models.common.robots import RobotMapping
from foveate.util.files import read_json

_IMAGES = "observation.images."
_STATE, _ACTION = "observation.state", "action"
_EPS = 1e-8
_MODES: dict[str, tuple[NormKind, str, str]] = {
    "QUANTILES": ("quantile", "q01", "q99"),
    "QUANTILE10": ("quantile", "q10", "q90"),
    # The same formula as for quantiles, with the data's range in their place.
    "MIN_MAX": ("quantile", "min", "max"),
    "MEAN_STD": ("zscore", "mean", "std"),
}


@dataclass(frozen=True)
class LeRobotPolicy:
    """The parts of a policy folder that foveate needs besides the weights."""

    pi05: bool
    views: tuple[str, ...]
    action_horizon: int
    max_token_len: int
    num_steps: int
    image_size: int
    robot: RobotMapping
    """Made from the features; its conventions are not known."""
    state_norm: Normalizer | None
    """None: the state enters as it is, or the statistics were not found (see `missing`)."""
    action_norm: Normalizer | None
    missing: tuple[str, ...]


def read_lerobot(folder: Path, config: Mapping[str, Any]) -> LeRobotPolicy:
    """Read a policy folder.

    Args:
        config: its `config.json`.
    Raises:
        FoveateError: another kind of policy, an option that foveate does not have, or a damaged file.
    """
    kind = config.get("type")
    if kind not in ("pi0", "pi05"):
        raise unknown(f"{folder}: LeRobot policy type", str(kind), ["pi0", "pi05"])
    for option in ("use_visual_memory", "use_proprioceptive_memory"):
        if config.get(option):
            raise FoveateError(f"{folder}: LeRobot's {option} changes the network and is not supported by foveate")
    steps = _steps(folder, "policy_preprocessor.json")
    inputs, outputs = config.get("input_features") or {}, config.get("output_features") or {}
    sizes = {_STATE: inputs.get(_STATE), _ACTION: outputs.get(_ACTION)}
    dims = {key: int(feature["shape"][0]) for key, feature in sizes.items() if feature}
    for key in sizes:
        if key not in dims:
            raise FoveateError(f"{folder}/config.json: no feature {key!r} with its shape")
    modes = _modes(steps, config)
    if modes.get("VISUAL", "IDENTITY") != "IDENTITY":
        raise FoveateError(f"{folder}: images normalised by {modes['VISUAL']}; foveate reads π0 with IDENTITY only")
    stats = _statistics(folder, steps)
    missing: list[str] = []
    norms = {
        key: _normalizer(key, modes.get(feature, "IDENTITY"), stats.get(key, {}), missing)
        for key, feature in ((_STATE, "STATE"), (_ACTION, "ACTION"))
    }
    views = _views(inputs, int(config.get("empty_cameras") or 0), steps.get("rename_observations_processor", {}))
    resolution = config.get("image_resolution") or config.get("resize_imgs_with_padding") or [224, 224]
    return LeRobotPolicy(
        pi05=kind == "pi05",
        views=tuple(views),
        action_horizon=int(config.get("chunk_size", 50)),
        max_token_len=int(config.get("tokenizer_max_length", 200 if kind == "pi05" else 48)),
        num_steps=int(config.get("num_inference_steps") or config.get("num_steps") or 10),
        image_size=int(resolution[0]),
        robot=RobotMapping(
            name="lerobot",
            views=views,
            state=(("state", dims[_STATE]),),
            action_dim=dims[_ACTION],
            delta_mask=_delta_mask(steps.get("relative_actions_processor", {}), dims[_ACTION]),
        ),
        state_norm=norms[_STATE],
        action_norm=norms[_ACTION],
        missing=tuple(missing),
    )


def _steps(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Registry name of each pipeline step -> its config, with `state_file` where it has one."""
    if not (folder / name).exists():
        return {}
    steps = read_json(folder / name).get("steps")
    if not isinstance(steps, list):
        raise FoveateError(f"{folder / name}: expected a list of steps")
    named = [s for s in steps if isinstance(s, dict) and "registry_name" in s]
    return {s["registry_name"]: {**(s.get("config") or {}), "state_file": s.get("state_file")} for s in named}


def _modes(steps: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, str]:
    step = steps.get("normalizer_processor", {})
    return dict(step.get("norm_map") or config.get("normalization_mapping") or {})


def _views(inputs: Mapping[str, Any], empty: int, rename: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Model view -> names in an observation; LeRobot appends empty cameras after those that are there."""
    sources = {new: old for old, new in (rename.get("rename_map") or {}).items()}
    views: dict[str, tuple[str, ...]] = {}
    for key, feature in inputs.items():
        name = key.removeprefix(_IMAGES)
        if feature.get("type") == "VISUAL" and not name.startswith("empty_camera"):
            names = [sources.get(key, key).removeprefix(_IMAGES), name, key]
            views[name] = tuple(dict.fromkeys(names))
    empties = {key.removeprefix(_IMAGES) for key in inputs if key.startswith(_IMAGES + "empty_camera")}
    empties |= {f"empty_camera_{i}" for i in range(empty)}
    return views | {name: () for name in sorted(empties)}


def _delta_mask(step: Mapping[str, Any], action_dim: int) -> tuple[bool, ...]:
    if not step.get("enabled"):
        return ()
    excluded = [str(word).lower() for word in step.get("exclude_joints") or () if word]
    names = [str(name).lower() for name in step.get("action_names") or ()][:action_dim]
    mask = [not any(word in name for word in excluded) for name in names]
    return tuple(mask + [True] * (action_dim - len(mask)))


def _statistics(folder: Path, steps: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Feature -> statistic -> array; those of the separate files win over buffers among the weights."""
    stats = _read_stats(folder / "model.safetensors", buffers=True)
    post = _steps(folder, "policy_postprocessor.json")
    for step in (steps.get("normalizer_processor", {}), post.get("unnormalizer_processor", {})):
        if step.get("state_file"):
            # A bare name: a path in a downloaded file must not reach outside the folder.
            for key, group in _read_stats(folder / Path(step["state_file"]).name, buffers=False).items():
                stats.setdefault(key, {}).update(group)
    return stats


def _read_stats(path: Path, *, buffers: bool) -> dict[str, dict[str, np.ndarray]]:
    stats: dict[str, dict[str, np.ndarray]] = {}
    if not path.exists():
        if buffers:
            return stats
        raise FoveateError(f"{path}: no such file, but policy_preprocessor.json names it; copy the whole policy folder")
    prefixes = {
        "normalize_inputs.buffer_": (_STATE,),
        "unnormalize_outputs.buffer_": (_ACTION,),
        "normalize_targets.buffer_": (_ACTION,),
    }
    try:
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118
                feature, _, name = key.rpartition(".")
                if buffers:
                    known = [
                        (f, prefix)
                        for prefix, features in prefixes.items()
                        for f in features
                        if feature.startswith(prefix)
                    ]
                    if not known or feature.removeprefix(known[0][1]) != known[0][0].replace(".", "_"):
                        continue
                    feature = known[0][0]
                stats.setdefault(feature, {})[name] = file.get_tensor(key).astype(np.float32)
    except (SafetensorError, OSError) as error:
        raise FoveateError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None
    return stats


def _normalizer(key: str, mode: str, stats: Mapping[str, np.ndarray], missing: list[str]) -> Normalizer | None:
    if mode == "IDENTITY":
        return None
    if mode not in _MODES:
        raise unknown(f"LeRobot normalisation of {key}:", mode, [*_MODES, "IDENTITY"])
    kind, low, high = _MODES[mode]
    if low not in stats or high not in stats:
        missing.append(f"norm stats: {mode} of {key!r} needs {low} and {high}, found {sorted(stats) or 'none'}")
        return None
    low_value, high_value = stats[low], stats[high]
    try:
        if kind == "zscore":
            return Normalizer(NormStats(low_value, high_value), "zscore", _EPS)
        middle, spread = (low_value + high_value) / 2, high_value - low_value
        return Normalizer(NormStats(middle, spread, low_value, high_value), "quantile", _EPS)
    except FoveateError as error:
        raise FoveateError(f"{key}: {error}") from None
