"""`config.json` is checked like flags, before anything is built."""

import math
from typing import Any

import pytest

from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_steps", 0),
        ("num_steps", -1),
        ("num_steps", 10**9),
        ("num_steps", 2.5),
        ("action_horizon", 0),
        ("action_horizon", 10**9),
        ("action_horizon", math.nan),
        ("action_dim", True),
        ("max_token_len", 10**9),
        ("vocab_size", "512"),
        ("pi05", "yes"),
        ("pi05", 1),
        ("dtype", "int8"),
        ("time_grid", "other"),
        ("query_projection", None),
        ("views", "corner"),
        ("views", []),
        ("views", ["a", "a"]),
        ("views", [["a"]]),
        ("views", [str(i) for i in range(100)]),
        ("llm", [1]),
        ("llm", None),
        ("llm.depth", 10**9),
        ("llm.depth", -1),
        ("llm.depth", "3"),
        ("llm.width", 10**12),
        ("llm.num_heads", 0),
        ("llm.num_kv_heads", 3),
        ("llm.head_dim", 7),
        ("expert.mlp_dim", 0),
        ("vision.patch_size", 0),
        ("vision.image_size", 10**6),
        ("vision.num_attention_heads", 7),
        ("vision.num_hidden_layers", 10**9),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(key: str, value: Any) -> None:
    values = Pi0Config().to_dict()
    *parts, name = key.split(".")
    part = values[parts[0]] if parts else values
    part[name] = value
    with pytest.raises(FoveateError) as caught:
        Pi0Config.from_dict(values)
    assert name in str(caught.value)


def test_too_many_patches() -> None:
    values = Pi0Config().to_dict()
    values["vision"] |= {"patch_size": 1, "image_size": 4096}
    with pytest.raises(FoveateError, match="4096 x 4096 patches, expected at most 65,536"):
        Pi0Config.from_dict(values)


def test_what_is_no_object() -> None:
    with pytest.raises(FoveateError, match="model: expected an object"):
        Pi0Config.from_dict([1, 2])  # type: ignore[arg-type]


def test_the_published_sizes_are_well_inside() -> None:
    assert Pi0Config.from_dict(Pi0Config().to_dict()) == Pi0Config()
