"""The engine: vision, prune, prefill, denoise, each stage by a backend of its own and timed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from foveate.engine.base import Backend, Inference
from foveate.engine.timer import StageTimer
from foveate.models.base import ActionModel, LayerPruner, ModelInputs
from foveate.models.common.layers import transpose_storage
from foveate.pruning.base import Evidence, State, TokenPruner
from foveate.tracing.capture import AttentionResult, capture_attention
from foveate.types import AttentionRequest, KeepSet, Prefix, Selection


class StagedEngine:
    """Runs a model stage by stage; an `Engine`."""

    def __init__(self, model: ActionModel, vision: Backend, prefill: Backend, denoise: Backend) -> None:
        if isinstance(model, nn.Module):
            model.eval()
            if next(model.parameters()).device.type == "cpu":
                transpose_storage(model)
        self.model = model
        self._vision, self._denoise = vision.vision(model), denoise.denoise(model)
        self._prefill, self._pack = prefill.prefill(model), prefill.pack

    @torch.inference_mode()
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
        model, spec = self.model, self.model.spec
        timer = StageTimer(inputs.images.device)
        chosen: list[Selection] = []

        def prune(prefix: Prefix) -> Prefix:
            assert pruner is not None
            queries = model.extra_queries(inputs, noise, pruner.queries)
            chosen.append(pruner.select(prefix, queries, state=state, evidence=evidence))
            return self._pack(chosen[-1].apply(prefix))

        with timer("vision"):
            whole = self._vision(inputs)
        with timer("prune"):
            prefix = prune(whole) if pruner is not None and pruner.layer is None else self._pack(whole)
        watch = attention and capture_attention(
            attention, prefix, model.attention_stacks(), spec.action_horizon, steps or spec.num_steps or 1
        )
        with watch or nullcontext() as result:
            after = {}
            if pruner is not None and pruner.layer is not None:
                after[pruner.layer] = _told(prune, pruner.layer, result)
            with timer("prefill"):
                cache = self._prefill(prefix, after=after)
            with timer("denoise"):
                actions = self._denoise(cache, inputs, noise, steps)
        keep: KeepSet | None = chosen[0].keep if chosen else None
        lengths = cache.prefix.mask.sum(1)
        return Inference(actions, whole.layout, keep, whole.mask, lengths, timer.ms, result)


def _told(prune: LayerPruner, layer: int, result: AttentionResult | None) -> LayerPruner:
    """The same between two layers, with the attention that is captured told what is left."""

    def run(prefix: Prefix) -> Prefix:
        left = prune(prefix)
        if result is not None:
            result.dropped_after(layer, left)
        return left

    return run
