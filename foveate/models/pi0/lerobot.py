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

from foveate.errors import FoveateError, unknown
from foveate.models.common.normalize import Normalizer, NormKind, NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import Stored, read_floats, read_header
from foveate.util.checks import of_type, shown, whole
from foveate.util.files import read_json

_IMAGES = "observation.images."
_STATE, _ACTION = "observation.state", "action"
_EPS = 1e-8
MODES: dict[str, tuple[NormKind, str, str]] = {
    "QUANTILES": ("quantile", "q01", "q99"),
    "QUANTILE10": ("quantile", "q10", "q90"),
    # The same formula as for quantiles, with the data's range in their place.
    "MIN_MAX": ("quantile", "min", "max"),
    "MEAN_STD": ("zscore", "mean", "std"),
}
"""LeRobot's word for a normalisation -> its formula, and the two statistics that it takes."""
RELATIVE = ("relative_actions_processor", "delta_actions_processor")
"""The step that makes actions relative to the state: its name in LeRobot 0.6, and in 0.5."""


@dataclass(frozen=True)
class LeRobotPolicy:
    """The parts of a policy folder that foveate needs besides the weights."""

    pi05: bool
    views: tuple[str, ...]
    action_horizon: int
    max_token_len: int
    num_steps: int
    image_size: int
    state_width: int
    """Numbers to which LeRobot pads the state."""
    since_0_5: bool
    """Whether a version that is surely not 0.4 or before wrote the folder: it has an option of a later one."""
    robot: RobotMapping
    """Made from the features; its conventions are not known."""
    state_norm: Normalizer | None
    """None: the state enters as it is, or the statistics were not found (see `missing`)."""
    action_norm: Normalizer | None
    missing: tuple[str, ...]
    modes: Mapping[str, str]
    """Kind of feature (`STATE`, `ACTION`) -> how LeRobot normalises it."""
    statistics: Mapping[str, Mapping[str, Stored]]
    """Feature (`observation.state`, `action`) -> statistic -> where it is."""


def read_lerobot(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Stored]) -> LeRobotPolicy:
    """Read a policy folder.

    Args:
        config: its `config.json`.
        weights: its tensors under openpi's names, among which older policies keep their statistics.
    Raises:
        FoveateError: another kind of policy, an option that foveate does not have, or a damaged file.
    """
    file = folder / "config.json"
    kind = config["type"]
    if kind not in ("pi0", "pi05"):
        raise unknown(f"{folder}: LeRobot policy type", shown(kind).strip("'"), ["pi0", "pi05"])
    for option in ("use_visual_memory", "use_proprioceptive_memory"):
        if config.get(option):
            raise FoveateError(f"{folder}: LeRobot's {option} changes the network and is not supported by foveate")

    def number(key: str, default: int, low: int = 1, high: int = 65_536) -> int:
        value = config.get(key)
        return default if value is None else whole(f"{file}: {key}", value, low, high)

    steps = _steps(folder, "policy_preprocessor.json")
    inputs, outputs = (_features(file, config, key) for key in ("input_features", "output_features"))
    dims = {_STATE: _dim(file, inputs, _STATE), _ACTION: _dim(file, outputs, _ACTION)}
    modes = _modes(file, steps, config)
    if modes.get("VISUAL", "IDENTITY") != "IDENTITY":
        raise FoveateError(f"{folder}: images normalised by {modes['VISUAL']}; foveate reads π0 with IDENTITY only")
    stats = _statistics(folder, steps, weights)
    missing: list[str] = []
    norms = {
        key: _normalizer(key, modes.get(feature, "IDENTITY"), stats[key], missing)
        for key, feature in ((_STATE, "STATE"), (_ACTION, "ACTION"))
    }
    views = _views(inputs, number("empty_cameras", 0, 0, 64), steps.get("rename_observations_processor", {}))
    return LeRobotPolicy(
        pi05=kind == "pi05",
        views=tuple(views),
        action_horizon=number("chunk_size", 50),
        max_token_len=number("tokenizer_max_length", 200 if kind == "pi05" else 48),
        num_steps=number("num_inference_steps", number("num_steps", 10)),
        image_size=_image_size(file, config),
        state_width=number("max_state_dim", 32),
        since_0_5="use_relative_actions" in config,
        robot=RobotMapping(
            name="lerobot",
            views=views,
            state=(("state", dims[_STATE]),),
            action_dim=dims[_ACTION],
            delta_mask=_delta_mask(next((steps[n] for n in RELATIVE if n in steps), {}), dims[_ACTION]),
        ),
        state_norm=norms[_STATE],
        action_norm=norms[_ACTION],
        missing=tuple(missing),
        modes=modes,
        statistics=stats,
    )


