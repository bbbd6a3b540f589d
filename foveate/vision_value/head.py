"""The head: a small MLP from the text-first pass to a score for NO, COARSE and FULL.

    head = ValueHead(HeadShape.of(config, hidden_size=128))
    scores = head.scores(outcomes)          # [n, 3]; column NO is 0

A head of gains is chosen from by argmax(score - lambda * cost), with any lambda; one that learns a policy over
the actions has its lambda trained into it, and is chosen from by argmax(score).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.types import COARSE
from foveate.vision_value.config import Activation, FeatureMode, HeadConfig
from foveate.vision_value.outcomes import Outcomes

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class HeadShape:
    """All that rebuilds a head around its weights."""

    hidden_size: int
    """Width of the text-first hidden state."""
    feature_mode: FeatureMode = "hidden_entropy_margin"
    width: int = 256
    """Of the hidden layers."""
    action_space: Literal["binary", "ternary"] = "ternary"
    learns: Literal["gains", "policy"] = "gains"
    """What a score means; see the module's text."""
    layers: int = 1
    """Hidden layers."""
    activation: Activation = "gelu"

    @classmethod
    def of(cls, config: HeadConfig, hidden_size: int) -> HeadShape:
        learns: Literal["gains", "policy"] = "gains" if config.use_straight_through is None else "policy"
        return cls(
            hidden_size,
            config.feature_mode,
            config.vow_hidden_dim,
            config.action_space,
            learns,
            config.vow_hidden_layers,
            config.vow_activation,
        )

    @property
    def features(self) -> int:
        return self.hidden_size + ("entropy" in self.feature_mode) + ("margin" in self.feature_mode)


def features(outcomes: Outcomes, mode: FeatureMode) -> np.ndarray:
    """float32 [n, F]: hidden state, then entropy and margin as the mode says.

    Raises:
        FoveateError: the text-first pass was not made.
    """
    if outcomes.hidden.shape[1] == 0:
        raise FoveateError("the head reads the text-first pass, and these outcomes hold none: run the pass `text` too")
    parts = [outcomes.hidden]
    parts += [outcomes.entropy[:, None]] if "entropy" in mode else []
    parts += [outcomes.margin[:, None]] if "margin" in mode else []
    return np.concatenate(parts, axis=1).astype(np.float32)


class ValueHead(nn.Module):
    """Features are standardised with the training set's mean and deviation, which travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: HeadShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("std", torch.ones(shape.features))
        widths = [shape.features] + [shape.width] * shape.layers
        hidden: list[nn.Module] = []
        for read, made in itertools.pairwise(widths):
            hidden += [nn.Linear(read, made), ACTIVATIONS[shape.activation](), nn.Dropout(dropout)]
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], 3))

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation from the training set's features [n, F]."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0, correction=0).clamp_min(1e-4))

    def forward(self, features: Tensor) -> Tensor:
        """Scores [n, 3] less NO's; COARSE is -inf in a binary action space."""
        scores = self.net((features - self.mean) / self.std)
        scores = scores - scores[:, :1]
        if self.shape.action_space == "binary":
            scores = scores.masked_fill(torch.arange(3, device=scores.device) == COARSE, -torch.inf)
        return scores

    @torch.no_grad()
    def scores(self, outcomes: Outcomes) -> np.ndarray:
        """float64 [n, 3], in evaluation mode."""
        self.eval()
        inputs = torch.from_numpy(features(outcomes, self.shape.feature_mode)).to(self.mean.device)
        if inputs.shape[1] != self.shape.features:
            raise FoveateError(
                f"this head was trained on a text-first pass of width {self.shape.hidden_size}, and the model gives "
                f"{outcomes.hidden.shape[1]}: it belongs to another model; train one with `foveate train value`"
            )
        return self(inputs).double().cpu().numpy()
