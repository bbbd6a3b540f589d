"""From a command line and YAML files to one frozen dataclass.

    config = parse(EvalConfig, argv, "foveate eval sim")

Fields become flags (`--env.image_size 96`), their docstrings the help. `--config a.yaml --config b.yaml` are merged
in order, and flags win over files. `_` and `-` are the same in flags; `--flag` alone means true; a tuple field takes
`1,31`, `1 31` or `[1, 31]`.

A field that is a union of dataclasses (`pruner: PrunerConfig | None`) is a choice by name:
`--pruner lightvla --pruner.keep_ratio 0.25`; in YAML `pruner: lightvla`, or a mapping with `name: lightvla` in it.
It is settled before options are read: an option of a dataclass that is not chosen is an unknown option. In place of a
pruner's name stands the path of a `fit.yaml`, which names one and says for which checkpoint.

jsonargparse reads each value by the type of its field. Given whole dataclasses it would look for the types of inherited
fields in the wrong module, and accept anything where it does not find them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import jsonargparse
import yaml

from foveate.cli.help import Field, about, in_words, items_of, names_of, print_help
from foveate.errors import FoveateError, unknown
from foveate.util.choices import choices_of, members, named
from foveate.util.files import read_text

if TYPE_CHECKING:
    from foveate.pruning.fitted import Fitted

T = TypeVar("T")
Chosen = dict[str, type | None]
"""Field -> the dataclass that it is to hold."""

HELP = ("-h", "--help")
TAGS = ("", ".name", ".class_path")
"""What names a choice, in a file and in a flag: `--pruner.name X` is `--pruner X`."""
SWITCH = {"true": "true", "false": "false", "yes": "true", "no": "false", "null": "null", "none": "null"}
"""What may follow a true/false flag, and what it means."""


@dataclass
class Flag:
    """A flag, by its field's name, and the words up to the next one; the first word may be joined to it by `=`."""

    name: str
    words: list[str]
    joined: bool = False

    def take(self, kind: Any = str, whole: bool = False) -> Any:
        """The text of a value of this type, `whole` a list of texts; the words that make it leave `words`."""
        items, switch = items_of(kind), bool in members(kind)
        if switch and not self.joined and not (self.words and self.words[0].lower() in SWITCH):
            return "true"
        count = len(self.words) if items and not self.joined else 1
        taken, self.words = self.words[:count], self.words[count:]
        if not taken:
            raise FoveateError(f"--{self.name} needs a value")
        if whole:
            return taken
        if items and NoneType in members(kind) and taken[0] in ("null", "none"):
            return "null"
        if not items or taken[0].startswith("[["):
            text = " ".join(taken)
            return SWITCH.get(text.lower(), text) if switch else text
        parts = [part.strip(" '\"") for text in taken for part in text.strip("[]").split(",") if part.strip()]
        return json.dumps(parts) if str in items else f"[{', '.join(parts)}]"


