"""The reference engine: PyTorch as written, exactly packed, each stage timed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from foveate.engine.base import Inference
from foveate.engine.timer import StageTimer
from foveate.models.base import pack
from foveate.models.common.layers import transpose_storage
from foveate.models.pi0.model import ModelInputs, Pi0
from foveate.tracing.capture import capture_attention, capture_task_to_vis
from foveate.types import AttentionRequest


class EagerEngine:
    """Any shape, any device, any pruner."""

    def __init__(self, model: Pi0) -> None:
        self.model = model.eval()
        if next(model.parameters()).device.type == "cpu":
            transpose_storage(model)

    @torch.inference_mode()
    def run(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        *,
        num_steps: int | None = None,
        attn_layers: Sequence[int] = (),
        attention: AttentionRequest | None = None,
    ) -> Inference:
        model = self.model
        timer = StageTimer(noise.device)
        with timer("vision"):
            whole = model.embed_prefix(inputs)
        with timer("prune"):
            prefix, keep = model.prune(whole, inputs, noise)
            prefix = pack(prefix)
        watch = attention and capture_attention(
            attention,
            prefix,
            model.llm.layers,
            model.expert.layers,
            actions=model.config.action_horizon,
            steps=len(model.times(num_steps or model.config.num_steps)),
        )
        with watch or nullcontext() as looked:
            with timer("prefill"), capture_task_to_vis(model.llm.layers, attn_layers, prefix) as attn:
                cache = model.prefill(prefix)
            with timer("denoise"):
                actions = model.denoise(cache, inputs.state, noise, num_steps)
        return Inference(actions, whole.layout, keep, whole.mask, prefix.mask.sum(1), timer.ms, attn, looked)
