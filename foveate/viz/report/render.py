"""The templates of the pages, in `templates/` beside this file. Values are escaped; a missing one is an error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from foveate.viz.overlay import ATTN_COLORS, SCORE_COLORS, over_grey
from foveate.viz.report.charts import PALETTE, color


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values."""
    return _environment().get_template(template).render(**values)


def _ramps() -> dict[str, str]:
    """Colour map -> the stops of a CSS gradient, the colours as a heat map shows them over mid-grey."""
    stops = np.linspace(0, 255, 17).round().astype(int)
    return {
        name: ", ".join("#{:02x}{:02x}{:02x}".format(*(int(c) for c in shown)) for shown in over_grey(name)[stops])
        for name in (SCORE_COLORS, ATTN_COLORS)
    }


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.globals |= {"palette": PALETTE, "color": color, "ramps": _ramps()}
    return environment
