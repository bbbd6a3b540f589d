"""LoRA (Hu et al. 2021): a frozen linear layer W, and beside it a trained change of low rank, scale * B A.

A layer that fuses several projections of the checkpoint (query, key, value) has one adapter for each of them, so that
what is trained, and its file, is what separate layers would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.util.checks import number, whole

ALL = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters; the defaults are those of OpenVLA-OFT's fine-tuning script. openpi's LoRA configurations have
    rank and alpha 16 on the backbone, 32 on the expert."""

    rank: int = 32
    """Rank of each layer's change."""
    alpha: float | None = None
    """The change is scaled by alpha / rank; null: the rank, at most 16."""
    dropout: float = 0.0
    """Share of the adapters' input that is dropped in training, in [0, 1)."""
    targets: tuple[str, ...] = (ALL,)
    """Layers that are adapted, by the ends of their names in the checkpoint (q_proj, v_proj); all-linear: every one."""

    def __post_init__(self) -> None:
        whole("lora.rank", self.rank, 1, 65_536)
        number("lora.alpha", self.scaled_by, 0)
        if not 0 <= self.dropout < 1:
            raise FoveateError(f"lora.dropout: expected a share in [0, 1), got {self.dropout}")
        if not self.targets:
            raise FoveateError(f"lora.targets: expected names of layers, or {ALL}")

    @property
    def scaled_by(self) -> float:
        """Alpha, with its default."""
        return min(self.rank, 16) if self.alpha is None else self.alpha

    def adapts(self, layer: str) -> bool:
        return any(target == ALL or f".{layer}".endswith(f".{target}") for target in self.targets)


class LowRank(nn.Module):
    """B A of one projection; a convolution's A is one of the same kernel. B starts at zero, so that nothing changes."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rows: int, rank: int) -> None:
        super().__init__()
        self.a: nn.Linear | nn.Conv2d
        self.b: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Conv2d):
            self.a = nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False)  # type: ignore[arg-type]
            self.b = nn.Conv2d(rank, rows, 1, bias=False)
        else:
            self.a, self.b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, rows, bias=False)
        nn.init.normal_(self.a.weight, std=1 / rank)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.b(self.a(x))
        return change

    def product(self) -> Tensor:
        """B A, of the shape of the projection's weight."""
        b, a = self.b.weight, self.a.weight
        return (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:])


class Adapted(nn.Module):
    """A frozen layer with an adapter for each of its parts."""

    def __init__(self, base: nn.Linear | nn.Conv2d, parts: Mapping[str, int], config: LoraConfig) -> None:
        """
        Args:
            parts: projection's name in the checkpoint -> its rows of the layer, in their order.
        """
        super().__init__()
        self.base, self.parts, self.scale = base, dict(parts), config.scaled_by / config.rank
        adapted = [(i, rows) for i, (name, rows) in enumerate(parts.items()) if config.adapts(name)]
        self.adapters = nn.ModuleDict({str(i): LowRank(base, rows, config.rank) for i, rows in adapted})
        self.dropout = nn.Dropout(config.dropout)
        self.channels = 1 if isinstance(base, nn.Conv2d) else -1

    @property
    def weight(self) -> Tensor:
        """The layer's weight with the adapters merged into it (without their dropout), in the adapters' precision."""
        pieces = list(self.base.weight.split(list(self.parts.values())))
        for i, adapter in self.adapters.items():
            pieces[int(i)] = pieces[int(i)] + self.scale * adapter.product()  # type: ignore[operator]
        return torch.cat(pieces)

    def forward(self, x: Tensor) -> Tensor:
        pieces = list(self.base(x).split(list(self.parts.values()), self.channels))
        x = self.dropout(x)
        for i, adapter in self.adapters.items():
            pieces[int(i)] = pieces[int(i)] + self.scale * adapter(x)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, self.channels)


def adapt(
    model: nn.Module, parts: Callable[[str], Mapping[str, int]], config: LoraConfig
) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Put adapters beside the layers of a model, whose own weights no longer ask for a gradient.

    Args:
        parts: layer's name in the model -> projection's name in the checkpoint -> its rows; empty: not to be adapted.
    Returns:
        projection's name in the checkpoint -> its A and B.
    Raises:
        FoveateError: a target is no layer's name.
    """
    model.requires_grad_(False)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and parts(n)}
    names = [name for layer in layers for name in parts(layer)]
    for target in config.targets:
        if target != ALL and not any(f".{name}".endswith(f".{target}") for name in names):
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise FoveateError(f"lora.targets: no layer ends in {target!r}; layers end in {ends}, or take {ALL}")
    pairs = {}
    for path, layer in layers.items():
        if any(map(config.adapts, parts(path))):
            adapted = Adapted(layer, parts(path), config)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, adapted)
            for i, part in enumerate(adapted.parts):
                if str(i) in adapted.adapters:
                    adapter: Any = adapted.adapters[str(i)]
                    pairs[part] = (adapter.a.weight, adapter.b.weight)
    return pairs


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of a model's parameters as if its layers had learned what their adapters have."""
    adapted = {f"{path}.": layer for path, layer in model.named_modules() if isinstance(layer, Adapted)}
    for name, parameter in model.named_parameters():
        path = next((path for path in adapted if name.startswith(path)), None)
        if path is None:
            yield name, parameter
        elif name == f"{path}base.weight":
            yield f"{path}weight", adapted[path].weight
        elif name == f"{path}base.bias":
            yield f"{path}bias", parameter
