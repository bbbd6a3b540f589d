"""From a command line and YAML files to one frozen dataclass, by jsonargparse.

    config = parse(EvalConfig, argv, "foveate eval sim")

Fields become flags (`--env.image_size 96`), their docstrings the help. `--config a.yaml --config b.yaml` are merged
in order, and flags win over files. `_` and `-` are the same in flags; `--flag` alone means true; a tuple field takes
`1,31`, `1 31` or `[1, 31]`.

A field that is a union of dataclasses (`pruner: PrunerConfig | None`) is a choice, see `choices.py`:
`--pruner lightvla --pruner.keep_ratio 0.25`; in YAML `pruner: lightvla`, or a mapping with `name: lightvla` in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from foveate.cli.choices import TAGS, Choice
from foveate.cli.flags import plain_flag, read_flags, sequence_of, take
from foveate.cli.type_words import Help, in_words, names_of
from foveate.errors import FoveateError, unknown
from foveate.util.run_folder import field_names, to_dict

T = TypeVar("T")

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse(
    config_cls: type[T],
    argv: Sequence[str],
    prog: str,
    description: str = "",
    *,
    aliases: Mapping[str, str] | None = None,
    positional: Sequence[str] = (),
) -> T:
    """Build `config_cls` from a command line; `--help` prints the options and leaves with status 0.

    Args:
        config_cls: a dataclass; nested dataclasses become dotted flags.
        aliases: other flag name -> field (`{"pretrained_checkpoint": "policy"}`), with `_`.
        positional: fields that bare words fill, in order.
    Raises:
        FoveateError: an unknown flag or key (with the nearest known one), a value of the wrong type, a missing
            field, a file that cannot be read, or what the dataclass's `__post_init__` rejects.
    """
    aliases = aliases or {}
    words = [plain_flag(word, aliases) for word in argv]
    wants_help = "--help" in words or "-h" in words
    words, files = take([word for word in words if word not in ("--help", "-h")], "config")
    layers = [_read_yaml(Path(file), aliases) for file in files]
    choices = _make_choices(config_cls)
    for key, choice in choices.items():
        words = _choose(key, choice, layers, words)

    known = dict(_leaves(config_cls, choices))
    values: dict[str, Any] = {}
    for layer in [{key: choice.options for key, choice in choices.items()}, *layers]:
        values |= _flatten(layer, known, choices)
    values |= read_flags(words, known, positional)

    parser = _make_parser(config_cls, choices, known, prog, description, positional)
    if wants_help:
        parser.print_help()
        raise SystemExit(0)
    namespace = _run(parser, {key: _as_text(value) for key, value in values.items()}, known, prog)
    try:
        instances = parser.instantiate(namespace)
        return config_cls(**{name: instances.get(name) for name in field_names(config_cls)})
    except (ValueError, TypeError) as error:
        raise FoveateError(str(error)) from error


def _make_choices(config_cls: type) -> dict[str, Choice]:
    hints = typing.get_type_hints(config_cls)
    found = {f.name: Choice.of(f, hints[f.name]) for f in dataclasses.fields(config_cls) if f.init}
    return {name: choice for name, choice in found.items() if choice is not None}


def _choose(key: str, choice: Choice, layers: Sequence[dict[str, Any]], words: list[str]) -> list[str]:
    """Settle a choice by the files, then by the flags; both lose what concerned the choice itself."""
    for layer in layers:
        if key in layer:
            choice.update(layer.pop(key))
    for flag in (key, *(f"{key}.{tag}" for tag in TAGS)):
        words, names = take(words, flag)
        for name in names:
            choice.choose(name)
    options = [word[2:].partition("=")[0] for word in words if word.startswith(f"--{key}.")]
    choice.settle([option.removeprefix(f"{key}.") for option in options])
    return words


def _read_yaml(path: Path, aliases: Mapping[str, str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise FoveateError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FoveateError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise FoveateError(f"--config {path}: expected `key: value` lines, got a {type(content).__name__}")
    plain = {str(key).replace("-", "_"): value for key, value in (content or {}).items()}
    return {aliases.get(key, key): value for key, value in plain.items()}


def _leaves(config_cls: type, choices: Mapping[str, Choice], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> type of every option, those of the chosen dataclasses included."""
    hints = typing.get_type_hints(config_cls)
    for spec in dataclasses.fields(config_cls):
        hint = choices[spec.name].chosen if spec.name in choices else hints[spec.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _leaves(hint, {}, f"{prefix}{spec.name}.")
        elif spec.init and spec.name not in choices:
            yield f"{prefix}{spec.name}", hint


def _flatten(
    values: Mapping[str, Any], known: Mapping[str, Any], choices: Mapping[str, Choice], prefix: str = ""
) -> dict[str, Any]:
    """Nested YAML values -> dotted keys; an unknown key is an error that names the nearest known one."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if dotted in known:
            flat[dotted] = value
        elif isinstance(value, Mapping) and (not value or any(k.startswith(f"{dotted}.") for k in known)):
            flat |= _flatten(value, known, choices, f"{dotted}.")
        elif not (value is None and dotted in {k.partition(".")[0] for k in known}):
            raise _unknown_key(dotted, value, known, choices)
    return flat


def _unknown_key(key: str, value: Any, known: Mapping[str, Any], choices: Mapping[str, Choice]) -> FoveateError:
    """Names the keys of that level, and those of the same name elsewhere; a file has too many to name them all."""
    above, _, name = key.rpartition(".")
    depth = key.count(".") + 1
    level = {".".join(k.split(".")[:depth]) for k in known if not above or k.startswith(f"{above}.")}
    level |= set() if above else set(choices)
    if key in level:
        below = ", ".join(k.removeprefix(f"{key}.") for k in known if k.startswith(f"{key}."))
        return FoveateError(f"config key {key!r}: expected keys below it ({below}), got {value!r}")
    return unknown("config key", key, {*level, *(k for k in known if k.endswith(f".{name}"))})


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(to_dict(value))


def _make_parser(
    config_cls: type,
    choices: Mapping[str, Choice],
    known: Mapping[str, Any],
    prog: str,
    description: str,
    positional: Sequence[str],
) -> jsonargparse.ArgumentParser:
    about = description or inspect.cleandoc(config_cls.__doc__ or "")
    if about.startswith(f"{config_cls.__name__}("):  # what @dataclass writes where there is no docstring
        about = ""
    notes = [
        f"--{key} NAME chooses one of {', '.join(choice.names)} (now: {choice.name or 'none'}); "
        f"`--{key} NAME --help` lists its options."
        for key, choice in choices.items()
    ]
    required = {f.name for f in dataclasses.fields(config_cls) if f.default is f.default_factory is dataclasses.MISSING}
    bare = [key.upper() if key in required else f"[{key.upper()}]" for key in positional]
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *bare, "[--OPTION VALUE ...]"]) if bare else None,
        description=" ".join([about, *notes]),
        exit_on_error=False,
        formatter_class=Help,
    )
    # jsonargparse evaluates annotations in the class's own module, where names of an inherited field may be missing; it
    # would then accept anything.
    hints = typing.get_type_hints(config_cls)
    config_cls.__init__.__annotations__.update({name: hints[name] for name in field_names(config_cls)})  # type: ignore[misc]
    parser.add_argument("--config", type=str, help="a YAML file of these options; repeatable, later ones win")
    parser.add_class_arguments(config_cls, as_group=False, skip=set(choices))
    for key, choice in choices.items():
        if choice.chosen is not None:
            parser.add_class_arguments(choice.chosen, key)
    for action in parser._actions:  # jsonargparse offers `--env FILE` for every group; `--config` is the one way here
        if action.option_strings and type(action).__name__ == "_ActionConfigLoad":
            action.help = argparse.SUPPRESS
        if names := names_of(known.get(action.dest)):
            action.metavar = f"{{{','.join(names)}}}"
    return parser


def _run(
    parser: jsonargparse.ArgumentParser, values: Mapping[str, str], known: Mapping[str, Any], prog: str
) -> jsonargparse.Namespace:
    """Parse, with jsonargparse's complaints in one paragraph."""
    try:
        return parser.parse_args([f"--{key}={value}" for key, value in values.items()])
    except argparse.ArgumentError as error:
        text = " ".join(str(error).split())
        wrong = re.match(r'(?:Parser key|argument) "?([\w.]+)"?: ?', text)
        if wrong is None or wrong[1] not in values:
            raise FoveateError(f"{text}; `{prog} --help` lists the options") from error
        key, given = wrong[1], values[wrong[1]]
        if names := names_of(known[key]):
            raise FoveateError(f"--{key}: {unknown('value', given, names)}") from error
        if sequence_of(known[key]) is not None:
            given = given.removeprefix("[").removesuffix("]")
        raise FoveateError(f"--{key}: expected {in_words(known[key])}, got {given!r}") from error
