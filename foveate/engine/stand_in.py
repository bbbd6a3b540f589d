"""A second tree of modules over the weights of a model: other layers go into it, and the model stays as it is.

other = stand_in(model)
replace_linears(other, lambda name, linear: None if name in left_out else Rounded(linear))
other.prefill(prefix)                 # with other layers
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from foveate.util.words import percent

MOST_ERROR = 0.05
"""Of a layer's outputs in fewer bits, norm of the difference over the norm. One that is off by more stays as it is."""
NOT_WHOLE = "the prefill does not run it as a whole"
"""Why a layer that was never entered stays as it is."""
Model = TypeVar("Model", bound=nn.Module)
Part = TypeVar("Part", bound=nn.Module)


def stand_in(model: Model) -> Model:
    """The same modules anew over the same parameters and buffers, which take no memory again."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def backbone_parts(model: nn.Module, kind: type[Part]) -> dict[str, Part]:
    """The modules of a kind in the backbone over the prefix: `3.mlp.down_proj` is the fourth layer's."""
    layers = model.attention_stacks()["prefix"]  # type: ignore[operator]
    return {
        f"{number}.{name}": part
        for number, layer in enumerate(layers)
        for name, part in layer.named_modules()
        if isinstance(part, kind)
    }


def backbone_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the backbone over the prefix, by name."""
    return backbone_parts(model, nn.Linear)


def relative_error(rounded: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((rounded - exact).norm() / exact.norm().clamp_min(1e-12))


def too_far(error: float, most: float) -> str:
    """Why a layer that is off by more than `most` stays as it is."""
    return f"error {percent(error, 1)}, over {percent(most, 1)}"


def replace_linears(model: nn.Module, make: Callable[[str, nn.Linear], nn.Module | None]) -> None:
    """Put another layer in the place of linear layers of the backbone.

    Args:
        model: a `stand_in`.
        make: called with a layer's name and the layer; None: it stays.
    """
    layers = model.attention_stacks()["prefix"]  # type: ignore[operator]
    for name, linear in backbone_linears(model).items():
        made = make(name, linear)
        if made is not None:
            number, _, path = name.partition(".")
            parent, _, last = path.rpartition(".")
            setattr(layers[int(number)].get_submodule(parent), last, made)