def parse(
    config_cls: type[T],
    argv: Sequence[str],
    prog: str,
    description: str = "",
    *,
    aliases: Mapping[str, str] | None = None,
    positional: Sequence[str] = (),
    whole: Collection[str] = (),
) -> T:
    """Build `config_cls` from a command line; `--help` prints the options and leaves with status 0.

    Args:
        config_cls: a dataclass; nested dataclasses become dotted flags.
        aliases: other flag name -> field (`{"pretrained_checkpoint": "policy"}`), with `_`.
        positional: fields that bare words fill, in order; where the last one is in `whole`, it takes all that are left.
        whole: fields of paths or sentences: commas divide nothing, and a repeated flag adds to the list.
    Raises:
        FoveateError: an unknown flag or key (with the nearest known one), a value of the wrong type, a missing
            field, a file that cannot be read, or what the dataclass's `__post_init__` rejects.
    """
    aliases = aliases or {}
    flags = _split([word for word in argv if word not in HELP], aliases)
    choices = [field for field in _fields(config_cls, {}) if choices_of(field.kind)]
    naming = [f"{field.key}{tag}" for field in choices for tag in TAGS]

    said = [pair for flag in flags if flag.name == "config" for pair in _read_yaml(Path(flag.take()), aliases)]
    said += [(flag.name, flag.take()) for flag in flags if flag.name in naming]
    said, fitted = _from_files(said)
    rest = [flag for flag in flags[1:] if flag.name not in ("config", *naming)]
    chosen, values = _choose(choices, said, [flag.name for flag in rest])
    options = {field.key: field for field in _options(config_cls, chosen)}
    for key, value in values.items():
        _check_key(key, value, [*options, *chosen])
    values |= {flag.name: [] for flag in rest if flag.name in whole}
    for flag in rest:
        if flag.name not in options:
            known = (*options, *chosen, *aliases, "config", "help")
            raise unknown("option", f"--{flag.name}", [f"--{key}" for key in known])
        value = flag.take(options[flag.name].kind, whole=flag.name in whole)
        values[flag.name] = values[flag.name] + value if flag.name in whole else value
    bare: list[Any] = [word for flag in flags for word in flag.words]
    if positional and positional[-1] in whole and len(bare) >= len(positional):  # the last one takes all that is left
        bare[len(positional) - 1 :] = [bare[len(positional) - 1 :]]
    if len(bare) > len(positional):
        raise FoveateError(f"unexpected word {bare[len(positional)]!r}: options start with `--`")
    values |= zip(positional, bare, strict=False)

    if not set(HELP).isdisjoint(argv):
        fields = [*(field._replace(default=chosen[field.key]) for field in choices), *options.values()]
        print_help(prog, description or about(config_cls), fields, aliases, positional, whole)
        raise SystemExit(0)
    read = {key: _read(key, values[key], f.kind) if key in values else f.default for key, f in options.items()}
    if missing := [f"--{key}" for key, value in read.items() if value is MISSING]:
        raise FoveateError(f"{', '.join(missing)}: a value is needed; `{prog} --help` lists the options")
    try:
        config = _build(config_cls, read, chosen)
    except (ValueError, TypeError) as error:
        raise FoveateError(str(error)) from error
    for file in fitted:
        _check_fitted(file, config)
    return config


