"""Values from files and callers: what they must be, or a sentence that says so."""

from __future__ import annotations

import math
import numbers
import reprlib
import sys
from collections.abc import Iterable
from typing import Any

from foveate.errors import FoveateError, unknown

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple = 2, 4, 4


def shown(value: Any) -> str:
    """A value for an error message, short however large or deeply nested it is."""
    return _SHORT.repr(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of `low` to `high`; 3.0, True and "3" are none.

    Raises:
        FoveateError: naming what was expected.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise FoveateError(f"{name}: expected a whole number of {low} to {high:,}, got {shown(value)}")
    return int(value)


def number(name: str, value: Any, low: float = -math.inf) -> float:
    """A finite number of at least `low`; True and "0.5" are none.

    Raises:
        FoveateError: naming what was expected.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= sys.float_info.max:
        least = "" if low == -math.inf else f" of at least {low:g}"
        raise FoveateError(f"{name}: expected a finite number{least}, got {shown(value)}")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> Any:
    """One of these texts.

    Raises:
        FoveateError: listing them.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise unknown(name, value if isinstance(value, str) else shown(value), choices)
    return value


def instruction(name: str, text: str | None) -> str:
    """What a policy is asked to do; blank is none.

    Raises:
        FoveateError: there is none.
    """
    if text is None or not text.strip():
        got = "none" if text is None else "an empty one"
        raise FoveateError(f"{name}: expected an instruction, got {got}; say in plain words what the robot shall do")
    return text


def of_type(name: str, value: Any, *types: type) -> Any:
    """A value of one of these types.

    Raises:
        FoveateError: naming what was expected.
    """
    if not isinstance(value, types):
        words = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
        expected = " or ".join(words.get(t, t.__name__) for t in types)
        raise FoveateError(f"{name}: expected {expected}, got {shown(value)}")
    return value
