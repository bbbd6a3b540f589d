"""What stands beside the results of a run: its configuration, and where it came from.

check_same_config(folder, config, may_change=("workers",))    # a run that goes on has the options it began with
write_run_files(folder, config, config.seed)
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import FoveateError
from foveate.util.choices import choices_of, name_of
from foveate.util.files import read_json, write_json, write_text
from foveate.util.provenance import provenance

RECORDS = ("config.yaml", "run.json")
"""What says of a folder that a run wrote it."""


def to_dict(config: Any) -> Any:
    """A config as plain YAML values; a choice carries its `name`, so that `--config` reads the result back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = typing.get_type_hints(type(config))
        values = {name: to_dict(getattr(config, name)) for name in field_names(type(config))}
        for name in values:
            if values[name] is not None and choices_of(hints[name]):
                values[name] = {"name": name_of(type(getattr(config, name))), **values[name]}
        return values
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple | set | frozenset):
        return [to_dict(value) for value in config]
    return config if isinstance(config, bool | int | float | str | None) else str(config)


def write_run_files(out_dir: str | Path, config: Any, seed: int | None) -> None:
    """Write `config.yaml` (resolved; `--config` reads it) and `run.json` (where the results beside it came from).

    Each file appears whole or not at all. A run that goes on in the same folder keeps the records of its earlier
    starts under `earlier`.

    Raises:
        FoveateError: the folder cannot be written.
    """
    folder = Path(out_dir)
    record = folder / "run.json"
    run = {**provenance(), "seed": seed}
    if record.exists():
        try:
            before = json.loads(record.read_text())
            run["earlier"] = [*before.pop("earlier", []), before]
        except (OSError, ValueError) as error:
            raise FoveateError(f"{record}: not the JSON that an earlier run wrote; move it away: {error}") from error
    settings = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", settings, "the run's config")
    write_text(record, json.dumps(run, indent=1) + "\n", "the run's record")


def check_same_config(out_dir: str | Path, config: Any, may_change: Sequence[str]) -> None:
    """Refuse to mix two configurations in one folder of results; names the options that differ.

    Args:
        may_change: dotted options that change no result.
    """
    differing = differing_options(out_dir, config)
    told = [f"{k}: {there!r} there, {now!r} now" for k, (there, now) in differing.items() if k not in may_change]
    if told:
        raise FoveateError(
            f"{out_dir} holds a run with another configuration ({'; '.join(told)}); choose another folder, or give the "
            "same options to go on with that run"
        )


def same_study(out: Path, config: Any, now: Mapping[str, str], may_change: Sequence[str], kind: str) -> None:
    """Refuse a folder with a study of something else, or with another verb's run; note what this one is of.

    Args:
        now: what the study is of, by name: `checkpoint`, `episodes`.
        may_change: options that may differ.
        kind: of the study, for the refusal: `fit`.
    """
    note = out / "study.json"
    if note.exists():
        timed = (option for option in differing_options(out, config) if option.startswith("engine."))
        check_same_config(out, config, (*may_change, *timed))
        before = read_json(note)
        for what, value in now.items():
            if before.get(what) != value:
                raise FoveateError(
                    f"{out}: holds the {kind} of another {what.rstrip('s')} ({before.get(what)}, now {value}); choose "
                    "another folder with --out"
                )
    elif there := [name for name in RECORDS if (out / name).exists()]:
        raise FoveateError(
            f"{out}: holds a run of another kind ({', '.join(there)}), which would be overwritten; choose another "
            "folder with --out"
        )
    write_json(note, now)


def differing_options(out_dir: str | Path, config: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted option -> (value of the run in the folder, value now), where they differ; none without a run.

    An option that the folder does not know, since it is newer, had its default there.
    """
    record = Path(out_dir) / "config.yaml"
    if not record.exists():
        return {}
    recorded = _with_newer_options(yaml.safe_load(record.read_text(encoding="utf-8")) or {}, config)
    before, now = _dotted(recorded), _dotted(to_dict(config))
    keys = sorted(before.keys() | now.keys())
    return {key: (before.get(key), now.get(key)) for key in keys if not _same(before.get(key), now.get(key))}


def _with_newer_options(recorded: Any, config: Any) -> Any:
    """A record of options with those of the config that it lacks at their defaults.

    What it says otherwise stays: a field that was null, or another choice, had none of this one's options.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not isinstance(recorded, Mapping):
        return recorded
    if recorded.get("name") != to_dict(config).get("name", recorded.get("name")):
        return recorded
    names = field_names(type(config))
    known = {name: _with_newer_options(recorded[name], getattr(config, name)) for name in names if name in recorded}
    fields = [f for f in dataclasses.fields(config) if f.name in names and f.name not in recorded]
    defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    defaults |= {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    try:
        # As a whole: a config settles what nobody said from its other options.
        settled = to_dict(dataclasses.replace(config, **defaults))
    except FoveateError:
        settled = {}
    return {**recorded, **known, **{name: settled[name] for name in defaults if name in settled}}


def _same(before: Any, now: Any) -> bool:
    """Equal values, and two spellings of a path to what is there."""
    if isinstance(before, str) and isinstance(now, str) and before != now:
        return os.path.exists(now) and os.path.realpath(before) == os.path.realpath(now)
    return bool(before == now)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def field_names(config_cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(config_cls) if f.init]
