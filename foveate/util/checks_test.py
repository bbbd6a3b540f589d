import math
from typing import Any

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.util.checks import number, of_type, one_of, shown, whole


@pytest.mark.parametrize("value", [0, 11, True, 3.0, "3", None, math.nan, [3]])
def test_what_is_no_whole_number_in_range(value: Any) -> None:
    with pytest.raises(FoveateError, match="steps: expected a whole number of 1 to 10, got"):
        whole("steps", value, 1, 10)


def test_whole_numbers() -> None:
    assert whole("steps", 1, 1, 10) == 1 and whole("steps", np.int64(10), 1, 10) == 10


@pytest.mark.parametrize("value", [-1, 10**400, True, "0.5", None, math.nan, math.inf, [0.5]])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(FoveateError, match="noise scale: expected a finite number of at least 0, got"):
        number("noise scale", value, 0)


def test_numbers() -> None:
    assert number("noise scale", 0, 0) == 0 and number("noise scale", np.float32(0.5)) == 0.5


def test_choices_and_types() -> None:
    assert (
        one_of("norm", "zscore", ("zscore", "quantile")) == "zscore" and of_type("robot", None, str, type(None)) is None
    )
    with pytest.raises(FoveateError, match="unknown norm 'zskore'; did you mean 'zscore'"):
        one_of("norm", "zskore", ("zscore", "quantile"))
    with pytest.raises(FoveateError, match="unknown norm '1'"):
        one_of("norm", 1, ("zscore", "quantile"))
    with pytest.raises(FoveateError, match="model: expected an object, got 'x'"):
        of_type("model", "x", dict)


def test_values_are_shown_short_however_deep_they_are() -> None:
    bomb: list[Any] = ["x"] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    assert len(shown(bomb)) < 200