def _features(file: Path, config: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    features = of_type(f"{file}: {key}", config.get(key) or {}, dict)
    return {name: of_type(f"{file}: {key}, {name!r}", feature, dict) for name, feature in features.items()}


def _dim(file: Path, features: Mapping[str, Mapping[str, Any]], key: str) -> int:
    """Length of a vector."""
    if key not in features:
        raise FoveateError(f"{file}: no feature {key!r} with its shape")
    shape = of_type(f"{file}: shape of {key!r}", features[key].get("shape"), list)
    if len(shape) != 1:
        raise FoveateError(f"{file}: shape of {key!r}: expected one number, as [7], got {shown(shape)}")
    return whole(f"{file}: shape of {key!r}", shape[0], 1, 4096)


def _image_size(file: Path, config: Mapping[str, Any]) -> int:
    key = "image_resolution" if config.get("image_resolution") else "resize_imgs_with_padding"
    resolution = of_type(f"{file}: {key}", config.get(key) or [224, 224], list)
    if len(resolution) != 2 or resolution[0] != resolution[1]:
        raise FoveateError(f"{file}: {key}: expected a square, as [224, 224], got {shown(resolution)}")
    return whole(f"{file}: {key}", resolution[0], 1, 16_384)


def _steps(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Registry name of each pipeline step -> its config, with `state_file` where it has one."""
    if not (folder / name).exists():
        return {}
    steps = read_json(folder / name).get("steps")
    if not isinstance(steps, list):
        raise FoveateError(f"{folder / name}: expected a list of steps")
    named = [s for s in steps if isinstance(s, dict) and isinstance(s.get("registry_name"), str)]
    return {
        s["registry_name"]: {
            **of_type(f"{folder / name}: config of {s['registry_name']}", s.get("config") or {}, dict),
            "state_file": s.get("state_file"),
        }
        for s in named
    }


def _modes(file: Path, steps: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, str]:
    step = steps.get("normalizer_processor", {})
    modes = of_type(f"{file}: normalisation", step.get("norm_map") or config.get("normalization_mapping") or {}, dict)
    return {feature: of_type(f"{file}: normalisation of {feature}", mode, str) for feature, mode in modes.items()}


def _views(inputs: Mapping[str, Any], empty: int, rename: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Model view -> names in an observation; LeRobot appends empty cameras after those that are there."""
    renamed = of_type("policy_preprocessor.json: rename_map", rename.get("rename_map") or {}, dict)
    sources = {of_type("policy_preprocessor.json: rename_map", new, str): old for old, new in renamed.items()}
    views: dict[str, tuple[str, ...]] = {}
    for key, feature in inputs.items():
        name = key.removeprefix(_IMAGES)
        if feature.get("type") == "VISUAL" and not name.startswith("empty_camera"):
            names = [sources.get(key, key).removeprefix(_IMAGES), name, key]
            views[name] = tuple(dict.fromkeys(names))
    empties = {key.removeprefix(_IMAGES) for key in inputs if key.startswith(_IMAGES + "empty_camera")}
    empties |= {f"empty_camera_{i}" for i in range(empty)}
    return views | {name: () for name in sorted(empties)}


_NAMES_OF_ACTIONS = ("exclude_joints", "action_names")


def _delta_mask(step: Mapping[str, Any], action_dim: int) -> tuple[bool, ...]:
    if not step.get("enabled"):
        return ()
    lists = {key: of_type(f"relative actions: {key}", step.get(key) or [], list) for key in _NAMES_OF_ACTIONS}
    excluded, names = ([str(word).lower() for word in lists[key] if word] for key in _NAMES_OF_ACTIONS)
    names = names[:action_dim]
    mask = [not any(word in name for word in excluded) for name in names]
    return tuple(mask + [True] * (action_dim - len(mask)))


def _statistics(
    folder: Path, steps: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Stored]
) -> dict[str, dict[str, Stored]]:
    """Feature -> statistic -> where it is; those of the separate files win over buffers among the weights."""
    found: dict[str, dict[str, Stored]] = {_STATE: {}, _ACTION: {}}
    buffers = (("normalize_inputs", _STATE), ("normalize_targets", _ACTION), ("unnormalize_outputs", _ACTION))
    for prefix, feature in buffers:
        start = f"{prefix}.buffer_{feature.replace('.', '_')}."
        found[feature] |= {name.removeprefix(start): entry for name, entry in weights.items() if name.startswith(start)}
    post = _steps(folder, "policy_postprocessor.json")
    for step in (steps.get("normalizer_processor", {}), post.get("unnormalizer_processor", {})):
        if step.get("state_file"):
            # A bare name: a path in a downloaded file must not reach outside the folder.
            for key, entry in read_header(folder / Path(str(step["state_file"])).name).items():
                feature, _, name = key.rpartition(".")
                if feature in found:
                    found[feature][name] = entry
    return found


def _normalizer(key: str, mode: str, stats: Mapping[str, Stored], missing: list[str]) -> Normalizer | None:
    if mode == "IDENTITY":
        return None
    if mode not in MODES:
        raise unknown(f"LeRobot normalisation of {key}:", mode, [*MODES, "IDENTITY"])
    kind, low, high = MODES[mode]
    if low not in stats or high not in stats:
        known = sorted({name for _, *names in MODES.values() for name in names} & set(stats))
        missing.append(f"norm stats: {mode} of {key!r} needs {low} and {high}, found {known or 'none'}")
        return None
    low_value, high_value = (read_floats(stats[name]).numpy() for name in (low, high))
    try:
        if kind == "zscore":
            return Normalizer(NormStats(low_value, high_value), "zscore", _EPS)
        if low_value.shape == high_value.shape and (low_value > high_value).any():
            entries = np.flatnonzero(low_value > high_value).tolist()
            raise FoveateError(f"{low} is greater than {high} at {entries}; compute the statistics anew")
        middle, spread = (low_value + high_value) / 2, high_value - low_value
        return Normalizer(NormStats(middle, spread, low_value, high_value), "quantile", _EPS)
    except FoveateError as error:
        raise FoveateError(f"{stats[low].file}: {key!r}: {error}") from None