def _from_files(said: Iterable[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[Fitted]]:
    """The same with every `fit.yaml` replaced by the method and the options that it names; and the last such file."""
    named: list[tuple[str, Any]] = []
    files: list[Fitted] = []
    for key, value in said:
        if key not in (f"pruner{tag}" for tag in TAGS):
            named.append((key, value))
            continue
        from foveate.pruning.fitted import is_fitted, read_fitted

        files = []  # a later name takes the place of an earlier one
        if not (isinstance(value, str) and is_fitted(value)):
            named.append((key, value))
            continue
        files = [read_fitted(value)]
        options = sorted(files[0].pruner.items(), key=lambda item: item[0] != "name")
        named += [("pruner" if name == "name" else f"pruner.{name}", option) for name, option in options]
    return named, files


def _check_fitted(file: Fitted, config: Any) -> None:
    """Raises FoveateError where the policy of a config is not the one that the file was made for."""
    from foveate.policy import check_fitted

    policy = getattr(config, "policy", None) or getattr(config, "init_from", None)
    if not policy:
        raise FoveateError(f"pruner {file.path}: was made for one checkpoint, and none is named; name a method instead")
    check_fitted(file, str(policy))


def _split(words: Sequence[str], aliases: Mapping[str, str]) -> list[Flag]:
    """The flags: `--trace-out-dir=x` is trace_out_dir. The words before all flags come first, without a name."""
    flags = [Flag("", [])]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_").replace(".init_args.", ".")
            flags.append(Flag(aliases.get(name, name), [value] if equals else [], bool(equals)))
        else:
            flags[-1].words.append(word)
    return flags


def _read_yaml(path: Path, aliases: Mapping[str, str]) -> list[tuple[str, Any]]:
    """(dotted key, value) of everything that a file says."""
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise FoveateError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FoveateError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise FoveateError(f"--config {path}: expected `key: value` lines, got a {type(content).__name__}")
    return [(key if value in (None, {}) else aliases.get(key, key), value) for key, value in _flatten(content or {})]


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted keys, what names a choice before its options."""
    for name, value in sorted(content.items(), key=lambda item: f".{item[0]}" not in TAGS):
        key = f"{prefix}{name}".replace("-", "_").replace(".init_args.", ".")
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _choose(
    choices: Iterable[Field], said: Iterable[tuple[str, Any]], flags: Sequence[str]
) -> tuple[Chosen, dict[str, Any]]:
    """Settle the choices by what was said, in order: (field -> dataclass, option -> value said).

    A new choice forgets the options of the one before; where there are options but no name, the only one is meant.
    """
    names = {field.key: choices_of(field.kind) for field in choices}
    chosen = {f.key: type(f.default) if type(f.default) in names[f.key].values() else None for f in choices}
    values: dict[str, Any] = {}
    for key, value in said:
        choice = next((choice for choice in names for tag in TAGS if key == f"{choice}{tag}"), None)
        if choice is None or value == {}:
            values[key] = value
            continue
        new = named(choice, "null" if value is None else str(value), names[choice])
        if new is None or chosen[choice] not in (None, new):
            values = {key: value for key, value in values.items() if not key.startswith(f"{choice}.")}
        chosen[choice] = new
    for choice in names:
        given = next((key for key in (*flags, *values) if key.startswith(f"{choice}.")), None)
        if given is not None and chosen[choice] is None:
            known = {name: cls for name, cls in names[choice].items() if cls is not None}
            if len(known) > 1:
                advice = f"add --{choice} NAME with one of {', '.join(known)}"
                raise FoveateError(f"--{given} is given, but no {choice} is chosen; {advice}")
            chosen[choice] = next(iter(known.values()))
    return chosen, values


def _fields(cls: type, chosen: Chosen, base: Any = None, prefix: str = "") -> Iterator[Field]:
    """The fields of one dataclass; `base` is an instance that holds their defaults."""
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        if spec.init:
            key = f"{prefix}{spec.name}"
            default = spec.default if spec.default_factory is MISSING else spec.default_factory()
            default = default if base is None else getattr(base, spec.name)
            yield Field(key, chosen.get(key, hints[spec.name]), default, cls)


def _options(cls: type, chosen: Chosen, base: Any = None, prefix: str = "") -> Iterator[Field]:
    """The fields that take a value, of a dataclass and of those in it."""
    for field in _fields(cls, chosen, base, prefix):
        if isinstance(field.kind, type) and dataclasses.is_dataclass(field.kind):
            inner = field.default if isinstance(field.default, field.kind) else None
            yield from _options(field.kind, chosen, inner, f"{field.key}.")
        elif field.kind is not None:
            yield field


def _build(cls: type[T], values: Mapping[str, Any], chosen: Chosen, prefix: str = "") -> T:
    """A dataclass, and those in it, of dotted key -> value."""
    given = {
        key: values[key] if key in values else kind and _build(kind, values, chosen, f"{key}.")
        for key, kind, *_ in _fields(cls, chosen, prefix=prefix)
    }
    return cls(**{key.removeprefix(prefix): value for key, value in given.items()})


def _check_key(key: str, value: Any, known: Collection[str]) -> None:
    """Refuse an unknown key of a file, naming the keys of its level and those of the same name elsewhere."""
    level = ""
    for name in key.split("."):
        below = {k.removeprefix(level).partition(".")[0] for k in known if k.startswith(level)}
        if not below:
            raise FoveateError(f"config key {level[:-1]!r}: expected a value, got {name!r} below it")
        if name not in below:
            near = {*(f"{level}{n}" for n in below), *(k for k in known if k.endswith(f".{name}"))}
            raise unknown("config key", f"{level}{name}", near)
        level += f"{name}."
    if key not in known and value not in (None, {}):  # `env:` with nothing below it says nothing
        keys = ", ".join(k.removeprefix(level) for k in known if k.startswith(level))
        raise FoveateError(f"config key {key!r}: expected keys below it ({keys}), got {value!r}")


def _read(key: str, value: Any, kind: Any) -> Any:
    """A value of this type, from the text of a flag or from what YAML made of a file."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_args([f"--value={text}"]).value
    except argparse.ArgumentError as error:
        if (names := names_of(kind)) and not {int, float} & {*members(kind)}:
            raise FoveateError(f"--{key}: {unknown('value', text, names)}") from error
        given = text.removeprefix("[").removesuffix("]") if items_of(kind) else text
        raise FoveateError(f"--{key}: expected {in_words(kind)}, got {given!r}") from error
