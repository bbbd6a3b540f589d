"""How a robot's policy looks, view by view and step by step: rules, and a head that has learnt what a look is worth.

    rule = make_looking("motion")           # or Motion(threshold=0.03), or {"name": "motion", "threshold": 0.03}

A rule joins by one line in `CONFIGS`, one file each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.errors import FoveateError, unknown
from foveate.util.choices import from_options
from foveate.vision_value.looking.alternate import Alternate
from foveate.vision_value.looking.always import Coarse, Full
from foveate.vision_value.looking.base import Rule
from foveate.vision_value.looking.head import Head
from foveate.vision_value.looking.motion import Motion
from foveate.vision_value.looking.wrist import Wrist

Looking = Full | Coarse | Alternate | Motion | Wrist | Head

CONFIGS: dict[str, type] = {
    "full": Full,
    "coarse": Coarse,
    "alternate": Alternate,
    "motion": Motion,
    "wrist": Wrist,
    "head": Head,
}

__all__ = ["CONFIGS", "Alternate", "Coarse", "Full", "Head", "Looking", "Motion", "Rule", "Wrist", "make_looking"]


def make_looking(spec: Rule | str | Mapping[str, Any] | None) -> Any:
    """The rule that `spec` describes: itself, a short name, or a mapping with `name` and options; None stays None.

    Raises:
        FoveateError: an unknown name or option, or a contradiction in the options.
    """
    if spec is None or isinstance(spec, Rule):
        return spec
    options = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if "name" not in options:
        raise FoveateError(f"looking: expected a rule, one of the names {', '.join(CONFIGS)}, or a mapping with 'name'")
    name = options.pop("name")
    if name == "none":
        return None
    if name not in CONFIGS:
        raise unknown("looking rule", str(name), CONFIGS)
    return from_options(name, CONFIGS[name], options)
