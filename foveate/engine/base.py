"""What an engine is: the same function as the model, at its own speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from foveate.models.pi0.model import ModelInputs
from foveate.tracing.capture import Captured
from foveate.types import AttentionRequest, KeepSet, TokenLayout


@dataclass
class Inference:
    """One batch through the model, on the device."""

    actions: Tensor
    """float32 [B, H, A], normalised."""
    layout: TokenLayout
    keep: KeepSet | None
    mask: Tensor
    """bool [B, N]: the prefix before pruning, padding and absent cameras False."""
    post_lengths: Tensor
    """int64 [B]: tokens that the backbone saw."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """vision, prune, prefill, denoise: milliseconds of the whole batch."""
    attn: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> float32 [B, heads, P], see `tracing.capture`."""
    looked: Captured | None = None
    """The attention asked for."""


class Engine(Protocol):
    """Runs one batch. Engines differ in speed, never in what they compute."""

    def run(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        *,
        num_steps: int | None = None,
        attn_layers: Sequence[int] = (),
        attention: AttentionRequest | None = None,
    ) -> Inference: ...
