"""What an engine is: the same function as the model, at its own speed; built of a backend for each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from foveate.models.base import ActionModel, ModelInputs, PrefixCache
from foveate.pruning.base import Evidence, State, TokenPruner
from foveate.tracing.capture import AttentionResult
from foveate.types import AttentionRequest, KeepSet, Prefix, TokenLayout


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
    """int64 [B]: tokens that the backbone saw; where it dropped some on the way, those that its last layer saw."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """vision, prune, prefill, denoise: milliseconds of the whole batch."""
    attention: AttentionResult | None = None
    """The attention asked for."""


class Engine(Protocol):
    """Runs one batch. Engines differ in speed, never in what they compute."""

    model: ActionModel

    def run(
        self,
        inputs: ModelInputs,
        noise: Tensor | None,
        *,
        pruner: TokenPruner | None = None,
        steps: int | None = None,
        attention: AttentionRequest | None = None,
        evidence: Evidence = "none",
        state: Sequence[State] | None = None,
    ) -> Inference:
        """Act.

        Args:
            noise: float32 [B, *noise_shape], standard normal; None for a family that decodes without.
            pruner: chooses among the prefix's patches; None: all stay.
            steps: denoising steps; None: as the model says.
            attention: which attention rows to compute beside the inference.
            evidence: what the pruner's KeepSet shall hold beside the choice.
            state: what a pruner with a history remembers of each sample's session.
        """
        ...


class Backend(NamedTuple):
    """How one stage of a model is run: a function made once per engine from the model."""

    vision: Callable[[ActionModel], Callable[[ModelInputs], Prefix]]
    pack: Callable[[Prefix], Prefix]
    """Makes a prefix of the lengths that its `prefill` can run; `models.base.pack` where any length will do."""
    prefill: Callable[[ActionModel], Callable[..., PrefixCache]]
    denoise: Callable[[ActionModel], Callable[[PrefixCache, ModelInputs, Tensor | None, int | None], Tensor]]
