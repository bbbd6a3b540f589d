"""What an engine is: the same function as the model, at its own speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from foveate.models.base import ActionModel, ModelInputs, PrefixCache
from foveate.models.common.real_time import GivenActions, PreviousChunk
from foveate.pruning.base import Evidence, State, TokenPruner
from foveate.tracing.capture import AttentionResult
from foveate.types import AttentionRequest, KeepSet, TokenLayout
from foveate.util.progress import SILENT, Reporter


@dataclass(frozen=True)
class Prefilled:
    """One batch up to where its actions are decoded; what a later inference may go on from."""

    layout: TokenLayout
    keep: KeepSet | None
    mask: Tensor
    """bool [B, N]: the prefix before pruning."""
    cache: PrefixCache


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
    layer_tokens: Tensor | None = None
    """int64 [B, layers]: tokens that each backbone layer saw, 0 for one that did not run; None: all the same."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """vision, prune, prefill, denoise: milliseconds of the whole batch."""
    attention: AttentionResult | None = None
    """The attention asked for."""
    prefilled: Prefilled | None = None
    """To go on from; None where an engine does not hand it out."""
    patches: Tensor | None = None
    """[B, P, D]: the patches before pruning, where views are looked at at several levels; None: they are not."""


def fell_back(report: Mapping[str, Any]) -> list[str]:
    """Sentences about what ran as written all the same, out of an engine's report."""
    told = [f"queries ran as written, whatever the engine: {reason}" for reason in report.get("queries_as_written", {})]
    if report.get("parts_as_written"):
        told.append("shapes that the engine was not prepared for ran as written")
    return told


class Engine(Protocol):
    """Runs one batch. Engines differ in speed, never in what they compute."""

    model: ActionModel

    def prepare(
        self, inputs: ModelInputs, noise: Tensor | None, pruner: TokenPruner | None = None, report: Reporter = SILENT
    ) -> None:
        """Do before the first query what takes long: compile.

        Args:
            inputs: a batch of the size that queries have.
            pruner: that will choose.
        """
        ...

    def report(self) -> dict[str, Any]:
        """What results say about the engine; plain values."""
        ...

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
        prefilled: Prefilled | None = None,
        previous: PreviousChunk | GivenActions | None = None,
    ) -> Inference:
        """Act.

        Args:
            noise: float32 [B, *noise_shape], standard normal; None for a family that decodes without.
            pruner: chooses among the prefix's patches; None: all stay.
            steps: denoising steps; None: as the model says.
            attention: which attention rows to compute beside the inference.
            evidence: what the pruner's KeepSet shall hold beside the choice.
            state: what a pruner with a history remembers of each sample's session.
            prefilled: of an earlier inference, to decode from instead of looking anew.
            previous: what is left of the chunk before, which the new one is guided towards.
        Raises:
            FoveateError: a previous chunk, and the family or this engine cannot guide.
        """
        ...
