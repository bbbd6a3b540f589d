"""L1 regression as OpenVLA-OFT trains it: the mean distance of the chunk's numbers from the demonstrated ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.models.base import ModelInputs
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.pruning.inference import Pruning
from foveate.training.policy.objective import PolicyObjective


@dataclass(frozen=True)
class ChunkBatch:
    """One process's rows of a batch of B samples."""

    inputs: ModelInputs
    actions: Tensor
    """float32 [B, H, A], normalised."""
    mask: Tensor
    """bool [B, H]: False where the chunk reaches beyond the episode's end."""

    def to(self, device: torch.device | str) -> ChunkBatch:
        return ChunkBatch(**{name: value.to(device) for name, value in vars(self).items()})


class L1Regression(PolicyObjective):
    """OpenVLA-OFT with its loss and pruner. State and actions stand in the sequence, where a pruner finds them."""

    model: OpenVLAOFT

    def forward(self, batch: ChunkBatch) -> Tensor:
        """The mean absolute error over all elements of the batch; masked ones count as 0, as in flow matching."""
        passage = None if self.pruner is None else Pruning(self.pruner, self.model, batch.inputs, None)
        error = self.model(batch.inputs, batch.actions, passage)
        return (error * batch.mask[..., None]).mean()
