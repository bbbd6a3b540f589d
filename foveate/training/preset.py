"""The shipped training configurations, by name: `foveate train policy NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from foveate.errors import FoveateError, unknown
from foveate.util.files import read_text

PRESETS = Path(__file__).parent / "presets"


def preset_file(name: str) -> Path:
    """The YAML file of a training configuration.

    Args:
        name: of a shipped one, or the path of a file that ends in .yaml or .yml.
    Raises:
        FoveateError: there is none of that name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise unknown("training configuration", name, [preset.stem for preset in PRESETS.glob("*.yaml")])
    return path


def read_preset(name: str) -> dict[str, Any]:
    """What a training configuration says, as plain values.

    Raises:
        FoveateError: there is none of that name, or it is not YAML of that form.
    """
    path = preset_file(name)
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FoveateError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise FoveateError(f"{path}: expected keys such as data and model")
    return values
