"""From the keys of an experiment to the things they name: the model, the questions, the trained heads."""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.data.vqa.jsonl import SUFFIXES
from foveate.data.vqa.load import load_vqa
from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.passes import VLMLike
from foveate.models.vlm.budget import VisionBudget
from foveate.training.value.stage1 import FOLDER, check_origin
from foveate.types import VQASample
from foveate.util.run_folder import differing_options
from foveate.util.shipped import VLMS
from foveate.vision_value.checkpoint import TrainedHead, load_head, newest_checkpoint

TRAINING_KEYS = ("policy.", "training.", "model.path", "data.train_jsonl", "max_train_samples")
"""Beginnings of the options that a trained head depends on."""


@dataclass(frozen=True)
class ModelSource:
    """All that the model of a configuration is made from."""

    path: str
    dtype: str
    lora: str | None
    """Folder of its adapters; empty: new ones."""
    budget: VisionBudget | None
    prompt_template: str | None
    batch_size: int
    max_pixels: int


def model_source(config: VqaConfig) -> ModelSource:
    """The model of `model.*`, as stage 1 has left it in `tuned_folder`.

    Raises:
        FoveateError: what stage 1 has left there was tuned from another model.
    """
    keys = config.model
    path, lora, tuned = keys.path, keys.lora, tuned_folder(config)
    if not _is_factory(path) and tuned.is_dir() and (config.training.stage1_epochs or _beside_head(config)):
        check_origin(tuned, path)
        path, lora = (path, str(tuned)) if (tuned / "adapter_config.json").exists() else (str(tuned), None)
    return ModelSource(
        path,
        keys.dtype,
        lora,
        config.vision_budget,
        config.data.prompt_template,
        config.eval.batch_size,
        config.data.max_pixels,
    )


def load_model(config: VqaConfig, device: str | None = None) -> VLMLike:
    """The model that `model_source` says; `module:factory` names one's own.

    Args:
        device: in place of `model.device`.
    """
    source = model_source(config)
    if _is_factory(source.path):
        return _own_model(source.path)
    from foveate.models.vlm.load import Lora, load_vlm

    return load_vlm(
        source.path,
        device=device or config.model.device,
        dtype=config.model.dtype,
        budget=source.budget,
        prompt_template=source.prompt_template,
        lora=None if source.lora is None else Lora(path=source.lora),
        batch_size=source.batch_size,
        max_pixels=source.max_pixels,
    )


def _is_factory(path: str) -> bool:
    return ":" in path and not Path(path).exists()


def tuned_folder(config: VqaConfig) -> Path:
    """Where stage 1 has left the model: beside the first of the named heads, else in `training.output_dir`."""
    return _beside_head(config) or Path(config.training.output_dir) / FOLDER


def _beside_head(config: VqaConfig) -> Path | None:
    """The tuned model in the folder of the first named head."""
    for name in (*config.checkpoint, config.eval.ddp_checkpoint_path):
        if name:
            path = Path(name)
            found = (path if path.is_dir() else path.parent) / FOLDER
            return found if found.is_dir() else None
    return None


def stage1_recipe(config: VqaConfig, data: str) -> dict[str, Any]:
    """All that the tuned model depends on, as plain values.

    Args:
        data: hash of the questions that it is tuned on, those of validation left out.
    """
    keys = ("stage1_epochs", "stage1_baseline_name", "stage1_lr", "batch_size", "weight_decay", "seed", "val_fraction")
    lora = None if config.model.lora is None else str(config.model.lora)
    own = {key: getattr(config.training, key) for key in keys}
    return {**own, "model": config.model.path, "lora": lora, "prompt": config.data.prompt_template, "data": data}


def untuned(config: VqaConfig) -> list[str]:
    """A warning where the configuration has a stage 1 whose model is not there."""
    folder = tuned_folder(config)
    if not config.training.stage1_epochs or folder.is_dir() or ":" in config.model.path:
        return []
    return [
        f"training.stage1_epochs is {config.training.stage1_epochs}, but there is no tuned model in {folder}: "
        f"{config.model.path} was evaluated as it is; `foveate train value` tunes it"
    ]


