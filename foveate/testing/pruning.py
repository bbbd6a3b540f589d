"""Pruning as an engine does it, for tests of the methods alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.base import pack
from foveate.models.common.layers import RMSNorm
from foveate.pruning import CONFIGS
from foveate.pruning.base import State, TokenPruner, at, patches_of
from foveate.pruning.inside import Inside, TowerAttention
from foveate.types import KeepSet, Prefix
from foveate.util.attention import attention_rows

WITHOUT_WEIGHTS = tuple(name for name in CONFIGS if name != "grids")
"""Methods that need no weights of their own, which policies made for tests do not bring."""


def quarter(name: str) -> dict[str, Any]:
    """Options of a registered method that leave a quarter of the patches, from an episode's first inference on."""
    own: dict[str, dict[str, Any]] = {"lightvla": {}, "none": {}, "vla_adp": {"keep_ratio": 0.25, "gate": False}}
    return {"name": name, **own.get(name, {"keep_ratio": 0.25})}


def prune(pruner: TokenPruner, prefix: Prefix, queries: Tensor | None = None, **options: Any) -> tuple[Prefix, KeepSet]:
    """The prefix as the backbone gets it, packed (in training: at its length, where the method keeps it)."""
    state: list[State] | None = [{} for _ in prefix.mask] if pruner.has_history else None
    selection = pruner.select(prefix, queries, **{"inside": inside_of(prefix), "state": state, **options})
    left = selection.apply(prefix)
    return (left if selection.keeps_length else pack(left)), selection.keep


@dataclass(frozen=True)
class OwnAttention:
    """Attention of two heads without weights: every token asks and answers with itself."""

    prefix: Prefix

    @property
    def keys(self) -> Tensor:
        return self._heads(self.prefix.embeds)

    def rows(self, slots: Tensor | None = None) -> Tensor:
        asking = self.prefix.embeds if slots is None else at(self.prefix.embeds, slots)
        return attention_rows(self._heads(asking), self.keys, self.prefix.mask[:, None, None])

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.detach().unflatten(-1, (2, -1)).transpose(1, 2)


class OwnLayer(nn.Module):
    """A first layer without weights: two heads of the tokens themselves."""

    def queries_keys(self, x: Tensor, rope: None) -> tuple[Tensor, Tensor]:
        heads = x.detach().unflatten(-1, (2, -1)).transpose(1, 2)
        return heads, heads


def inside_of(prefix: Prefix, number: int = 0) -> Inside:
    """A made-up model's inside, a function of each sample's own tokens."""
    with torch.no_grad():
        patches = patches_of(prefix).float()
        tower = TowerAttention(patches.norm(dim=-1), patches)
    norm: nn.Module = RMSNorm(prefix.embeds.shape[-1])
    return Inside((OwnLayer(),), norm, prefix, number, OwnAttention(prefix), tower)
