"""How the toy is trained: all weights, mean squared error, and the folder that it came in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.data.demos import DemoEpisode
from foveate.models.base import ModelInputs, ModelOptions
from foveate.training.loop import Share
from foveate.training.policy.data import DemoSource, make_samples
from foveate.training.policy.objective import PolicyObjective
from foveate.types import Observation
from toy_oft.load import ToyInfo, load


class ToyBatch(NamedTuple):
    inputs: ModelInputs
    actions: Tensor

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(self.inputs.to(device), self.actions.to(device))


class ToyObjective(PolicyObjective):
    def forward(self, batch: ToyBatch) -> Tensor:
        cache = self.model.prefill(self.model.embed_prefix(batch.inputs))
        return (self.model.decode(cache, batch.inputs, None, None) - batch.actions).square().mean()


class ToySource(DemoSource):
    def batch(self, share: Share) -> ToyBatch:
        index = self.rows(share.step, share.size)[share.start : share.stop]
        seen = []
        for i in index.tolist():
            pictures = self.samples.images[i].permute(0, 2, 3, 1).numpy()
            images = dict(zip(self.processor.spec.views, pictures, strict=True))
            seen.append(Observation(images, self.samples.states[i], self.samples.prompts[i]))
        return ToyBatch(self.processor.inputs(seen), self.samples.actions[index])


class ToyRecipe:
    def __init__(self, info: ToyInfo, config: Any) -> None:
        self.info, self.config = info, config
        model, self.processor = load(info, ModelOptions())
        self.robot = self.processor.robot
        self.objective = ToyObjective(model, config.pruner_noise)

    def source(self, episodes: list[DemoEpisode]) -> ToySource:
        source = ToySource(make_samples(episodes, self.processor), self.config.data, self.config.seed)
        source.processor = self.processor
        return source

    def export(self, out: Path, steps: int, train_config: Mapping[str, Any], tasks: list[str]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        described = {"robot": "metaworld", "views": list(self.info.spec.views)}
        (out / "toy.json").write_text(json.dumps(described))
        save_file(self.objective.model.state_dict(), out / "weights.safetensors")