def load_sets(config: VqaConfig) -> dict[str, list[VQASample]]:
    """Data set -> its questions: those of `--dataset_config`, else `data.eval_jsonl`."""
    names = [name.strip() for name in (config.dataset_config or config.data.eval_jsonl or "").split(",")]
    names = [name for name in names if name]
    if not names:
        raise FoveateError(
            "no questions to evaluate: name data sets with --dataset_config (mmbench, mmmu, textvqa, easy_vqa, mixed, "
            "or a JSONL file, separated by commas), or set data.eval_jsonl"
        )
    keys = config.data
    sets = {
        short_name(name): list(_questions(name, keys.split, keys.root, config.max_samples))
        for name in dict.fromkeys(names)
    }
    if len(sets) < len(set(names)):
        raise FoveateError(f"--dataset_config {config.dataset_config}: two files have one name; rename one of them")
    return sets


def load_training_set(config: VqaConfig) -> list[VQASample]:
    """The questions of `data.train_jsonl`."""
    keys = config.data
    if not keys.train_jsonl:
        raise FoveateError(
            "no questions to train on: set data.train_jsonl to a JSONL file (`foveate data vqa-train` builds one from "
            "the published sets), or to the name of a data set"
        )
    split = None if keys.train_jsonl.endswith(SUFFIXES) else keys.train_split
    return list(_questions(keys.train_jsonl, split, keys.root, config.max_train_samples))


def _questions(name: str, split: str | None, root: str | None, max_samples: int | None) -> tuple[VQASample, ...]:
    """A verb that runs several experiments reads a set once; a file that was edited meanwhile is read anew."""
    path = Path(name)
    return _read(name, split, root, max_samples, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=4)
def _read(
    name: str, split: str | None, root: str | None, max_samples: int | None, _changed: int
) -> tuple[VQASample, ...]:
    return tuple(load_vqa(name, split=split, root=root, max_samples=max_samples))


def short_name(name: str) -> str:
    """`data/mine.jsonl` -> `mine`; a preset stays what it is."""
    return Path(name).stem if name.endswith(SUFFIXES) else name


def load_heads(config: VqaConfig, vlm: VLMLike) -> tuple[list[TrainedHead], list[str]]:
    """The trained heads, and warnings.

    Those of `--checkpoint` and `eval.ddp_checkpoint_path`; else the one that `_own_head` chooses among those in
    `training.output_dir`, in its `earlier_N` and beside a shipped model; else none.

    Raises:
        FoveateError: `training.output_dir` has heads, and all contradict the configuration.
    """
    named = [*config.checkpoint, *([config.eval.ddp_checkpoint_path] if config.eval.ddp_checkpoint_path else [])]
    heads = [load_head(path) for path in named]
    warnings: list[str] = []
    if not named:
        heads, warnings = _own_head(config, vlm)
    for trained in heads:
        model = trained.facts.get("model")
        if model and model != vlm.fingerprint:
            warnings.append(
                f"{trained.path} was trained on the passes of another model, prompt or budget ({model}; this one is "
                f"{vlm.fingerprint}): its gains may not hold here"
            )
        warnings += _idle_options(trained, config)
        if named and (different := contradictions(trained, config)):
            warnings.append(f"{trained.path} is not what this configuration trains: {'; '.join(different)}")
    return heads, warnings


def _own_head(config: VqaConfig, vlm: VLMLike) -> tuple[list[TrainedHead], list[str]]:
    """The head that this configuration has trained, of all that were kept; and what to know of the choice.

    Those whose objective or inputs are other ones are out. Of the rest: trained on this model's passes, then with the
    fewest other options, then the newest.
    """
    folder, shipped = Path(config.training.output_dir), shipped_head(config.model.path)
    number = re.compile(r"earlier_(\d+)")
    earlier = [path for path in folder.glob("earlier_*") if number.fullmatch(path.name)]
    earlier.sort(key=lambda path: int(number.findall(path.name)[0]), reverse=True)
    places = [place for place in (folder, *earlier) if place.is_dir() and newest_checkpoint(place)]
    own = {place: load_head(place) for place in places}
    against = {place: contradictions(trained, config) for place, trained in own.items()}
    fitting = [place for place in places if not against[place]]
    if places and not fitting and config.policy.baseline_name in (None, "string_lookup"):
        told = ". ".join(f"{place}: {'; '.join(against[place])}" for place in places)
        raise FoveateError(
            f"the heads in training.output_dir are not what this configuration trains. {told}. Train one (`foveate "
            "train value` keeps the others), name a head with --checkpoint, or give the options it was trained with"
        )
    if not fitting and shipped.is_dir() and newest_checkpoint(shipped):
        trained = load_head(shipped)
        if different := contradictions(trained, config):
            return [], [f"the head that ships with {config.model.path} was left out: {'; '.join(different)}"]
        return [trained], []
    if not fitting:
        return [], []
    others = {place: other_training(place, own[place], config) for place in fitting}
    stranger = {place: own[place].facts.get("model") != vlm.fingerprint for place in fitting}
    best = min(fitting, key=lambda place: (stranger[place], len(others[place])))
    if stranger[best] and shipped.is_dir() and newest_checkpoint(shipped):
        trained = load_head(shipped)
        if trained.facts.get("model") == vlm.fingerprint and not contradictions(trained, config):
            return [trained], []
    warnings = []
    if best != places[0]:
        reason = "; ".join(against[places[0]] or others[places[0]]) or "it belongs to another model"
        warnings.append(f"{best} was taken, not the newest head in {folder}: {reason}")
    elif len(places) > 1 and others[best]:
        warnings.append(
            f"{best} was taken, the newest of {len(places)} heads there, and it was trained otherwise: "
            f"{'; '.join(others[best])}"
        )
    return [own[best]], warnings


def contradictions(trained: TrainedHead, config: VqaConfig) -> list[str]:
    """Where the objective and the inputs of a head are not those of the configuration."""
    shape, keys, facts = trained.head.shape, config.policy, trained.facts
    there: dict[str, Any] = {"feature_mode": shape.feature_mode}
    if shape.action_space == "binary":  # three scores are read as two actions, but not two as three
        there["action_space"] = shape.action_space
    there |= facts.get("objective", {})
    if shape.learns == "policy":
        there["lambda_cost"] = facts.get("lambda_cost", keys.lambda_cost)
    found = [
        f"policy.{key} {plain(value)} in training, {plain(getattr(keys, key))} now"
        for key, value in there.items()
        if value != getattr(keys, key)
    ]
    if "objective" not in facts and (shape.learns == "gains") != (keys.use_straight_through is None):
        learns = "gains" if shape.learns == "gains" else "actions, of a policy.use_straight_through that is not null"
        found.insert(0, f"it learned {learns}; policy.use_straight_through is {plain(keys.use_straight_through)} now")
    return found


def other_training(place: Path, trained: TrainedHead, config: VqaConfig) -> list[str]:
    """Options of the training that left this head which are not those of the configuration; evaluation has some of
    its own."""
    idle = ["policy.baseline_", "policy.fallback_", "training.output_dir", "training.save_every", "training.seed"]
    idle += ["policy.lambda_cost"] if trained.head.shape.learns == "gains" else []
    return [
        f"{key} {plain(before)} in training, {plain(now)} now"
        for key, (before, now) in differing_options(place, config).items()
        if key.startswith(TRAINING_KEYS) and not key.startswith(tuple(idle))
    ]


def plain(value: Any) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _idle_options(trained: TrainedHead, config: VqaConfig) -> list[str]:
    """What this configuration asks of a head that was settled when it was trained."""
    warnings, seed = [], trained.facts.get("seed", config.training.seed)
    if seed != config.training.seed:
        warnings.append(
            f"{trained.path} was trained with seed {seed}: training.seed {config.training.seed} changes bootstraps and "
            "sampled answers alone; `foveate sweep seeds` trains a head per seed"
        )
    if config.pareto and trained.head.shape.learns == "policy":
        warnings.append(
            f"{trained.path} has its lambda trained into it: --pareto does nothing to it; train one per lambda, or one "
            "that learns gains (policy.use_straight_through: null) for a whole curve"
        )
    return warnings


def shipped_head(model: str) -> Path:
    """Folder of the head that ships with a shipped model."""
    return VLMS / model / "policy"


def _own_model(path: str) -> Any:
    module, _, factory = path.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        raise FoveateError(
            f"model.path {path}: expected a checkpoint folder, a name, or one's own as `module:factory` on the Python "
            f"path ({error})"
        ) from error
